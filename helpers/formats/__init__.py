r"""Read instruction data in the formats that people have, and convert it to one.

The parts know nothing of each other's details:

1. `files` and `reading`: a path becomes numbered records, whatever its container;
2. `families` (with `turns`, `preferences`, `trees`, `conll`): the columns of those
   records say which family they belong to, and a converter turns one record of it
   into messages, text or compared answers;
3. `shapes` and `writing`: what a trainer takes, in memory or as a file.

What cannot be converted is never dropped in silence: it comes back as a `Rejection`
that names file, row, field and reason. A file that cannot be read at all, or whose
format would have to be guessed, raises `DataError`.

>>> conversion = convert(
...     [
...         {"instruction": "Add.", "input": "2 and 3", "output": "5"},
...         {"instruction": "Say hello.", "input": "<noinput>", "output": " "},
...     ]
... )
>>> conversion.format
'alpaca'
>>> conversion.rows[0]["messages"][0]
{'role': 'user', 'content': 'Add.\n\n2 and 3'}
>>> print(conversion.rejected[0])
row 2, field 'output': is blank

Source: one pinned real file of each family, for example
https://github.com/rasbt/LLMs-from-scratch/tree/28c65cdfbc33/ch07 (Alpaca),
https://github.com/Lightning-AI/litgpt/tree/26857050fe3f/tests/data (Dolly),
https://github.com/lm-sys/FastChat/tree/0e6d3e4beaab/data (ShareGPT),
https://github.com/hiyouga/LLaMA-Factory/tree/ff6d4d12eeb0/data (messages, preferences),
https://github.com/google-research/FLAN/tree/e9e4ec6e2701/flan/v2/cot_data (FLAN).
"""

from helpers.formats.conversion import (
    Report,
    convert,
    convert_file,
    describe,
    detect,
    load,
    records,
)
from helpers.formats.families import FAMILIES, Column, Family, Options
from helpers.formats.results import Conversion, DataError, Record, Rejection
from helpers.formats.shapes import SHAPES
from helpers.formats.writing import write_jsonl

__all__ = [
    "FAMILIES",
    "SHAPES",
    "Column",
    "Conversion",
    "DataError",
    "Family",
    "Options",
    "Record",
    "Rejection",
    "Report",
    "convert",
    "convert_file",
    "describe",
    "detect",
    "load",
    "records",
    "write_jsonl",
]
