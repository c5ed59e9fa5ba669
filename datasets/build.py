"""Builds every dataset from the lexicons: `make data`.

Deterministic: the same lexicons give the same bytes. What a person wrote (lexicons,
`irony/written.jsonl`, the cards) is read; in a card only the sample is rewritten.

    python datasets/build.py             # the committed files
    python datasets/build.py --general   # also the whole pre-training text, 200 MB
    python datasets/build.py --domains   # also the whole comics and recipes, 3 MB
"""

import argparse
import json
import string
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import make_comics  # noqa: E402
import make_entities  # noqa: E402
import make_general  # noqa: E402
import make_instructions  # noqa: E402
import make_irony  # noqa: E402
import make_messy  # noqa: E402
import make_recipes  # noqa: E402

FOLDER = Path(__file__).parent
SEED = 7  # of the pre-training text; `benchmarks/base.py` trains on the same
DOCUMENTS = {"read": 500_000, "practice": 300_000, "refine": 400_000}  # of each part
HELD_OUT = 1000
Maker = Callable[..., Iterator[str]]
# two domains for adaptive tuning, of about as many tokens
DOMAINS: dict[str, tuple[Maker, int]] = {
    "comics": (make_comics.documents, 3500),
    "recipes": (make_recipes.documents, 4000),
}
SAMPLE_OF = {"general": "sample", "irony": "train", "instructions": "train"}
SAMPLE_OF |= {"comics": "sample", "recipes": "sample", "entities": "train"}
SAMPLE_OF["messy"] = "planted"
MARKS = ("<!-- sample -->\n", "<!-- /sample -->")
INK = str.maketrans("", "", string.punctuation + string.whitespace)


def write(path: Path, rows: Iterable[dict | str]) -> int:
    """Writes rows as JSON Lines and returns how many there were.

    A row that is a string is a line as it is to stand there, broken on purpose.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            line = row if isinstance(row, str) else json.dumps(row, ensure_ascii=False)
            file.write(line + "\n")
            count += 1
    return count


def texts(make: Maker, count: int, seed: int) -> Iterable[dict]:
    """Yields documents as rows."""
    return ({"text": text} for text in make(count, seed=seed))


def ink(text: str) -> str:
    """Returns a text's letters and digits: what is left to tell two texts apart."""
    return text.casefold().translate(INK)


def general_text() -> Iterator[str]:
    """Yields every document that the shipped base reads."""
    for part, count in DOCUMENTS.items():
        yield from make_general.documents(count, seed=SEED, part=part)


def held_out(make: Maker, known: Iterable[str], count: int) -> list[dict]:
    """Returns documents that are not among the known ones, none of them twice.

    Of the general text one in thirty of a fresh draw is: short documents, such as two
    numbers compared.
    """
    fresh = make(count + count // 5, seed=SEED + 1)
    found = {ink(text): text for text in fresh}
    for text in known:
        found.pop(ink(text), None)
    return [{"text": text} for text in islice(found.values(), count)]


def cell(value: str | int | list[str]) -> str:
    """Returns a field as it stands in a table."""
    text = " ".join(value) if isinstance(value, list) else str(value)
    return text.replace("\n", "<br>").replace("|", "\\|")


def table(rows: list[dict]) -> str:
    """Returns rows as a Markdown table."""
    cells = [list(rows[0]), ["---"] * len(rows[0])]
    cells += [[cell(value) for value in row.values()] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in cells)


def write_sample(card: Path, rows: list[dict]) -> None:
    """Writes a reader's sample between the marks of a card."""
    before, rest = card.read_text(encoding="utf-8").split(MARKS[0])
    after = rest.split(MARKS[1])[1]
    text = before + MARKS[0] + table(rows) + MARKS[1] + after
    card.write_text(text, encoding="utf-8", newline="\n")


def files() -> dict[str, Iterable[dict | str]]:
    """Returns the rows of each committed file that is built."""
    built: dict[str, Iterable[dict | str]] = {
        "general/sample.jsonl": texts(make_general.documents, 300, SEED),
        "general/heldout.jsonl": held_out(
            make_general.documents, general_text(), HELD_OUT
        ),
    }
    for part in ("practice", "refine"):
        make = partial(make_general.documents, part=part)
        built[f"general/{part}_sample.jsonl"] = texts(make, 100, SEED)
    for name, (make, count) in DOMAINS.items():
        built[f"{name}/sample.jsonl"] = texts(make, 100, SEED)
        built[f"{name}/heldout.jsonl"] = held_out(make, make(count, seed=SEED), 300)
    for split in make_entities.SIZES:
        built[f"entities/{split}.jsonl"] = make_entities.rows(split)
    for split in make_irony.SIZES:
        built[f"irony/{split}.jsonl"] = make_irony.rows(split)
    instructions = make_instructions.splits()
    for split, rows in instructions.items():
        built[f"instructions/{split}.jsonl"] = rows
    for name, rows in make_messy.files(instructions).items():
        built[f"messy/{name}.jsonl"] = rows
    return built


def main() -> None:
    """Reads the command line and builds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=FOLDER)
    parser.add_argument("--general", action="store_true", help="the whole text as well")
    parser.add_argument("--domains", action="store_true", help="all comics, recipes")
    options = parser.parse_args()
    built = files()
    if options.general:
        built["general/train.jsonl"] = ({"text": text} for text in general_text())
    if options.domains:
        for name, (make, count) in DOMAINS.items():
            built[f"{name}/train.jsonl"] = texts(make, count, SEED)
    for name, rows in built.items():
        print(f"{name:40s} {write(options.out / name, rows):7d} rows", flush=True)
    for name, split in SAMPLE_OF.items():
        card = options.out / name / "README.md"
        if card.exists():
            lines = (
                (options.out / name / f"{split}.jsonl").read_text("utf-8").splitlines()
            )
            write_sample(card, [json.loads(line) for line in lines[:8]])


if __name__ == "__main__":
    main()
