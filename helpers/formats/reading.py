"""Containers: a file becomes numbered records, one at a time.

JSON arrays, JSON Lines and one JSON object are told apart by their content, tables and
tagged text by the name. Memory stays flat: no more than one row, or one chunk of text,
is held, and a row has a largest size, so that no file can fill the memory.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from helpers.formats import conll, files
from helpers.formats.results import DataError, Record
from helpers.formats.values import kind_name, quoted

# Values that take the most room are objects such as {"":0}, 27 bytes a character.
MOST_CHARACTERS = 10_000_000
_HEAD = 1 << 20
_CHUNK = 1 << 18
_BATCH = 512

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_TAGGED = {".conll", ".bio", ".iob", ".iob2"}
_JSON_SPACE = " \t\r\n"
_IN_NUMBERS = "0123456789.eE+-"
_DECODER = json.JSONDecoder()
_FLAN_COLUMNS = ("question", "answer", "rationale")


def read_file(path: Path, file: str) -> Iterator[Record]:
    """Yield the records of a file of any container; `file` is its name in them."""
    try:
        yield from _records(path, file)
    except UnicodeDecodeError:
        raise files.not_utf8(path, file) from None


def _records(path: Path, file: str) -> Iterator[Record]:
    suffix = files.plain_name(path).suffix
    files.refuse_what_swells(path, file)
    with files.open_bytes(path, file) as stream:
        if stream.read(4) == b"PAR1":
            return _parquet(path, file)
    with files.open_text(path, file, newline="\n") as handle:
        head = handle.read(_HEAD)
    if not head.strip():
        raise DataError(f"{file} is empty: check how it was written or fetched.")
    if suffix in _DELIMITERS:
        return _table(path, file, _DELIMITERS[suffix], head)
    if suffix in _TAGGED or (suffix == ".txt" and conll.looks_tagged(head)):
        return _tagged(path, file)
    return _json(path, file, head, named_lines=suffix in {".jsonl", ".ndjson"})


# --------------------------------------------------------------------------------- JSON


def _json(path: Path, file: str, head: str, *, named_lines: bool) -> Iterator[Record]:
    """Tell an array, one object and JSON Lines apart by their first characters."""
    complete = len(head) < _HEAD
    start = len(head) - len(head.lstrip(_JSON_SPACE))
    if _holds_lines(head, start, complete=complete, named_lines=named_lines):
        return _lines(path, file)
    if head[start] == "[":
        return _array(path, file)
    if head[start] == "{":
        return _one_object(path, file)
    try:
        value = _DECODER.decode(head)
    except (ValueError, RecursionError):
        raise DataError(
            f"{file} is neither JSON nor JSON Lines: name it .csv or .tsv if it is a "
            f"table with a header line, .conll if it has a token and its tag a line."
        ) from None
    raise DataError(
        f"{file} holds only {kind_name(value)}: rows are JSON objects, in an array or "
        f"one a line."
    )


def _holds_lines(head: str, start: int, *, complete: bool, named_lines: bool) -> bool:
    value, end, broken = None, start, False
    try:
        value, end = _DECODER.raw_decode(head, start)
    except (ValueError, RecursionError):
        broken = True
    if not broken and complete and not head[end:].strip(_JSON_SPACE):
        return False
    if isinstance(value, dict | list) and "\n" not in head[start:end]:
        return True
    if named_lines and head[start] != "[":
        return True
    lines = head.split("\n")
    return _mostly_objects(lines if complete else lines[:-1], head[start])


def _mostly_objects(lines: list[str], first: str) -> bool:
    """Tell JSON Lines with a broken first line from one broken JSON value."""
    objects = [isinstance(r.value, dict) for r in _parsed_lines(lines, "")]
    # The last line of a half-written array may be an object: one is not enough.
    return bool(objects) and 2 * sum(objects) >= len(objects) + (first == "[")


def _lines(path: Path, file: str) -> Iterator[Record]:
    # Not str.splitlines: JSON strings may hold U+2028 and other line separators.
    with files.open_text(path, file, newline="\n") as handle:
        yield from _parsed_lines(files.lines_of(handle, MOST_CHARACTERS, file), file)


def _parsed_lines(lines: Iterable[str], file: str) -> Iterator[Record]:
    row, decode = 0, _DECODER.decode
    for number, line in enumerate(lines, 1):
        line = line.rstrip("\r\n")
        if not line or line.isspace():
            continue
        row += 1
        try:
            yield Record(row, decode(line), number, "", file)
        except (ValueError, RecursionError) as error:
            problem = f"is not JSON ({_json_problem(error)})"
            yield Record(row, None, number, problem, file)


def _json_problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "a number with too many digits"


class _Text:
    """A window on a text that is read from front to back."""

    def __init__(self, handle: IO[str], file: str) -> None:
        self._handle = handle
        self._file = file
        self._lines = 1  # the line and column where the window starts
        self._column = 1
        self.window = ""
        self.at = 0
        self.ended = False

    def more(self) -> bool:
        """Drop what lies behind, double what lies ahead; False at the end."""
        behind = self.window[: self.at]
        breaks = behind.count("\n")
        self._lines += breaks
        last = len(behind) - behind.rfind("\n")
        self._column = last if breaks else self._column + len(behind)
        ahead = len(self.window) - self.at
        if ahead > MOST_CHARACTERS:
            raise DataError(
                f"{self._file} has a row of over {MOST_CHARACTERS:,} characters, which "
                f"starts in line {self._lines}: check how it was written."
            )
        most = MOST_CHARACTERS + 1 - ahead
        new = self._handle.read(min(max(_CHUNK, ahead), most))
        self.window, self.at = self.window[self.at :] + new, 0
        self.ended = not new
        return bool(new)

    def skip_space(self) -> str:
        """Go to the next character that is no white space; return it, or ""."""
        while True:
            window, at = self.window, self.at
            while at < len(window) and window[at] in _JSON_SPACE:
                at += 1
            self.at = at
            if at < len(window):
                return window[at]
            if not self.more():
                return ""

    def value(self) -> Any:
        """Return the JSON value that starts here, and go behind it."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.window, self.at)
            except RecursionError:
                raise self.broken("nested too deeply", self.at) from None
            except ValueError as error:
                if self._is_cut(error):
                    self.more()
                    continue
                place = getattr(error, "pos", self.at)
                said = getattr(error, "msg", "a number with too many digits")
                raise self.broken(said, place) from None
            if isinstance(value, int | float) and self._may_go_on(end):
                self.more()
                continue
            self.at = end
            return value

    def _is_cut(self, error: ValueError) -> bool:
        """Tell a value that goes on behind the window from a broken one."""
        if not isinstance(error, json.JSONDecodeError) or self.ended:
            return False
        # Of a cut string, the error names the start; else the place of the cut.
        near = len(self.window) - error.pos < 16
        return near or error.msg.startswith("Unterminated string")

    def _may_go_on(self, end: int) -> bool:
        """Tell a number that the window's edge cuts, as after `0` or within `1.5e3`."""
        return not self.ended and not self.window[end:].strip(_IN_NUMBERS)

    def broken(self, said: str, place: int | None = None) -> DataError:
        """Return the error for a text that is no JSON here, or at a place ahead."""
        line, column = self.line_and_column(self.at if place is None else place)
        return DataError(
            f"{self._file} is broken or half-written JSON ({said} at line {line}, "
            f"column {column}): fetch or write it again."
        )

    def line_and_column(self, place: int) -> tuple[int, int]:
        """Return line and column of a place in the window, both from 1."""
        breaks = self.window.count("\n", 0, place)
        last = self.window.rfind("\n", 0, place)
        column = place - last if breaks else self._column + place
        return self._lines + breaks, column

    def end(self) -> None:
        """Raise unless nothing but white space follows."""
        if self.skip_space():
            line, _ = self.line_and_column(self.at)
            raise DataError(
                f"{self._file} is broken or half-written JSON (more text after its end "
                f"in line {line}): fetch or write it again."
            )


