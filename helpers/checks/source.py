"""The rows of a file as they are, and as the trainer will get them.

The one place of this package that knows `helpers.formats`.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any, NamedTuple

from helpers import formats

TURNS = ("messages", "conversations")
DEPTH = 40
"""Levels of lists and objects within a row that are looked into."""

CALLS = "(tool calls)"
"""Text of a turn that calls tools and says nothing."""

ROLES = {"user", "assistant", "system", "tool"}


class Row(NamedTuple):
    """A record and its number in the file."""

    number: int
    value: Mapping[str, Any]


class Turn(NamedTuple):
    """What one side says, and where it stands."""

    role: str
    text: Any
    field: str


class Prose(NamedTuple):
    """One text of a row."""

    row: int
    field: str
    text: str


@dataclass
class Source:
    """The rows of one file.

    Attributes:
        file: its name, as the caller gave it.
        rows: the records that are objects, as they stand in the file.
        broken: number and reason of the records that are none.
        family: the format's name in `helpers.formats`; "labels" for rows of a
            classification, "preference" for compared answers; "" if there is none.
        becomes: the shape in which that format comes out, one of `formats.SHAPES`.
        problem: why there is none.
        ready: the rows in a shape that SFTTrainer takes.
        rejected: number, field and reason of the rows that cannot be converted.
    """

    file: str
    rows: list[Row]
    broken: list[tuple[int, str]] = field(default_factory=list)
    family: str = ""
    becomes: str = ""
    problem: str = ""
    ready: list[Row] = field(default_factory=list)
    rejected: list[tuple[int, str, str]] = field(default_factory=list)

    @cached_property
    def columns(self) -> dict[str, int]:
        """Number of the rows that have each column."""
        found: dict[str, int] = {}
        for row in self.rows:
            for name in row.value:
                found[name] = found.get(name, 0) + 1
        return found

    @cached_property
    def shape(self) -> str:
        """What the first row is to SFTTrainer, which looks at no other.

        Returns:
            "messages", "prompt_completion" (texts), "prompt_completion_messages",
            "text", "input_ids", or "" if it is none of them.
        """
        return shape_of(self.rows[0].value) if self.rows else ""

    @cached_property
    def texts(self) -> list[Prose]:
        """Every text that a model would read, with its place."""
        return [
            Prose(row.number, place, text)
            for row in self.rows
            for place, text in _texts(row.value)
        ]

    @cached_property
    def pairs(self) -> list[tuple[int, str, str]]:
        """Number, question and answer of each row that could be read."""
        ready = self.ready or self.rows
        return [(row.number, *_question_answer(row.value)) for row in ready]

    @cached_property
    def keys(self) -> list[tuple[bytes, bytes]]:
        """Hashes of question and answer, one for each of `pairs`."""
        return [(_hash(asked), _hash(answer)) for _, asked, answer in self.pairs]

    @property
    def is_sft(self) -> bool:
        """Whether the rows are for supervised fine-tuning of a language model."""
        return self.becomes in ("messages", "prompt_completion", "text")


def normalised(text: str) -> str:
    """A text without what makes no difference to a reader.

    >>> normalised("  Add  2 and 3! ")
    'add 2 and 3!'
    """
    kept = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(kept.casefold().split())


def _hash(text: str) -> bytes:
    told = normalised(text).encode("utf-8", "replace")
    return blake2b(told, digest_size=16).digest()


def read(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
) -> Source:
    """Read a file.

    Args:
        path: of any container that `helpers.formats` reads.
        format: a name in `formats.FAMILIES`; None detects it.

    Raises:
        DataError: it cannot be read at all.
    """
    file = os.fspath(path)
    records = list(formats.records(file))
    if not records:
        raise formats.DataError(f"{file} holds no rows: check how it was written.")
    return from_records(
        _numbered(records),
        file=file,
        format=format,
    )


def _numbered(records: list[formats.Record]) -> Iterator[tuple[int, Any, str]]:
    """Number records as their file does; through all files, if they are several."""
    several = len({record.file for record in records}) > 1
    for number, record in enumerate(records, 1):
        yield number if several else record.row, record.value, record.problem


def from_rows(
    rows: Iterable[Any], *, file: str = "rows", format: str | None = None
) -> Source:
    """Take rows from memory."""
    numbered = [(number, value, "") for number, value in enumerate(rows, 1)]
    return from_records(numbered, file=file, format=format)


def from_records(
    records: Iterable[tuple[int, Any, str]], *, file: str, format: str | None
) -> Source:
    """Sort records into rows and broken ones, and convert the rows."""
    source = Source(file, [])
    for number, value, problem in records:
        if isinstance(value, Mapping) and not problem:
            source.rows.append(Row(number, value))
        else:
            reason = problem or f"is a {type(value).__name__}, not an object"
            source.broken.append((number, reason))
    if format is None and _is_labelled(source.columns):
        source.family = "labels"
        return source
    _convert(source, format)
    return source


def shape_of(row: Mapping[str, Any]) -> str:
    """What a row is to SFTTrainer; see `Source.shape`."""
    if row.get("input_ids") is not None:
        return "input_ids"
    if row.get("prompt") is not None and row.get("completion") is not None:
        if isinstance(row["prompt"], str) and isinstance(row["completion"], str):
            return "prompt_completion"
        both = is_turns(row["prompt"]) and is_turns(row["completion"])
        return "prompt_completion_messages" if both else ""
    if is_turns(row.get("messages")):
        return "messages"
    return "text" if isinstance(row.get("text"), str) else ""


def is_turns(value: Any) -> bool:
    """Whether a value is a list of messages with role and content."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(turn, Mapping) and "role" in turn for turn in value)
    )


