r"""Read instruction data in the formats that people have, and convert it to one.

The module has three parts that know nothing of each other's details:

1. *containers*: a file becomes numbered records (JSON, JSON Lines, CSV, TSV, gzip);
2. *recognisers*: the columns of those records say which family they belong to;
3. *converters*: one record of a known family becomes one training row.

A family is one entry of `FAMILIES`: its recogniser, its converter, its columns.
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
https://github.com/hiyouga/LLaMA-Factory/tree/ff6d4d12eeb0/data (messages).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Message = dict[str, Any]
Converter = Callable[[Row], dict[str, Any]]


class DataError(ValueError):
    """Data that cannot be read, or whose format would have to be guessed."""


@dataclass(frozen=True)
class Rejection:
    """One input row that was not converted, and why.

    Attributes:
        file: The path as the caller gave it, or "" for rows from memory.
        row: The 1-based number of the record; blank lines and a header do not count.
        field: The column at fault, such as `"output"` or `"messages[1].content"`;
            "" where the whole row is at fault.
        reason: What was found, with the line number where it differs from the row.
    """

    file: str
    row: int
    field: str
    reason: str

    def __str__(self) -> str:
        """Return place and reason in one line."""
        file = f"{self.file}, " if self.file else ""
        column = f", field '{self.field}'" if self.field else ""
        return f"{file}row {self.row}{column}: {self.reason}"


@dataclass
class Conversion:
    """The rows of one source in one shape: `len(rows) + len(rejected)` rows came in.

    Attributes:
        rows: `{"messages": [{"role", "content"}, ...]}`, or `{"text": str}` for the
            format "text"; with a key "meta" where the caller asked for it. Roles are
            system, user, assistant and tool; a message with calls also has
            "tool_calls".
        rejected: The rows that were left out.
        format: The name of the family, a key of `FAMILIES`.
    """

    rows: list[dict[str, Any]]
    rejected: list[Rejection]
    format: str


def load(
    path: str | os.PathLike[str], *, format: str | None = None, keep_meta: bool = False
) -> Conversion:
    """Read a data file and convert its rows.

    Takes a JSON array, JSON Lines (under any name), one JSON object, CSV and TSV with a
    header line, in UTF-8 with or without a byte-order mark, and each of them gzipped.

    Args:
        path: The file.
        format: A name in `FAMILIES`; None detects it.
        keep_meta: Keep the columns that the format does not use in `row["meta"]`.

    Raises:
        DataError: There is no such file, it is a folder, empty, a Git LFS pointer, not
            UTF-8 or broken as a whole, or its format is unknown or ambiguous.
    """
    file = os.fspath(path)
    records = list(_read(Path(path), file))
    if not records:
        raise DataError(f"{file} holds no rows: check how it was written.")
    return _convert(records, format=format, file=file, keep_meta=keep_meta)


def convert(
    rows: Iterable[Any],
    *,
    format: str | None = None,
    file: str = "",
    keep_meta: bool = False,
) -> Conversion:
    """Convert rows in memory to messages (or to text, for the format "text").

    White space at the edges of prompts and answers is kept: a leading space carries
    meaning for a tokenizer. A top-level column "system" becomes the first message.

    Args:
        rows: Mappings, for example from `json.load` or a `datasets.Dataset`; anything
            else is reported.
        format: A name in `FAMILIES`; None detects it.
        file: The name to report.
        keep_meta: Keep the columns that the format does not use in `row["meta"]`.

    Raises:
        DataError: The format is unknown or ambiguous.

    >>> convert([{"prompt": "2 + 3 =", "completion": " 5"}]).rows[0]["messages"][1]
    {'role': 'assistant', 'content': ' 5'}
    """
    records = [_Record(number, row) for number, row in enumerate(rows, 1)]
    return _convert(records, format=format, file=file, keep_meta=keep_meta)


def detect(rows: Iterable[Any], *, name: str = "") -> str:
    """Return the format of the rows, judged by the columns of all of them.

    Args:
        rows: Mappings; anything else is ignored.
        name: What to call the rows in an error.

    Returns:
        A name in `FAMILIES`.

    Raises:
        DataError: The columns fit no format, or more than one.

    >>> detect([{"question": "2 + 3?", "answer": "5"}])
    'question_answer'
    """
    records = [_Record(number, row) for number, row in enumerate(rows, 1)]
    return _detect(records, name=name).name


def write_jsonl(rows: Iterable[Any], path: str | os.PathLike[str]) -> None:
    """Write rows as JSON Lines, all or nothing.

    The rows go to a new file beside the target, which then takes the target's name. A
    write that fails or is interrupted leaves the target as it was, and no other file.

    Args:
        rows: Values that JSON can hold, one line each.
        path: The target; its folder must exist. Compression is not offered.

    Raises:
        DataError: A row cannot be written as JSON, or the file cannot be written.
    """
    target = Path(os.path.realpath(path))  # replace what a link points to, not the link
    if target.suffix == ".gz":
        raise DataError(f"{path} would hold plain text: choose a name without .gz.")
    part = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    try:
        try:
            with part.open("x", encoding="utf-8", newline="\n") as handle:
                for number, row in enumerate(rows, 1):
                    handle.write(_line(row, number, path))
                handle.flush()
                os.fsync(handle.fileno())
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} could not be written ({error.strerror or error}): nothing there "
            f"was changed, so make room or choose another folder and write again."
        ) from error


def _line(row: Any, number: int, path: str | os.PathLike[str]) -> str:
    try:
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        line.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path}: row {number} cannot be written as JSON ({error}), so nothing was "
            f"written: mend or leave out the row."
        ) from error
    return line + "\n"


# --------------------------------------------------------------- records and containers


class _Record(NamedTuple):
    """One record of a container; `problem` says why there is no value."""

    row: int
    value: Any
    line: int = 0
    problem: str = ""


_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_GZIP_MAGIC = b"\x1f\x8b"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_SPACE = " \t\r\n"
_DECODER = json.JSONDecoder()


def _read(path: Path, file: str) -> Iterator[_Record]:
    """Yield the records of a file of any container."""
    text = _decode(_unpack(_bytes(path, file), file), file)
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix
    if suffix in _DELIMITERS:
        return _table(text, file, _DELIMITERS[suffix])
    return _json(text, file, named_lines=suffix in {".jsonl", ".ndjson"})


def _bytes(path: Path, file: str) -> bytes:
    if path.is_dir():
        raise DataError(f"{file} is a folder: pass one of the files in it.")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{file} does not exist: check the name and the working folder."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{file!r} cannot be read ({reason}): check its name and permissions."
        ) from error
    if data.startswith(_LFS_POINTER):
        raise DataError(
            f"{file} is a Git LFS pointer and not the data: run `git lfs pull` in its "
            f"repository."
        )
    return data


def _unpack(data: bytes, file: str) -> bytes:
    # The first bytes decide, not the name: some clients unpack a .gz on the way.
    if not data.startswith(_GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{file} is a broken gzip file ({error}): fetch or write it again."
        ) from error


def _decode(data: bytes, file: str) -> str:
    try:
        text = data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        found = (
            "it looks like UTF-16"
            if data.startswith(_UTF16_MARKS)
            else f"byte 0x{data[error.start]:02x}"
        )
        raise DataError(
            f"{file} is not UTF-8 ({found} at byte offset {error.start}): save it as "
            f"UTF-8, or as JSON Lines if it is a binary table."
        ) from error
    if not text.strip():
        raise DataError(f"{file} is empty: check how it was written or fetched.")
    return text


def _json(text: str, file: str, *, named_lines: bool) -> Iterator[_Record]:
    """Tell an array, one object and JSON Lines apart by their content."""
    start = len(text) - len(text.lstrip(_JSON_SPACE))
    value, end, problem = None, start, ""
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        problem = _json_problem(error, with_line=True)
    if not problem and not text[end:].strip(_JSON_SPACE):
        return _whole(value, file)
    one_line = isinstance(value, dict | list) and "\n" not in text[start:end]
    if one_line or (named_lines and text[start] != "[") or _is_lines(text, start):
        return _lines(text)
    if text[start] not in "[{":
        raise DataError(
            f"{file} is neither JSON nor JSON Lines: name it .csv or .tsv if it is a "
            f"table with a header line."
        )
    if not problem:
        line = text.count("\n", 0, end) + 1
        problem = f"more text after its end in line {line}"
    raise DataError(
        f"{file} is broken or half-written JSON ({problem}): fetch or write it again."
    )


def _whole(value: Any, file: str) -> Iterator[_Record]:
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise DataError(
            f"{file} holds only {_kind_name(value)}: rows are JSON objects, in an "
            f"array or one a line."
        )
    return (_Record(number, row) for number, row in enumerate(value, 1))


def _lines(text: str) -> Iterator[_Record]:
    # Not str.splitlines: JSON strings may hold U+2028 and other line separators.
    lines = ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())
    for row, (number, line) in enumerate(lines, 1):
        try:
            yield _Record(row, json.loads(line), number)
        except (ValueError, RecursionError) as error:
            yield _Record(row, None, number, f"is not JSON ({_json_problem(error)})")


def _is_lines(text: str, start: int) -> bool:
    """Tell JSON Lines with a broken first line from one broken JSON value."""
    objects = [isinstance(record.value, dict) for record in _lines(text)]
    # The last line of a half-written array may be an object: one is not enough.
    return 2 * sum(objects) >= len(objects) + (text[start] == "[")


def _json_problem(error: Exception, *, with_line: bool = False) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        line = f"line {error.lineno}, " if with_line else ""
        return f"{error.msg} at {line}column {error.colno}"
    return "a number with too many digits"


def _table(text: str, file: str, delimiter: str) -> Iterator[_Record]:
    """Yield the rows of a table with a header line, as mappings of strings."""
    # The csv module keeps one process-wide limit (131,072 characters a field).
    limit = csv.field_size_limit()
    csv.field_size_limit(max(limit, len(text)))
    try:
        found = _table_rows(text, file, delimiter)
        line, header, problem = next(found)
        header = [name.strip() for name in header]
        repeated = {name for name in header if header.count(name) > 1}
        if problem or repeated:
            problem = problem or f"the column {_quoted(repeated)} comes twice"
            raise DataError(
                f"{file} has an unusable header in line {line} ({problem}): give each "
                f"column one name."
            )
        for row, (line, fields, problem) in enumerate(found, 1):
            if not problem and len(fields) != len(header):
                problem = (
                    f"has {len(fields)} fields where the header has {len(header)}: "
                    f"quote fields that hold the separator"
                )
            value = None if problem else dict(zip(header, fields, strict=True))
            yield _Record(row, value, line, problem)
    finally:
        csv.field_size_limit(limit)


def _table_rows(
    text: str, file: str, delimiter: str
) -> Iterator[tuple[int, list[str], str]]:
    """Yield first line, fields and problem of each row that is not blank."""
    # strict: otherwise a quote that is never closed swallows the rest in silence.
    lines = io.StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line, fields, problem = reader.line_num + 1, [], ""
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise DataError(
                    f"{file} has a quote in the row that starts in line {line} that is "
                    f"never closed: close it or double it."
                ) from error
            problem = f"is not valid CSV ({error})"
        if fields or problem:
            yield line, fields, problem


# ------------------------------------------------------------------- detect and convert


@dataclass
class Column:
    """What the rows hold under one key.

    Attributes:
        kinds: "from" or "role" (lists of turns, named after the turns' key), "empty"
            (an empty list), "bool", "null" (also NaN and blank text) or "other".
        count: The number of rows that have the key.
        first: The first of them.
    """

    kinds: set[str] = field(default_factory=set)
    count: int = 0
    first: int = 0


Columns = Mapping[str, Column]
Recogniser = Callable[[Columns], tuple[str, ...]]


@dataclass(frozen=True)
class Family:
    """One format: how to recognise it and how to convert a row of it.

    Attributes:
        name: The name that `format=` takes.
        recognise: Returns the columns that speak for this family, or nothing.
        convert: Turns one row into messages or text; None for a family that is
            recognised, so that it is not taken for another, but not converted.
        columns: All columns that the family uses; the others are meta data.
    """

    name: str
    recognise: Recogniser
    convert: Converter | None
    columns: frozenset[str]


class _RejectError(Exception):
    """Raised by converters for the row at hand; never leaves this module."""

    def __init__(self, column: str, reason: str) -> None:
        super().__init__(column, reason)
        self.column = column
        self.reason = reason


def _convert(
    records: list[_Record], *, format: str | None, file: str, keep_meta: bool
) -> Conversion:
    family = _detect(records, name=file) if format is None else _named(format)
    done = Conversion([], [], family.name)
    for record in records:
        try:
            done.rows.append(_convert_record(record, family, keep_meta=keep_meta))
        except _RejectError as error:
            reason = error.reason
            if record.line not in (0, record.row):
                reason += f" (line {record.line})"
            done.rejected.append(Rejection(file, record.row, error.column, reason))
    return done


def _convert_record(
    record: _Record, family: Family, *, keep_meta: bool
) -> dict[str, Any]:
    row = record.value
    if record.problem:
        raise _RejectError("", record.problem)
    if not isinstance(row, Mapping):
        raise _RejectError("", f"is {_kind_name(row)}, not an object")
    for column in _MEDIA:
        if not _is_empty(row.get(column)):
            raise _RejectError(column, "holds media, which a text-only row would lose")
    try:
        converted = family.convert(row)
    except RecursionError:
        raise _RejectError("", "is nested too deeply") from None
    if keep_meta:
        extra = {key: row[key] for key in row if key not in family.columns}
        converted["meta"] = extra
    return converted


def _named(format: str) -> Family:
    family = FAMILIES.get(format)
    if family is None or family.convert is None:
        raise DataError(
            f"format={format!r} is not known: pass one of {_quoted(_convertible())}."
        )
    return family


def _detect(records: list[_Record], *, name: str) -> Family:
    name = name or "the data"
    columns = _columns(records)
    if not columns:
        problem = _first_problem(records)
        raise DataError(f"{name} has no row that is an object with columns{problem}.")
    found = _recognised(columns)
    if len(found) > 1:
        # Columns without any value, which exporters add, make nothing ambiguous.
        filled = {k: c for k, c in columns.items() if c.kinds - {"null", "empty"}}
        found = _recognised(filled) or found
    if not found:
        raise DataError(
            f"{name} fits no known format with the columns {_quoted(columns)}: rename "
            f"the columns, or pass format= one of {_quoted(_convertible())}."
        )
    usable = [family for family in found if family.convert]
    if len(found) == 1 and usable:
        return usable[0]
    total = sum(isinstance(record.value, Mapping) for record in records)
    evidence = " or ".join(
        f"{family.name} ({_evidence(columns, names, total)})"
        for family, names in found.items()
    )
    if not usable:
        raise DataError(
            f"{name} is {evidence}, which is not converted: put the answers to learn "
            f"under the columns of one of {_quoted(_convertible())}."
        )
    advice = " or ".join(f"format={family.name!r}" for family in usable)
    raise DataError(f"{name} could be {evidence}: pass {advice}.")


def _recognised(columns: Columns) -> dict[Family, tuple[str, ...]]:
    found = {family: family.recognise(columns) for family in FAMILIES.values()}
    return {family: names for family, names in found.items() if names}


def _columns(records: Iterable[_Record]) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    for record in records:
        if not isinstance(record.value, Mapping):
            continue
        for key, value in record.value.items():
            column = columns.setdefault(key, Column(first=record.row))
            column.count += 1
            column.kinds.add(_kind(key, value))
    return columns


def _kind(key: str, value: Any) -> str:
    if key in _TURN_COLUMNS:
        value = _parsed(value)
    if _is_blank(value):
        return "null"
    if isinstance(value, list):
        turns = [turn for turn in value if isinstance(turn, Mapping)]
        for turn_key in ("from", "role"):
            if any(turn_key in turn for turn in turns):
                return turn_key
        return "other" if value else "empty"
    return "bool" if isinstance(value, bool) else "other"


def _first_problem(records: list[_Record]) -> str:
    if not records:
        return " and is empty"
    record = records[0]
    return f": row 1 {record.problem or f'is {_kind_name(record.value)}'}"


def _evidence(columns: Columns, names: Iterable[str], total: int) -> str:
    count = min(columns[name].count for name in names)
    first = max(columns[name].first for name in names)
    return f"{_quoted(names)} in {count} of {total} rows, first in row {first}"


def _quoted(names: Iterable[Any]) -> str:
    shown = [repr(str(name)[:40]) for name in names]
    rest = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    return ", ".join(shown[:10]) + rest


# ---------------------------------------------------------------------- values of a row

# How one row says that the instruction has no input. "Na" (sodium) is not among them.
_NO_INPUT = re.compile(
    r"""[<\[({\s]*
    ( no[\W_]*inputs?([\W_]*(is[\W_]*)?(required|needed|necessary|provided|given))?
    | n\s*/\s*a | n\.\s*a | none | null | nan | not[\W_]*applicable )
    [>\])}\s.]*""",
    re.IGNORECASE | re.VERBOSE,
)
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_WEIGHTS = ("weight", "loss_weight")  # OpenAI's and LLaMA-Factory's, one for each turn
_TURN_COLUMNS = ("messages", "conversations")
_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}


def _is_null(value: Any) -> bool:
    # pandas marks a missing cell with NaN, the one value that differs from itself.
    return value is None or (isinstance(value, float) and value != value)


def _is_blank(value: Any) -> bool:
    return _is_null(value) or (isinstance(value, str) and not value.strip())


def _is_empty(value: Any) -> bool:
    return _is_blank(value) or (isinstance(value, Sized) and len(value) == 0)


def _kind_name(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    if _is_null(value):
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return names.get(type(value), f"a {type(value).__name__}")


def _parsed(value: Any) -> Any:
    """Parse a list that was stored as JSON text, as in a CSV cell."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def _text(row: Row, column: str, label: str = "") -> str:
    """Return the text under a column, untouched, or reject the row."""
    if column not in row:
        raise _RejectError(label or column, "is missing")
    value = row[column]
    if _is_null(value):
        raise _RejectError(label or column, "is null")
    if not isinstance(value, str):
        raise _RejectError(label or column, f"is {_kind_name(value)}, not text")
    if not value.strip():
        raise _RejectError(label or column, "is blank")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        reason = f"holds half a surrogate pair at character {error.start}"
        raise _RejectError(label or column, reason) from error
    return value


def _only(row: Row, columns: tuple[str, ...], *, advice: str) -> str:
    """Return the one column that is filled; the first if none is."""
    present = [column for column in columns if column in row]
    filled = [column for column in present if not _is_blank(row[column])]
    if any(row[column] != row[filled[0]] for column in filled[1:]):
        raise _RejectError("/".join(filled), f"differ: {advice}")
    return (filled or present or columns)[0]


def _with_system(row: Row, messages: list[Message]) -> dict[str, Any]:
    """Return the finished row, a top-level system text first."""
    if _is_blank(row.get("system")):
        return {"messages": messages}
    system = {"role": "system", "content": _text(row, "system")}
    if messages[0]["role"] != "system":
        return {"messages": [system, *messages]}
    if messages[0]["content"] != system["content"]:
        raise _RejectError("system", "differs from the system turn: keep one of them")
    return {"messages": messages}


def _require_answer(messages: list[Message], column: str) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        reason = "has no assistant turn, so there is nothing to learn"
        raise _RejectError(column, reason)


# -------------------------------------------------------------------------- families

_ANSWERS = ("output", "response")
_PAIRS = {
    "prompt": ("completion", "response", "answer"),
    "input": ("output",),
    "source": ("target",),
}
_QUESTIONS = {"question": ("answer",)}


def _recognise_alpaca(columns: Columns) -> tuple[str, ...]:
    if "context" in columns and "input" not in columns:
        return ()
    return _instruction_evidence(columns, "input")


def _recognise_dolly(columns: Columns) -> tuple[str, ...]:
    if "context" not in columns:
        return ()
    return _instruction_evidence(columns, "context")


def _instruction_evidence(columns: Columns, extra: str) -> tuple[str, ...]:
    answers = [column for column in _ANSWERS if column in columns]
    if "instruction" not in columns or not answers:
        return ()
    return ("instruction", *({extra} & columns.keys()), *answers)


def _instruction_converter(extra: str) -> Converter:
    """Convert an instruction, with the optional text under `extra`, and its answer."""

    def convert_row(row: Row) -> dict[str, Any]:
        content = _text(row, "instruction")
        given = row.get(extra)
        if not _is_blank(given) and not _is_no_input(_text(row, extra)):
            content += f"\n\n{given}"
        answer = _text(row, _only(row, _ANSWERS, advice="drop one of these columns"))
        return _with_system(row, _exchange(content, answer))

    return convert_row


def _is_no_input(value: str) -> bool:
    return len(value) < 60 and _NO_INPUT.fullmatch(value) is not None


def _exchange(prompt: str, answer: str) -> list[Message]:
    return [
        {"role": "user", "content": prompt},
        {"role": "assistant", "content": answer},
    ]


def _turns_recogniser(key: str, home: str) -> Recogniser:
    """Recognise lists of turns by the turns' own key, under either column."""

    def recognise(columns: Columns) -> tuple[str, ...]:
        found = [c for c in _TURN_COLUMNS if c in columns and key in columns[c].kinds]
        # Nothing but empty lists: the column's name alone must decide.
        if not found and home in columns and columns[home].kinds <= {"null", "empty"}:
            found = [home]
        return tuple(found)

    return recognise


def _turns_converter(key: str, value: str, home: str) -> Converter:
    def convert_row(row: Row) -> dict[str, Any]:
        columns = (home, *(column for column in _TURN_COLUMNS if column != home))
        column = _only(row, columns, advice="drop one of these columns")
        if column not in row:
            raise _RejectError(column, "is missing")
        messages = _messages(row[column], column, key=key, value=value)
        _require_answer(messages, column)
        return _with_system(row, messages)

    return convert_row


def _messages(
    turns: Any, column: str, *, key: str = "role", value: str = "content"
) -> list[Message]:
    turns = _parsed(turns)
    if not isinstance(turns, list) or not turns:
        raise _RejectError(column, f"is {_kind_name(turns)}, not a list of turns")
    return [
        _message(turn, f"{column}[{index}]", key, value)
        for index, turn in enumerate(turns)
    ]


def _message(turn: Any, place: str, key: str, value: str) -> Message:
    if not isinstance(turn, Mapping):
        raise _RejectError(place, f"is {_kind_name(turn)}, not an object")
    name = _text(turn, key, f"{place}.{key}")
    if name not in _ROLES:
        known = ", ".join(_ROLES)
        raise _RejectError(
            f"{place}.{key}",
            f"is the unknown role {_quoted([name])}: known are {known}",
        )
    role, calls = _ROLES[name], turn.get("tool_calls")
    for weight in _WEIGHTS if role == "assistant" else ():
        if turn.get(weight) not in (None, 1):
            reason = (
                "is not 1, but all answers are learned in full: drop it or the turn"
            )
            raise _RejectError(f"{place}.{weight}", reason)
    if role == "assistant" and isinstance(calls, list) and calls:
        content = "" if _is_blank(turn.get(value)) else _content(turn, value, place)
        return {"role": role, "content": content, "tool_calls": calls}
    return {"role": role, "content": _content(turn, value, place)}


def _content(turn: Row, value: str, place: str) -> str:
    """Return the text of a turn; text parts are joined with nothing in between."""
    parts = turn.get(value)
    if not isinstance(parts, list):
        return _text(turn, value, f"{place}.{value}")
    texts = []
    for index, part in enumerate(parts):
        label = f"{place}.{value}[{index}]"
        if not isinstance(part, Mapping) or part.get("type") != "text":
            raise _RejectError(label, "is not a text part, and only text is converted")
        # "text" is the usual key; LLaMA-Factory's files call it "value".
        key = "value" if "value" in part and "text" not in part else "text"
        if not isinstance(part.get(key), str):
            raise _RejectError(f"{label}.{key}", "is not text")
        texts.append(part[key])
    return _text({value: "".join(texts)}, value, f"{place}.{value}")


def _pairs_recogniser(pairs: Mapping[str, tuple[str, ...]]) -> Recogniser:
    """Recognise a prompt column beside one of its answer columns."""

    def recognise(columns: Columns) -> tuple[str, ...]:
        found: list[str] = []
        for prompt, answers in pairs.items():
            present = [answer for answer in answers if answer in columns]
            # Beside an instruction, input and output are Alpaca's columns.
            alpaca = prompt == "input" and "instruction" in columns
            if prompt in columns and present and not alpaca:
                found += [prompt, *present]
        return tuple(found)

    return recognise


def _pairs_converter(pairs: Mapping[str, tuple[str, ...]]) -> Converter:
    """Convert the one pair that a row has."""

    def convert_row(row: Row) -> dict[str, Any]:
        prompts = [
            prompt
            for prompt, answers in pairs.items()
            if prompt in row and any(answer in row for answer in answers)
        ]
        if len(prompts) > 1:
            raise _RejectError("/".join(prompts), "are all prompts: keep one pair")
        present = [prompt for prompt in pairs if prompt in row]
        prompt = (prompts or present or list(pairs))[0]
        asked = _side(row, prompt, "user")
        answer = _only(row, pairs[prompt], advice="drop one of these columns")
        answered = _side(row, answer, "assistant")
        _require_answer(answered, answer)
        return _with_system(row, asked + answered)

    return convert_row


def _side(row: Row, column: str, role: str) -> list[Message]:
    """Return one side of a pair, which is a text or a list of messages."""
    if isinstance(row.get(column), list):
        return _messages(row[column], column)
    return [{"role": role, "content": _text(row, column)}]


def _recognise_text(columns: Columns) -> tuple[str, ...]:
    # Beside a label it is classification data, whose target would be lost.
    return ("text",) if "text" in columns and "label" not in columns else ()


def _convert_text(row: Row) -> dict[str, Any]:
    return {"text": _text(row, "text")}


def _recognise_preference(columns: Columns) -> tuple[str, ...]:
    """Recognise pairs of answers, and answers marked good or bad (KTO)."""
    if "chosen" in columns and "rejected" in columns:
        return ("chosen", "rejected")
    return ("label",) if "label" in columns and "bool" in columns["label"].kinds else ()


def _convertible() -> list[str]:
    return [family.name for family in FAMILIES.values() if family.convert]


FAMILIES: Mapping[str, Family] = {
    family.name: family
    for family in (
        Family(
            "alpaca",
            _recognise_alpaca,
            _instruction_converter("input"),
            frozenset({"instruction", "input", "output", "response", "system"}),
        ),
        Family(
            "dolly",
            _recognise_dolly,
            _instruction_converter("context"),
            frozenset({"instruction", "context", "output", "response", "system"}),
        ),
        Family(
            "sharegpt",
            _turns_recogniser("from", home="conversations"),
            _turns_converter("from", "value", home="conversations"),
            frozenset({*_TURN_COLUMNS, "system"}),
        ),
        Family(
            "messages",
            _turns_recogniser("role", home="messages"),
            _turns_converter("role", "content", home="messages"),
            frozenset({*_TURN_COLUMNS, "system"}),
        ),
        Family(
            "prompt_completion",
            _pairs_recogniser(_PAIRS),
            _pairs_converter(_PAIRS),
            frozenset({*_PAIRS, *sum(_PAIRS.values(), ()), "system"}),
        ),
        Family(
            "question_answer",
            _pairs_recogniser(_QUESTIONS),
            _pairs_converter(_QUESTIONS),
            frozenset({"question", "answer", "system"}),
        ),
        Family("text", _recognise_text, _convert_text, frozenset({"text"})),
        Family(
            "preference",
            _recognise_preference,
            None,
            frozenset({"chosen", "rejected", "label"}),
        ),
    )
}