def _array(path: Path, file: str) -> Iterator[Record]:
    with files.open_text(path, file, newline="\n") as handle:
        text = _Text(handle, file)
        text.skip_space()
        text.at += 1
        if text.skip_space() == "]":
            text.at += 1
            return text.end()
        row = 0
        while True:
            text.skip_space()
            row += 1
            yield Record(row, text.value(), file=file)
            follows = text.skip_space()
            if follows not in (",", "]"):
                raise text.broken("Expecting ',' delimiter")
            text.at += 1
            if follows == "]":
                return text.end()


def _one_object(path: Path, file: str) -> Iterator[Record]:
    with files.open_text(path, file, newline="\n") as handle:
        text = _Text(handle, file)
        text.skip_space()
        value = text.value()
        text.end()
        yield Record(1, value, file=file)


# ------------------------------------------------------------------------------- tables


def _table(path: Path, file: str, delimiter: str, head: str) -> Iterator[Record]:
    """Yield the rows of a table with a header line, as mappings of strings."""
    if delimiter == "\t" and _is_flan(head.split("\n", 1)[0]):
        yield from _flan(path, file)
        return
    found = _table_rows(path, file, delimiter)
    line, header, problem = next(found)
    header = [name.strip() for name in header]
    repeated = {name for name in header if header.count(name) > 1}
    if problem or repeated:
        problem = problem or f"the column {quoted(repeated)} comes twice"
        raise DataError(
            f"{file} has an unusable header in line {line} ({problem}): give each "
            f"column one name."
        )
    for row, (line, fields, problem) in enumerate(found, 1):
        if not problem and len(fields) != len(header):
            problem = (
                f"has {len(fields)} fields where the header has {len(header)}: quote "
                f"fields that hold the separator"
            )
        value = None if problem else dict(zip(header, fields, strict=True))
        yield Record(row, value, line, problem, file)