def turns(row: Mapping[str, Any]) -> Iterator[tuple[str, list[Turn]]]:
    """Every conversation of a row, by its column."""
    for column in (*TURNS, "prompt", "completion", "chosen", "rejected"):
        value = row.get(column)
        if isinstance(value, list) and any(isinstance(t, Mapping) for t in value):
            yield column, list(_turns(value, column))


def _turns(value: list[Any], column: str) -> Iterator[Turn]:
    for index, turn in enumerate(value):
        if not isinstance(turn, Mapping):
            continue
        sharegpt = "from" in turn and "role" not in turn
        role, key = ("from", "value") if sharegpt else ("role", "content")
        text = turn.get(key)
        if text is None and turn.get("tool_calls"):
            text = CALLS
        yield Turn(str(turn.get(role)), text, f"{column}[{index}].{key}")


def _is_labelled(columns: Mapping[str, int]) -> bool:
    tagged = "tokens" in columns and ("tags" in columns or "ner_tags" in columns)
    # KTO's label stands beside a conversation, not beside a plain text.
    return tagged or ("text" in columns and "label" in columns)


def _convert(source: Source, format: str | None) -> None:
    values = [row.value for row in source.rows]
    try:
        done = formats.convert(values, format=format, file=source.file)
    except formats.DataError as error:
        source.ready = [row for row in source.rows if shape_of(row.value)]
        if {"chosen", "rejected"} <= source.columns.keys():  # of more than one format
            source.family = source.becomes = "preference"
        else:
            source.problem = str(error)
        return
    source.family, source.becomes = done.format, done.to
    if done.total == len(values):
        _take(source, source.rows, done)
    elif done.format == "oasst_messages":  # conversations that go through many records
        source.ready = [Row(number, row) for number, row in enumerate(done.rows, 1)]
    else:  # records that hold several rows each
        for row in source.rows:
            _take(source, [row], formats.convert([row.value], format=done.format))


def _take(source: Source, rows: list[Row], done: formats.Conversion) -> None:
    """Give converted rows the numbers of the records that they are from."""
    left_out = {one.row - 1 for one in done.rejected}
    source.rejected += [
        (rows[one.row - 1].number, one.field, one.reason) for one in done.rejected
    ]
    kept = [row for place, row in enumerate(rows) if place not in left_out]
    if len(kept) != len(done.rows):
        kept = rows * len(done.rows)
    for row, converted in zip(kept, done.rows, strict=True):
        plain = len(kept) == len(rows) - len(left_out) and _is_plain(row.value)
        source.ready.append(Row(row.number, row.value if plain else converted))


def _is_plain(row: Mapping[str, Any]) -> bool:
    """Whether a row needs no conversion for what it says to reach the trainer."""
    if not shape_of(row) or row.get("system") is not None:
        return False
    return all(
        turn.role in ROLES and isinstance(turn.text, str)
        for _, spoken in turns(row)
        for turn in spoken
    )


def _texts(value: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Every string of a row that is more than a name."""
    if depth > DEPTH:
        return
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in ("role", "from", "id", "name", "type"):
                yield from _texts(inner, f"{place}.{key}".lstrip("."), depth + 1)
    elif isinstance(value, list) and not _is_flat(value):
        for index, inner in enumerate(value):
            yield from _texts(inner, f"{place}[{index}]", depth + 1)


def _is_flat(values: list[Any]) -> bool:
    """Whether a list holds tags, words or numbers, and no texts to be read."""
    return all(
        isinstance(one, int | float | bool | None)
        or (isinstance(one, str) and " " not in one)
        for one in values
    )


def _question_answer(row: Mapping[str, Any]) -> tuple[str, str]:
    kind = shape_of(row)
    if kind == "messages":
        return _sides(row["messages"])
    if kind == "prompt_completion_messages":
        return _sides([*row["prompt"], *row["completion"]])
    if kind == "prompt_completion":
        return row["prompt"], row["completion"]
    if kind == "text":
        return row["text"], str(row.get("label", ""))
    texts = [text for _, text in _texts(row)]
    return " ".join(texts[:-1] or texts), " ".join(texts[-1:])


def _sides(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """What is asked, up to the first answer, and all that is answered."""
    first = next(
        (n for n, turn in enumerate(messages) if turn["role"] == "assistant"),
        len(messages),
    )
    asked = [str(turn.get("content") or "") for turn in messages[:first]]
    answers = [
        str(turn.get("content") or "")
        for turn in messages
        if turn["role"] == "assistant"
    ]
    return "\n".join(asked), "\n".join(answers)
