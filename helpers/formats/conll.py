"""Text with one token and its tags a line: sentences, tag schemes, IOB2 from all.

The four schemes differ in how an entity's first token is marked. Read by the wrong
one, neighbours merge and the number of entities changes, so the scheme is found from
all sentences and said, never assumed:

- IO: no mark at all; neighbours of one type cannot be told apart;
- IOB1: B- only where an entity follows another of the same type;
- IOB2 (BIO): every entity starts with B-;
- BIOES (BILOU): ends (E or L) and single tokens (S or U) are marked as well.

>>> scheme(["I-PER", "I-PER", "B-PER", "O"])
'IOB1'
>>> to_iob2(["I-PER", "I-PER", "B-PER", "O"], "IOB1")
['B-PER', 'I-PER', 'B-PER', 'O']

Source: E. F. Tjong Kim Sang and J. Veenstra (1999), "Representing text chunks", EACL,
section 2 (IOB1, IOB2); L. Ratinov and D. Roth (2009), CoNLL, section 3.1 (BILOU).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator

from helpers.formats.results import DataError, Record, RejectError
from helpers.formats.values import Row, checked_text, listed, quoted

_TAG = re.compile(r"O|[BIESLU]-\S+")
_DOCUMENT = "-DOCSTART-"
_MOST_TOKENS = 100_000
TAG_COLUMNS = ("tags", "ner_tags", "labels")
SCHEMES = ("IO", "IOB1", "IOB2", "BIOES")


def looks_tagged(head: str) -> bool:
    """Tell tagged text by its first lines: equally many columns, tags in the last."""
    lines = [line for line in head.split("\n")[:200] if line.strip()]
    rows = [_fields(line) for line in lines]
    widths = {len(row) for row in rows}
    if len(widths) != 1 or widths == {1}:
        return False
    return all(_TAG.fullmatch(row[-1]) for row in rows)


def sentences(lines: Iterable[str], file: str) -> Iterator[Record]:
    """Yield a record for each sentence: {"tokens": [...], "column 2": [...], ...}.

    A line of nothing but white space, a lone carriage return too, ends a sentence.
    Lines that begin a document are left out.
    """
    row, start, rows = 0, 0, []
    for number, line in enumerate(lines, 1):
        fields = _fields(line)
        if fields and fields[0] != _DOCUMENT:
            start = start if rows else number
            rows.append(fields)
        elif rows:
            row += 1
            yield _sentence(row, start, rows, file)
            rows = []
        if len(rows) > _MOST_TOKENS:
            raise DataError(
                f"{file} has over {_MOST_TOKENS:,} lines from line {start} on without "
                f"a blank one: put a blank line behind each sentence."
            )
    if rows:
        yield _sentence(row + 1, start, rows, file)


def _fields(line: str) -> list[str]:
    if "\t" in line:
        return [field.strip() for field in line.split("\t")] if line.strip() else []
    return line.split()


def _sentence(row: int, start: int, rows: list[list[str]], file: str) -> Record:
    width = len(rows[0])
    for offset, fields in enumerate(rows):
        if len(fields) != width or width < 2:
            problem = f"has {_columns(len(fields))} in line {start + offset}"
            expected = _columns(width) if width > 1 else "a token and its tag"
            problem += f" where {expected} should be"
            return Record(row, None, start, problem, file)
    names = ["tokens", *(f"column {n}" for n in range(2, width + 1))]
    columns = (list(column) for column in zip(*rows, strict=True))
    return Record(row, dict(zip(names, columns, strict=True)), start, "", file)


def _columns(count: int) -> str:
    return f"{count} column" + "s" * (count != 1)


# ------------------------------------------------------------------------------ schemes


def types_of(tags: Iterable[str]) -> set[str]:
    """Return the types that stand in the tags, without prefixes and without O."""
    return {tag.partition("-")[2] or tag for tag in tags if tag != "O"}


class Evidence:
    """What all sentences say of the scheme of their tags."""

    def __init__(self) -> None:
        """Begin with no sentence seen."""
        self.prefixes: Counter[str] = Counter()
        self.first: Counter[str] = Counter()  # prefixes of what begins an entity
        self.repeated = 0  # B- right behind the same type
        self.bare = 0  # tags without a prefix

    def add(self, tags: list[str]) -> None:
        """Take in the tags of a sentence."""
        before = ""
        for tag in tags:
            prefix, dash, kind = tag.partition("-")
            if tag == "O":
                kind = ""
            elif not dash or len(prefix) != 1:
                self.bare += 1
                kind = tag
            else:
                self.prefixes[prefix] += 1
                if kind != before:
                    self.first[prefix] += 1
                elif prefix == "B":
                    self.repeated += 1
            before = kind

    def scheme(self, name: str) -> str:
        """Return the one scheme that fits.

        Raises:
            DataError: More than one is mixed.
        """
        marks = set(self.prefixes)
        if not marks or (marks == {"I"} and not self.bare):
            return "IO"
        if marks & set("ESLU") and marks <= set("BIESLU") and not self.bare:
            return "BIOES"
        if marks <= {"B", "I"} and not self.bare:
            if not self.first["I"]:
                return "IOB2"
            if not self.first["B"]:
                return "IOB1"
        begun = [f"{self.first[mark]} with {mark}-" for mark in sorted(self.first)]
        counts = ", ".join([*begun, f"{self.bare} tags without a mark"])
        raise DataError(
            f"{name} mixes tag schemes (entities begin {counts}): pass scheme= one of "
            f"{quoted(SCHEMES)}, or mend the tags."
        )


def scheme(tags: list[str], *, name: str = "the data") -> str:
    """Return the scheme of the tags of one sentence (see `Evidence` for more)."""
    evidence = Evidence()
    evidence.add(tags)
    return evidence.scheme(name)


def to_iob2(tags: list[str], scheme: str) -> list[str]:
    """Return the tags in IOB2, in which every entity starts with B-."""
    found, before = [], ""
    for tag in tags:
        prefix, dash, kind = tag.partition("-")
        if tag == "O":
            found.append(tag)
            before = ""
            continue
        if not dash or len(prefix) != 1:
            prefix, kind = "I", tag
        starts = kind != before or (prefix in "BSU" and scheme != "IO")
        found.append(f"{'B' if starts else 'I'}-{kind}")
        # In BIOES the end of an entity is marked: what follows is a new one.
        before = "" if scheme == "BIOES" and prefix in "ESLU" else kind
    return found


# --------------------------------------------------------------- which column, and rows


def tag_column(rows: Iterable[Row], given: int | None, name: str) -> str:
    """Return the column of the tags: the last that holds tags, unless two could be.

    Raises:
        DataError: Two columns tag the same types, as gold and predicted tags do, or
            the column that was asked for does not exist.
    """
    types: dict[str, set[str]] = {}
    no_tags: set[str] = set()
    for row in rows:
        for column, values in row.items():
            if column.startswith("column ") and isinstance(values, list):
                types.setdefault(column, set()).update(types_of(values))
                if not all(_TAG.fullmatch(value) for value in values):
                    no_tags.add(column)
    if given is not None:
        if f"column {given}" not in types:
            raise DataError(
                f"{name} has no column {given} of tags: pass one of "
                f"{quoted(sorted(types))}."
            )
        return f"column {given}"
    found = [column for column in types if column not in no_tags]
    last = found[-1] if found else ""
    for column in found[:-1]:
        if types[column] == types[last]:
            one, other = column.split()[1], last.split()[1]
            raise DataError(
                f"{name} has tags of the same types in columns {one} and {other}, as "
                f"where gold stands beside predicted: pass tag_column={one} or "
                f"tag_column={other}."
            )
    return (found or list(types) or [""])[-1]


def row_tags(row: Row, column: str) -> tuple[list[str], list[str]]:
    """Return tokens and tags of a row, as many of one as of the other."""
    if column not in row:
        column = next((name for name in TAG_COLUMNS if name in row), TAG_COLUMNS[0])
    tokens, tags = _texts(row, "tokens"), _texts(row, column)
    if len(tokens) != len(tags):
        raise RejectError(column, f"are {len(tags)} for {len(tokens)} tokens")
    return tokens, tags


def _texts(row: Row, column: str) -> list[str]:
    found = listed(row, column, "texts")
    return [checked_text(one, f"{column}[{n}]") for n, one in enumerate(found)]