def _table_rows(
    path: Path, file: str, delimiter: str
) -> Iterator[tuple[int, list[str], str]]:
    """Yield first line, fields and problem of each row that is not blank."""
    with files.open_text(path, file, newline="") as handle:
        lines = files.lines_of(handle, MOST_CHARACTERS, file)
        # strict: otherwise a quote that is never closed swallows the rest in silence.
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            line, fields, problem = reader.line_num + 1, [], ""
            try:
                fields = _next_row(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if "unexpected end" in str(error) or "limit" in str(error):
                    raise DataError(
                        f"{file} has a quote in the row that starts in line {line} "
                        f"that is never closed: close it or double it."
                    ) from error
                problem = f"is not valid CSV ({error})"
            if fields or problem:
                yield line, fields, problem


def _next_row(reader: Any) -> list[str]:
    # The csv module keeps one process-wide limit (131,072 characters a field).
    limit = csv.field_size_limit(MOST_CHARACTERS)
    try:
        return next(reader)
    finally:
        csv.field_size_limit(limit)


def _is_flan(first: str) -> bool:
    """Tell a row of FLAN's chains of thought, which have no header, from a header."""
    fields = first.rstrip("\r").split("\t")
    if len(fields) != len(_FLAN_COLUMNS):
        return False
    return any(len(name) > 60 or name.endswith((".", "?", "!")) for name in fields)


def _flan(path: Path, file: str) -> Iterator[Record]:
    """Yield the rows of a table with raw quotes and line breaks as two characters."""
    with files.open_text(path, file, newline="\n") as handle:
        row = 0
        lines = files.lines_of(handle, MOST_CHARACTERS, file)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            row += 1
            fields = line.rstrip("\r\n").replace("\\n", "\n").split("\t")
            if len(fields) != len(_FLAN_COLUMNS):
                problem = f"has {len(fields)} fields where other rows have 3"
                yield Record(row, None, number, problem, file)
                continue
            value = dict(zip(_FLAN_COLUMNS, fields, strict=True))
            yield Record(row, value, number, "", file)


def _parquet(path: Path, file: str) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    with files.open_seekable(path, file) as stream:
        try:
            # With its default pyarrow holds all columns of the file while it iterates.
            table, row = parquet.ParquetFile(stream, pre_buffer=False), 0
            for batch in table.iter_batches(batch_size=_BATCH):
                for value in batch.to_pylist():
                    row += 1
                    yield Record(row, value, file=file)
        except (pyarrow.ArrowException, OSError, ValueError) as error:
            reason = str(error).split("\n")[0].rstrip(".")
            raise DataError(
                f"{file} is a broken Parquet file ({reason}): fetch or write it again."
            ) from error


# -------------------------------------------------------------------------- tagged text


def _tagged(path: Path, file: str) -> Iterator[Record]:
    with files.open_text(path, file, newline="\n") as handle:
        lines = files.lines_of(handle, MOST_CHARACTERS, file)
        yield from conll.sentences(lines, file)
