"""Single values of a row: is it blank, what is it, and its text or a rejection."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sized
from typing import Any

from helpers.formats.results import RejectError

Row = Mapping[str, Any]

# How one row says that the instruction has no input. "Na" (sodium) is not among them.
_NO_INPUT = re.compile(
    r"""[<\[({\s]*
    ( no[\W_]*inputs?([\W_]*(is[\W_]*)?(required|needed|necessary|provided|given))?
    | n\s*/\s*a | n\.\s*a | none | null | nan | not[\W_]*applicable )
    [>\])}\s.]*""",
    re.IGNORECASE | re.VERBOSE,
)


def is_no_input(value: str) -> bool:
    """Tell whether a text is a way to say that there is no input."""
    return len(value) < 60 and _NO_INPUT.fullmatch(value) is not None


def is_null(value: Any) -> bool:
    """Tell None and NaN, by which pandas marks a missing cell."""
    # NaN is the one value that differs from itself.
    return value is None or (isinstance(value, float) and value != value)


def is_blank(value: Any) -> bool:
    """Tell null and text of nothing but white space."""
    if isinstance(value, str):
        return not value or value.isspace()
    return is_null(value)


def is_empty(value: Any) -> bool:
    """Tell blank values and containers without items."""
    return is_blank(value) or (isinstance(value, Sized) and len(value) == 0)


def kind_name(value: Any) -> str:
    """Name the kind of a value for an error message."""
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    if is_null(value):
        return "null"
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return names.get(type(value), f"a {type(value).__name__}")


def quoted(names: Iterable[Any]) -> str:
    """Return at most ten names in quotes, each cut at 40 characters."""
    shown = [repr(str(name)[:40]) for name in names]
    rest = f" and {len(shown) - 10} more" if len(shown) > 10 else ""
    return ", ".join(shown[:10]) + rest


def parsed(value: Any) -> Any:
    """Parse a list or an object that was stored as JSON text, as in a CSV cell."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def text(row: Row, column: str, label: str = "") -> str:
    """Return the text under a column, untouched, or reject the row."""
    if column not in row:
        raise RejectError(label or column, "is missing")
    return checked_text(row[column], label or column)


def checked_text(value: Any, label: str) -> str:
    """Return a value that is a text with something in it, or reject the row."""
    if not isinstance(value, str):
        said = "is null" if is_null(value) else f"is {kind_name(value)}, not text"
        raise RejectError(label, said)
    if not value or value.isspace():
        raise RejectError(label, "is blank")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            reason = f"holds half a surrogate pair at character {error.start}"
            raise RejectError(label, reason) from error
    return value


def listed(row: Row, column: str, what: str) -> list[Any]:
    """Return the list under a column, parsed if it is JSON text, or reject the row."""
    if column not in row:
        raise RejectError(column, "is missing")
    value = parsed(row[column])
    if not isinstance(value, list) or not value:
        raise RejectError(column, f"is {kind_name(value)}, not a list of {what}")
    return value


def only(row: Row, columns: tuple[str, ...], *, advice: str) -> str:
    """Return the one column that is filled; the first if none is."""
    present = [column for column in columns if column in row]
    if len(present) == 1:
        return present[0]
    filled = [column for column in present if not is_blank(row[column])]
    if any(row[column] != row[filled[0]] for column in filled[1:]):
        raise RejectError("/".join(filled), f"differ: {advice}")
    return (filled or present or columns)[0]
