"""Writing rows, all or nothing: a new file beside the target takes its name at the end.

A write that fails or is interrupted leaves the target as it was, and no other file. Of
two processes that write the same target, each writes a file of its own; the one that
ends last wins, and nothing is mixed.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from helpers.formats.results import DataError

_PARQUET_ROWS = 10_000


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
    with output(path, lines_only=True) as target:
        for number, row in enumerate(rows, 1):
            problem = target.add(row)
            if problem:
                raise DataError(
                    f"{path}: row {number} {problem}, so nothing was written: mend or "
                    f"leave out the row."
                )


class Output:
    """A file in the making; rows are added one by one."""

    def __init__(self, handle: IO[str] | None) -> None:
        """Take the open file, or None to write nothing."""
        self._handle = handle

    def add(self, row: Any) -> str:
        """Write a row as a line; return "" or why that cannot be."""
        if self._handle is None:
            return ""
        try:
            line = _ENCODE(row)
            if not line.isascii():
                line.encode("utf-8")
        except (TypeError, ValueError, RecursionError) as error:
            return f"cannot be written as JSON ({error})"
        self._handle.write(line + "\n")
        return ""


_ENCODE = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


@contextlib.contextmanager
def output(
    path: str | os.PathLike[str] | None, *, lines_only: bool = False
) -> Iterator[Output]:
    """Open a target for rows; it appears when the block ends without an error.

    Args:
        path: A file, Parquet by its name, else JSON Lines; None takes the rows and
            writes nothing.
        lines_only: JSON Lines whatever the name.

    Raises:
        DataError: The file cannot be written; the target is as it was.
    """
    if path is None:
        yield Output(None)
        return
    target = Path(os.path.realpath(path))  # replace what a link points to, not the link
    if target.suffix in (".gz", ".bz2", ".xz", ".zst"):
        raise DataError(
            f"{path} would hold plain text: choose a name without {target.suffix}."
        )
    part = target.with_name(f".{target.name}.{os.urandom(4).hex()}.part")
    lines = part.with_suffix(".lines")
    parquet = target.suffix == ".parquet" and not lines_only
    try:
        try:
            first = lines if parquet else part
            with first.open("x", encoding="utf-8", newline="\n") as handle:
                yield Output(handle)
                handle.flush()
                os.fsync(handle.fileno())
            if parquet:
                _to_parquet(lines, part, path)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
            lines.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{path} could not be written ({error.strerror or error}): nothing there "
            f"was changed, so make room or choose another folder and write again."
        ) from error


def _to_parquet(lines: Path, part: Path, path: str | os.PathLike[str]) -> None:
    """Copy JSON Lines to Parquet, by one schema that all rows have in common."""
    import pyarrow
    from pyarrow import parquet

    schema = pyarrow.schema([])
    try:
        for rows in _batches(lines):
            found = pyarrow.Table.from_pylist(_filled(rows)).schema
            schema = pyarrow.unify_schemas(
                [schema, found], promote_options="permissive"
            )
        with parquet.ParquetWriter(part, schema) as writer:
            for rows in _batches(lines):
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{path} cannot be Parquet, since rows differ in type ({error}): name it "
            f".jsonl."
        ) from error


def _filled(rows: list[dict]) -> list[dict]:
    # from_pylist takes the columns of the first row alone.
    names = dict.fromkeys(name for row in rows for name in row)
    return [{name: row.get(name) for name in names} for row in rows]


def _batches(lines: Path) -> Iterator[list[dict]]:
    rows: list[dict] = []
    with lines.open(encoding="utf-8", newline="\n") as handle:
        for line in handle:
            rows.append(json.loads(line))
            if len(rows) == _PARQUET_ROWS:
                yield rows
                rows = []
    if rows:
        yield rows
