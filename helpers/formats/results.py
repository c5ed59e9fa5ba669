"""What reading and converting give back: records, rows, rejections and errors."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class DataError(ValueError):
    """Data that cannot be read, or whose format would have to be guessed."""


class RejectError(Exception):
    """Raised by converters for the row at hand; never leaves this package."""

    def __init__(self, column: str, reason: str) -> None:
        """Take the column at fault and what was found."""
        super().__init__(column, reason)
        self.column = column
        self.reason = reason


class Record(NamedTuple):
    """One record of a file.

    Attributes:
        row: The 1-based number in its file; blank lines and a header do not count.
        value: What the file holds there: an object, as a rule; None with a problem.
        line: The line where it starts, or 0 where that is not known.
        problem: Why there is no value, or "".
        file: The file's path as the caller gave it, or below the folder that they
            gave; "" for rows from memory.
    """

    row: int
    value: Any
    line: int = 0
    problem: str = ""
    file: str = ""


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
    """The rows of one source in one shape: `len(rows) + len(rejected) == total`.

    Attributes:
        rows: For each shape (`to`): `{"messages": [{"role", "content"}, ...]}`;
            `{"prompt": [message, ...], "completion": [message]}`; the same with
            "chosen" and "rejected", or with a "label"; `{"prompt": [message]}`;
            `{"text": str}`; `{"tokens": [str], "tags": [str]}`. Roles are system,
            user, assistant and tool; a message with calls also has "tool_calls".
            "tools" (JSON text), "media" and, where the caller asked for it, "meta"
            stand beside them.
        rejected: The rows that were left out.
        format: The name of the family, a key of `FAMILIES`.
        to: The shape, one of `SHAPES`.
        notes: What the reader should know of the rows that were converted, with the
            number of rows that each concerns.
    """

    rows: list[dict[str, Any]]
    rejected: list[Rejection]
    format: str
    to: str = "messages"
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """The rows that came in.

        A record with several tasks in it (Self-Instruct, Super-NaturalInstructions,
        all paths of a tree) counts once for each.
        """
        return len(self.rows) + len(self.rejected)
