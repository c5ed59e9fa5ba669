"""From records to rows of one shape: detect the family, convert, count, report."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.formats import conll, files, reading, writing
from helpers.formats.families import (
    FAMILIES,
    Columns,
    Family,
    Options,
    convertible,
    observe,
)
from helpers.formats.results import (
    Conversion,
    DataError,
    Record,
    RejectError,
    Rejection,
)
from helpers.formats.shapes import SHAPES, shape
from helpers.formats.turns import MEDIA, media_of, tools_of
from helpers.formats.values import kind_name, quoted

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_BESIDE = frozenset({"tools", *MEDIA})


# ------------------------------------------------------------------------------ sources


def records(path: str | os.PathLike[str], *, split: str = "train") -> Iterator[Record]:
    """Yield the records of a data file as they are, one at a time.

    Takes a JSON array, JSON Lines (under any name), one JSON object, CSV and TSV with a
    header line (FLAN's chains of thought without one), text with a token and its tags
    a line, all in UTF-8 with or without a byte-order mark, and Parquet; each of them
    packed by gzip, bzip2, xz or zstd; a folder of these; and the id of a data set on
    the Hugging Face Hub.

    Args:
        path: The file, folder or id.
        split: The split of a data set on the Hub.

    Yields:
        Records: `.row`, `.value`, and where there is no value, `.problem`; `.file` and
        `.line` say where it stands.

    Raises:
        DataError: There is no such file, or it is empty, a Git LFS pointer, an archive,
            not UTF-8 or broken as a whole.
    """
    file = os.fspath(path)
    place = Path(path)
    if not _exists(place) and isinstance(file, str) and _is_hub_id(file):
        return _hub_records(file, split)
    if _exists(place) and place.is_dir():
        return _folder_records(place, file)
    return reading.read_file(place, file)


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except (OSError, ValueError):
        return False


def _is_hub_id(name: str) -> bool:
    known = files.DATA_SUFFIXES.union(files.PACKED_SUFFIXES)
    return bool(_HUB_ID.fullmatch(name)) and Path(name).suffix.lower() not in known


def _folder_records(folder: Path, name: str) -> Iterator[Record]:
    known, _ = files.data_files(folder)
    if not known:
        raise DataError(
            f"{name} is a folder without data files: pass one that holds files such as "
            f"{quoted(sorted(files.DATA_SUFFIXES)[:4])}."
        )
    for path in known:
        yield from reading.read_file(path, str(path))


def _hub_records(name: str, split: str) -> Iterator[Record]:
    """Yield the rows of a data set on the Hub, as they arrive; no code of it runs."""
    import datasets

    try:
        rows = datasets.load_dataset(name, split=split, streaming=True)
        for number, row in enumerate(rows, 1):
            yield Record(number, row, file=name)
    except Exception as error:  # of the network, of the Hub, of the data's own reader
        reason = str(error).split("\n")[0].rstrip(".") or type(error).__name__
        raise DataError(
            f"{name} is no file here, and as a data set on the Hub its split {split!r} "
            f"cannot be read ({reason}): check the name, the split and the network."
        ) from error


@dataclass(frozen=True)
class _Source:
    """The records of a file, as often as they are asked for."""

    path: str | os.PathLike[str]
    split: str

    def __iter__(self) -> Iterator[Record]:
        return records(self.path, split=self.split)


# --------------------------------------------------------------------- public functions


def load(
    path: str | os.PathLike[str],
    *,
    format: str | None = None,
    to: str | None = None,
    keep_meta: bool = False,
    split: str = "train",
    **choices: Any,
) -> Conversion:
    """Read a data file and convert its rows; see `records` for what it takes.

    Args:
        path: The file, folder or id on the Hub.
        format: A name in `FAMILIES`; None detects it.
        to: One of `SHAPES`; None takes the family's own.
        keep_meta: Keep the columns that the format does not use in `row["meta"]`.
        split: The split of a data set on the Hub.
        **choices: `paths`, `tag_column` and `scheme`; see `Options`.

    Raises:
        DataError: The file cannot be read (see `records`), holds no rows, or its format
            is unknown or ambiguous.
    """
    file = os.fspath(path)
    found = list(records(path, split=split))
    if not found:
        raise DataError(_NO_ROWS.format(file))
    return _collect(found, file, format, to, keep_meta, _options(choices))


def convert(
    rows: Iterable[Any],
    *,
    format: str | None = None,
    to: str | None = None,
    file: str = "",
    keep_meta: bool = False,
    **choices: Any,
) -> Conversion:
    """Convert rows in memory to messages, or to the shape that is asked for.

    White space at the edges of prompts and answers is kept: a leading space carries
    meaning for a tokenizer. A top-level column "system" becomes the first message.

    Args:
        rows: Mappings, for example from `json.load` or a `datasets.Dataset`; anything
            else is reported.
        format: A name in `FAMILIES`; None detects it.
        to: One of `SHAPES`; None takes the family's own.
        file: The name to report.
        keep_meta: Keep the columns that the format does not use in `row["meta"]`.
        **choices: `paths`, `tag_column` and `scheme`; see `Options`.

    Raises:
        DataError: The format is unknown or ambiguous.

    >>> convert([{"prompt": "2 + 3 =", "completion": " 5"}]).rows[0]["messages"][1]
    {'role': 'assistant', 'content': ' 5'}
    """
    found = [Record(number, row, file=file) for number, row in enumerate(rows, 1)]
    options = _options(choices)
    if not found and format is not None:
        family = _named(format)
        return Conversion([], [], family.name, _shape_of(family, to, file))
    return _collect(found, file, format, to, keep_meta, options)


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
    found = [Record(number, row) for number, row in enumerate(rows, 1)]
    return _detect(found, None, name).name


@dataclass
class Report:
    """What became of a file's rows: `written + rejected == total`.

    Attributes:
        format: The name of the family, a key of `FAMILIES`.
        to: The shape, one of `SHAPES`.
        written: The rows that were written.
        rejected: The rows that were left out.
        examples: The first rejections.
        reasons: How many rows were left out for each field and reason.
        notes: What the reader should know of the rows that were written.
    """

    format: str
    to: str
    written: int = 0
    rejected: int = 0
    examples: list[Rejection] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def total(self) -> int:
        """The rows that came in (see `Conversion.total`)."""
        return self.written + self.rejected


_NO_ROWS = "{} holds no rows: check how it was written."
_EXAMPLES = 20
_REASONS = 1_000
_NUMBER = re.compile(r"\d+")


def convert_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    report: str | os.PathLike[str] | None = None,
    format: str | None = None,
    to: str | None = None,
    keep_meta: bool = False,
    split: str = "train",
    **choices: Any,
) -> Report:
    """Convert a file to JSON Lines or Parquet, however long, in little memory.

    The file is read twice, to detect its format from all rows and to convert it; with
    `format` once. The output appears whole at the end, or not at all.

    Args:
        path: The file, folder or id on the Hub; see `records`.
        output: The new file: `.jsonl`, `.json` (JSON Lines too) or `.parquet`.
        report: A file for all rejections, as JSON Lines; None writes none.
        format: A name in `FAMILIES`; None detects it.
        to: One of `SHAPES`; None takes the family's own.
        keep_meta: Keep the columns that the format does not use, as JSON text.
        split: The split of a data set on the Hub.
        **choices: `paths`, `tag_column` and `scheme`; see `Options`.

    Raises:
        DataError: As `load`; or the output cannot be written.
    """
    file = os.fspath(path)
    options = _options(choices)
    source = _Source(path, split)
    family = _detect(source, to, file) if format is None else _named(format)
    done = Report(family.name, _shape_of(family, to, file))
    job = _Job(family, done.to, keep_meta, options, done.notes)
    with writing.output(output) as rows, writing.output(report) as rejections:
        for record, result in job.results(source, file):
            if isinstance(result, dict):
                problem = rows.add(_flat(result))
                if not problem:
                    done.written += 1
                    continue
                result = _rejection(record, "", problem)
            _count(done, result)
            rejections.add(vars(result))
        if not done.total:
            raise DataError(_NO_ROWS.format(file))
    return done


def describe(report: Report, file: str | os.PathLike[str] | None = None) -> str:
    """Return a report in lines for people.

    Args:
        report: What `convert_file` gave.
        file: Where all rejections are, to name it.
    """
    lines = [
        f"{report.format} to {report.to}: {report.total:,} rows in, "
        f"{report.written:,} written, {report.rejected:,} left out"
    ]
    lines += [f"  note, {count:,} rows: {note}" for note, count in report.notes.items()]
    lines += [f"  left out: {one}" for one in report.examples]
    if report.rejected > len(report.examples):
        lines.append("  and more, by field and reason:")
        lines += [
            f"  {count:>9,}  {why}" for why, count in report.reasons.most_common(10)
        ]
    if report.rejected and file:
        lines.append(f"  all of them are in {os.fspath(file)}")
    return "\n".join(lines)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    # Columns differ from row to row, and Arrow could not find one type for them.
    if "meta" not in row:
        return row
    try:
        meta = json.dumps(row["meta"], ensure_ascii=False, default=str)
    except (ValueError, RecursionError) as error:
        meta = json.dumps({"lost": str(error)})
    return {**row, "meta": meta}


def _count(done: Report, rejection: Rejection) -> None:
    done.rejected += 1
    if len(done.examples) < _EXAMPLES:
        done.examples.append(rejection)
    # Without its numbers, a reason is the same for many rows.
    reason = _NUMBER.sub("#", f"{rejection.field} {rejection.reason}".strip())
    if reason in done.reasons or len(done.reasons) < _REASONS:
        done.reasons[reason] += 1


# --------------------------------------------------------------------------- conversion


def _options(choices: Mapping[str, Any]) -> Options:
    options = Options(**choices)
    for name, value, known in (
        ("paths", options.paths, ("best", "all")),
        ("scheme", options.scheme, (None, *conll.SCHEMES)),
    ):
        if value not in known:
            shown = quoted(one for one in known if one)
            raise DataError(f"{name}={value!r} is not known: pass one of {shown}.")
    return options


def _collect(
    found: list[Record],
    file: str,
    format: str | None,
    to: str | None,
    keep_meta: bool,
    options: Options,
) -> Conversion:
    family = _detect(found, to, file) if format is None else _named(format)
    done = Conversion([], [], family.name, _shape_of(family, to, file))
    job = _Job(family, done.to, keep_meta, options, done.notes)
    for _, result in job.results(found, file):
        if isinstance(result, dict):
            done.rows.append(result)
        else:
            done.rejected.append(result)
    return done


@dataclass(frozen=True)
class _Job:
    """How to convert records, and the notes that are taken on the way."""

    family: Family
    to: str
    keep_meta: bool
    options: Options
    notes: Counter[str]

    def results(
        self, source: Iterable[Record], file: str
    ) -> Iterator[tuple[Record, dict[str, Any] | Rejection]]:
        """Yield for each record its rows and rejections, at least one of them."""
        if self.family.prepare:
            name = file or "the data"
            source = self.family.prepare(source, self.options, self.notes, name)
        for record in source:
            for place, row in self._units(record):
                try:
                    if isinstance(row, RejectError):
                        raise row
                    yield record, self._row(row, record.value)
                except RejectError as error:
                    column = f"{place}.{error.column}".strip(".")
                    yield record, _rejection(record, column, error.reason)
                except RecursionError:
                    yield record, _rejection(record, place, "is nested too deeply")

    def _units(self, record: Record) -> list[tuple[str, Any]]:
        """Return the tasks in a record, each with its place, or why there is none."""
        row = record.value
        if record.problem:
            return [("", RejectError("", record.problem))]
        if not isinstance(row, Mapping):
            return [("", RejectError("", f"is {kind_name(row)}, not an object"))]
        if not self.family.units:
            return [("", row)]
        try:
            return self.family.units(row, self.options)
        except RejectError as error:
            return [("", error)]

    def _row(self, row: Mapping[str, Any], whole: Mapping[str, Any]) -> dict[str, Any]:
        example = self.family.convert(row)
        note = example.pop("note", None)
        made = shape(example, self.to, self.notes)
        if note:
            self.notes[note] += 1
        if _BESIDE & whole.keys() or self.to != "text":
            self._add_beside(made, whole)
        if self.keep_meta:
            used = self.family.columns | _BESIDE
            made["meta"] = {key: whole[key] for key in whole if key not in used}
        return made

    def _add_beside(self, made: dict[str, Any], whole: Mapping[str, Any]) -> None:
        tools = tools_of(whole) if "tools" in whole and self.to != "text" else ""
        if tools:
            made["tools"] = tools
        media = media_of(whole)
        if media:
            made["media"] = media
            self.notes["media stand under 'media': text alone was converted"] += 1


def _rejection(record: Record, column: str, reason: str) -> Rejection:
    if record.line not in (0, record.row):
        reason += f" (line {record.line})"
    return Rejection(record.file, record.row, column, reason)


# ---------------------------------------------------------------------------- detection


def _named(format: str) -> Family:
    family = FAMILIES.get(format)
    if family is None or family.convert is None:
        raise DataError(
            f"format={format!r} is not known: pass one of {quoted(convertible())}."
        )
    return family


def _shape_of(family: Family, to: str | None, file: str) -> str:
    if to is None:
        if family.asks:
            raise DataError(
                f"{file or 'the data'} is {family.name}: pass to='preference' to keep "
                f"better and worse answers, or to='messages' to learn the good ones."
            )
        return family.shapes[0]
    if to not in SHAPES:
        raise DataError(f"to={to!r} is not known: pass one of {quoted(SHAPES)}.")
    if to not in family.shapes:
        raise DataError(
            f"{file or 'the data'} is {family.name}, which cannot become {to}: pass "
            f"to= one of {quoted(family.shapes)}."
        )
    return to


def _detect(source: Iterable[Record], to: str | None, name: str) -> Family:
    """Return the one family of the rows that can take the shape `to`, or raise."""
    label = name or "the data"
    columns, total, first = observe(source)
    if not columns:
        if first is None and name:
            raise DataError(_NO_ROWS.format(name))
        raise DataError(
            f"{label} has no row that is an object with columns{_said(first)}."
        )
    found = _recognised(columns)
    if len(found) > 1:
        # Columns without any value, which exporters add, make nothing ambiguous.
        filled = {k: c for k, c in columns.items() if c.kinds - {"null", "empty"}}
        found = _recognised(filled) or found
    if len(found) > 1 and to:
        found = {f: names for f, names in found.items() if to in f.shapes} or found
    if not found:
        raise DataError(
            f"{label} fits no known format with the columns {quoted(columns)}: rename "
            f"the columns, or pass format= one of {quoted(convertible())}."
        )
    usable = [family for family in found if family.convert]
    if len(found) == 1 and usable:
        return usable[0]
    evidence = " or ".join(
        f"{family.name} ({_evidence(columns, names, total)})"
        for family, names in found.items()
    )
    if not usable:
        raise DataError(
            f"{label} is {evidence}, which is not converted: put the answers to learn "
            f"under the columns of one of {quoted(convertible())}."
        )
    advice = " or ".join(f"format={family.name!r}" for family in usable)
    raise DataError(f"{label} could be {evidence}: pass {advice}.")


def _recognised(columns: Columns) -> dict[Family, tuple[str, ...]]:
    found = {family: family.recognise(columns) for family in FAMILIES.values()}
    return {family: names for family, names in found.items() if names}


def _said(first: Record | None) -> str:
    if first is None:
        return " and is empty"
    return f": row 1 {first.problem or f'is {kind_name(first.value)}'}"


def _evidence(columns: Columns, names: Iterable[str], total: int) -> str:
    count = min(columns[name].count for name in names)
    first = max(columns[name].first for name in names)
    return f"{quoted(names)} in {count} of {total} rows, first in row {first}"
