"""Tests of helpers.formats on files: packed, in folders, large, hostile, half read."""

import bz2
import csv
import errno
import gzip
import json
import lzma
import os
import random
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import formats
from helpers.formats import (
    DataError,
    Record,
    conversion,
    convert,
    convert_file,
    files,
    load,
    reading,
    writing,
)
from helpers.formats import records as read_records

ROOT = Path(__file__).resolve().parents[2]
ROWS = [{"text": "é"}, {"text": "b"}, {"text": "c"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    import pyarrow

    return pyarrow.compress(data, codec="zstd", asbytes=True)


PACKERS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": zstd,
}


def parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def folder(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.iterdir()}


# -------------------------------------------------------------- packed, and Parquet


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_packed_files(tmp_path, suffix, name):
    content = LINES if name == "a.jsonl" else "text\r\né\r\nb\r\nc\r\n".encode()
    packed = PACKERS[suffix](content)
    for named in (name + suffix, name):  # the name does not matter
        path = tmp_path / named
        path.write_bytes(packed)
        assert load(path).rows == ROWS


@pytest.mark.parametrize("suffix", PACKERS)
def test_broken_packed_files(tmp_path, suffix):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(PACKERS[suffix](os.urandom(500))[:-60])
    kind = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd"}[suffix]
    with pytest.raises(DataError, match=f"is a broken {kind} file"):
        load(path)


@pytest.mark.parametrize("suffix", ["", *PACKERS])
def test_parquet(tmp_path, suffix):
    rows = [{"messages": [{"role": "user", "content": "Hi"}], "n": 1}]
    data = parquet(tmp_path / "a.parquet", rows).read_bytes()
    path = tmp_path / f"b.parquet{suffix}"
    path.write_bytes(PACKERS[suffix](data) if suffix else data)
    assert list(read_records(path)) == [Record(1, rows[0], file=str(path))]


@pytest.mark.parametrize("keep", [4, 50, -4])
def test_broken_parquet(tmp_path, keep):
    path = parquet(tmp_path / "a.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"is a broken Parquet file \(.*\): fetch or"):
        load(path)


def test_a_broken_packed_parquet_says_what_is_broken(tmp_path):
    path = parquet(tmp_path / "a.parquet", ROWS)
    path.write_bytes(gzip.compress(path.read_bytes())[:-9])
    with pytest.raises(DataError, match="is a broken gzip file"):
        load(path)


# ----------------------------------------------------------- folders, and the Hub


def test_a_folder_of_files(tmp_path):
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(LINES))
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "c.csv").write_text("text\nd\n")
    (tmp_path / "README.md").write_text("# no data")
    (tmp_path / ".hidden.json").write_text("oops")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.json").write_text("oops")
    parquet(tmp_path / "a.parquet", ROWS[:1])
    found = load(tmp_path)
    assert found.rows == [ROWS[0], *ROWS, {"text": "d"}]
    places = [(Path(r.file).name, r.row) for r in read_records(tmp_path)]
    assert places[0] == ("a.parquet", 1)
    assert places[-1] == ("c.csv", 1)
    (tmp_path / "inner" / "c.csv").write_text("text\n \n")
    (rejection,) = load(tmp_path).rejected
    assert rejection.file == str(tmp_path / "inner" / "c.csv")


def test_hub_ids_are_streamed(monkeypatch):
    import datasets

    asked = []

    def load_dataset(name, **options):
        asked.append((name, options))
        return iter(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load("someone/some-data", split="test")
    assert found.rows == ROWS
    assert asked == [("someone/some-data", {"split": "test", "streaming": True})]

    def refuse(name, **_):
        raise ConnectionError("no network.\nmore")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    message = r"^a/b is no file here, .* split 'train' cannot be read \(no network\)"
    with pytest.raises(DataError, match=message):
        load("a/b")


@pytest.mark.parametrize("name", ["no/data.json", "no/data.jsonl.gz", "a/b/c", "../x"])
def test_names_of_files_are_not_asked_of_the_hub(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load(name)


# ----------------------------------------------------------------- what is no data


def test_archives_are_refused_and_nothing_is_unpacked(tmp_path):
    inside = tmp_path / "work"
    inside.mkdir()
    with zipfile.ZipFile(inside / "a.zip", "w") as archive:
        archive.writestr("../escaped.json", "[]")
    with pytest.raises(DataError, match="is a zip archive or a spreadsheet: unpack"):
        load(inside / "a.zip")
    for mode, name in (("w", "a.tar"), ("w:gz", "a.tar.gz"), ("w:xz", "a.json")):
        with tarfile.open(inside / name, mode) as archive:
            archive.addfile(tarfile.TarInfo("../escaped.json"))
        with pytest.raises(DataError, match="is a tar archive: unpack it and name"):
            load(inside / name)
    assert sorted(folder(inside)) == ["a.json", "a.tar", "a.tar.gz", "a.zip"]
    assert not (tmp_path / "escaped.json").exists()


def test_a_pickle_is_never_run(tmp_path):
    import pickle

    class Harm:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "harm"),))

    for name in ("a.pkl", "a.json", "a.parquet", "a.pt"):
        (tmp_path / name).write_bytes(pickle.dumps(Harm(), protocol=4))
        with pytest.raises(DataError, match="is not UTF-8"):
            load(tmp_path / name)
    assert not (tmp_path / "harm").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(DataError, match="is no regular file"):
        load(tmp_path / "a.json")


@pytest.mark.parametrize("data", [LINES[:10] + b"\xff", LINES[:10] + b"\xc3"])
def test_the_place_of_what_is_not_utf8_across_blocks(tmp_path, data, monkeypatch):
    monkeypatch.setattr(files, "_BUFFER", 3)
    (tmp_path / "a.jsonl").write_bytes(data)
    with pytest.raises(DataError, match=rf"byte 0x{data[-1]:02x} at byte offset 10\)"):
        load(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").write_bytes(b'"\xc3\xa9\xe2\x82x"')
    with pytest.raises(DataError, match=r"byte 0xe2 at byte offset 3\)"):
        load(tmp_path / "b.jsonl")


# ------------------------------------------------- streaming: any window, one result

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
steady = settings(max_examples=150, deadline=None, derandomize=True, database=None)
KINDS = st.sampled_from(["array", "pretty", "lines", "object"])


def dump(rows: list, kind: str) -> str:
    if kind == "lines":
        return "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    if kind == "object":
        return json.dumps({"a": rows}, ensure_ascii=False, indent=1)
    return json.dumps(rows, ensure_ascii=False, indent=1 if kind == "pretty" else None)


def content(path: Path) -> object:
    try:
        return [(r.row, r.value, r.problem) for r in read_records(path)]
    except DataError as error:
        return re.sub("is neither.*|is broken.*", "is broken", str(error))


@steady
@given(
    st.lists(JSON, min_size=1, max_size=5),
    KINDS,
    st.integers(1, 12),
    st.integers(4, 40),
    st.sampled_from(["a.json", "a.jsonl"]),
    st.booleans(),
)
def test_small_windows_read_the_same(rows, kind, chunk, head, name, cut):
    text = dump(rows, kind).encode(errors="surrogatepass").decode(errors="replace")
    if cut:
        text = text[:-1]
    with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        path = Path(place, name)
        path.write_text(text, encoding="utf-8")
        whole = content(path)
        patch.setattr(reading, "_CHUNK", chunk)
        found = content(path)
        assert found == whole
        if not cut and kind != "object":
            values = [row for row in rows if row is not None or kind != "lines"]
            if isinstance(whole, list) and len(rows) > 1:
                assert len(whole) == len(rows) >= len(values)
        # A short head must still tell a sound array and an object for what they are;
        # but an object over many lines in a file named .jsonl is taken for its name.
        if not cut and kind != "lines" and (kind, name) != ("object", "a.jsonl"):
            patch.setattr(reading, "_HEAD", head)
            if kind == "pretty" or len(text) > head:
                assert content(path) in (whole, found)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[\n{"a": 1}\n{"a": 2}]', r"\(Expecting ',' delimiter at line 3, column 1\)"),
        ('[\n{"a": 1},\n{"a" 2}]', r"\(Expecting ':' delimiter at line 3, column 6\)"),
        ('[\n{"a": 1},\n{"a": "b\n"}]', r"\(Invalid control character at at line 3, "),
        ('[\n{"a": 1},\n', r"\(Expecting value at line 3, column 1\)"),
        ('[\n{"a": 1},\n\n"b', r"\(Unterminated string starting at at line 4, "),
        (
            '[\n{"a": 1},\n' + "9" * 5000 + "]",
            r"\(a number with too many digits",
        ),
        ("[1, 2, 3,\n4] 5", r"\(more text after its end in line 2\)"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
def test_broken_arrays_name_line_and_column(tmp_path, monkeypatch, text, said, chunk):
    monkeypatch.setattr(reading, "_CHUNK", chunk)
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(DataError, match=rf"broken or half-written JSON {said}"):
        list(read_records(path))


def test_empty_array_and_lone_values(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(" [ ] \n")
    assert list(read_records(path)) == []
    path.write_text("[] x")
    assert [r.problem for r in read_records(path)] == [
        "is not JSON (Extra data at column 4)"
    ]


def test_chains_of_thought_without_header(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_bytes(
        b'Is it "so"?\tyes\tOne.\\nTwo.\r\n\nmore\tfields\tthan\tthree\nQ?\tno\tR\n'
    )
    found = load(path)
    assert found.format == "chain_of_thought"
    asked, answered = found.rows[0]["messages"]
    assert asked["content"] == 'Is it "so"?'
    assert answered["content"] == "One.\nTwo.\n\nyes"
    (rejection,) = found.rejected
    assert str(rejection) == f"{path}, row 2: has 4 fields where other rows have 3 " + (
        "(line 3)"
    )
    path.write_text("prompt\tcompletion\tid\na\tb\t1\n")
    assert load(path).format == "prompt_completion"


def test_names_that_no_file_system_takes():
    with pytest.raises(DataError, match="cannot be read"):
        load("x" * 5000)


# ------------------------------------------------------------------ bombs and sizes


def test_rows_have_a_largest_size(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MOST_CHARACTERS", 60)
    monkeypatch.setattr(reading, "_CHUNK", 16)
    long = json.dumps({"text": "x" * 200})
    cases = {
        "a.jsonl": ('{"text": "a"}\n' + long, "over 60 characters in line 2"),
        "a.json": (f'[{{"text": "a"}},\n{long}]', "over 60 .* starts in line 2"),
        "b.json": ('{\n"text": "' + "x" * 200 + '"}', "over 60 .* starts in line 1"),
        "a.csv": ("text\n" + "x" * 200, "over 60 characters in line 2"),
        "b.csv": (
            'text\n"' + "x\n" * 200,
            "starts in line 2 that is never closed",
        ),
        "a.tsv": ("Hi you?\ta\tb\n" + "x" * 200, "over 60 characters in line 2"),
        "a.conll": ("a O\n" + "x" * 200, "over 60 characters in line 2"),
    }
    for name, (text, said) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=said):
            list(read_records(tmp_path / name))


PROBE = """
import re, sys, time
from helpers import formats
def peak():
    status = open("/proc/self/status").read()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) / 1e3
before, began = peak(), time.process_time()
try:
    report = formats.convert_file(sys.argv[1], sys.argv[2])
    print(report.total, report.rejected)
except formats.DataError as error:
    print(f"DataError: {error}")
print(peak() - before, time.process_time() - began)
"""
linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read on Linux"
)


def probe(path: Path) -> tuple[str, float, float]:
    command = [sys.executable, "-c", PROBE, str(path), str(path.with_name("out.jsonl"))]
    done = subprocess.run(
        command, cwd=ROOT, check=True, capture_output=True, timeout=120
    )
    said, numbers = done.stdout.decode().splitlines()
    megabytes, seconds = map(float, numbers.split())
    return said, megabytes, seconds


BOMBS = {
    "depth.json": lambda: b"[" * 30_000_000,
    "objects.json": lambda: b'{"a":' * 6_000_000,
    "depth.jsonl": lambda: b'{"a":' + b"[" * 5_000_000 + b"\n",
    "blank.json.gz": lambda: gzip.compress(b" " * 300_000_000, 1),
    "swells.jsonl.gz": lambda: gzip.compress(b'{"text": "a"}\n' * 20_000_000, 9),
    "string.json.bz2": lambda: bz2.compress(b'[{"a": "' + b"x" * 90_000_000),
    "many.json": lambda: b'{"a": [' + b'{"":0},' * 5_000_000 + b"0]}",
    "number.jsonl": lambda: b'{"a": ' + b"9" * 9_000_000 + b"}\n",
    "quote.csv": lambda: b'text\n"' + b"x\n" * 15_000_000,
    "wide.csv": lambda: b"a," * 10_000_000,
    "digits.json": lambda: b"[" + b"1" * 30_000_000,
}


@linux
@pytest.mark.parametrize("name", BOMBS)
def test_bombs_end_soon_and_small(tmp_path, name):
    (tmp_path / name).write_bytes(BOMBS[name]())
    said, megabytes, seconds = probe(tmp_path / name)
    assert said.startswith("DataError: ")
    assert megabytes < 500
    assert seconds < 5
    assert not (tmp_path / "out.jsonl").exists()


def test_what_swells_later_is_refused_too(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_BUFFER", 1 << 10)
    monkeypatch.setattr(files, "_FREE_BYTES", 1 << 12)
    lines = [json.dumps({"text": os.urandom(20).hex()}) for _ in range(300)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
    assert len(load(path).rows) == 300
    swollen = '\n{"text": "a"}' * 1_000_000
    path.write_bytes(gzip.compress(("\n".join(lines) + swollen).encode()))
    with pytest.raises(DataError, match="unpacks to more than 200 times its size"):
        for record in read_records(path):
            assert not record.problem
    assert record.row > 300


@linux
@pytest.mark.parametrize(("kind", "size"), [("lines", 300e6), ("array", 60e6)])
def test_memory_is_flat_however_long_the_file(tmp_path, kind, size):
    rows = [
        json.dumps({"prompt": f"{n} " + "why so " * 400, "completion": "since " * 400})
        for n in range(50)
    ]
    between = "\n" if kind == "lines" else ",\n"
    block = between.join(rows)
    times = int(size) // len(block) + 1
    path = tmp_path / "a.json"
    with path.open("w") as handle:
        handle.write("" if kind == "lines" else "[")
        handle.writelines(block + between for _ in range(times - 1))
        handle.write(block + ("" if kind == "lines" else "]"))
    assert path.stat().st_size > size
    said, megabytes, seconds = probe(path)
    assert said == f"{50 * times} 0"
    assert megabytes < 200
    assert seconds < 20


def as_csv(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def as_gzip(rows: list[dict], path: Path) -> None:
    with gzip.open(path, "wt", compresslevel=1) as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)


def as_parquet(rows: list[dict], path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=100)


@linux
@pytest.mark.parametrize(
    ("name", "write"),
    [("a.csv", as_csv), ("a.jsonl.gz", as_gzip), ("a.parquet", as_parquet)],
)
def test_memory_is_flat_in_other_containers_too(tmp_path, name, write):
    draw = random.Random(0)
    sides = ("prompt", "completion")
    rows = [{side: draw.randbytes(5000).hex() for side in sides} for _ in range(3000)]
    write(rows, tmp_path / name)
    said, megabytes, _ = probe(tmp_path / name)
    assert said == "3000 0"
    assert megabytes < 140  # a reader that holds the file takes 160 and more


# ----------------------------------------------------------------- files from files


def write(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


MIXED = [
    {"prompt": "Hi", "completion": "Yo", "id": 1},
    {"prompt": "Hi", "completion": ""},
    {"prompt": "Hi", "completion": None, "id": "x"},
    {"prompt": "Eh", "completion": " So"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_convert_file_writes_what_load_gives(tmp_path, suffix):
    source = write(tmp_path / "in.jsonl", MIXED)
    target, left = tmp_path / f"out{suffix}", tmp_path / "left.jsonl"
    report = convert_file(source, target, report=left, to="prompt_completion")
    expected = load(source, to="prompt_completion")
    assert [record.value for record in read_records(target)] == expected.rows
    assert (report.total, report.written, report.rejected) == (4, 2, 2)
    assert report.examples == expected.rejected
    assert report.reasons == {"completion is blank": 1, "completion is null": 1}
    listed = [json.loads(line) for line in left.read_text().splitlines()]
    assert listed == [vars(rejection) for rejection in expected.rejected]
    assert sorted(folder(tmp_path)) == sorted(["in.jsonl", "left.jsonl", target.name])


def test_the_report_says_it_in_lines(tmp_path):
    rows = [{"text": ""}] * 30 + [{"text": 5}, {"text": "ok", "images": ["a"]}]
    source = write(tmp_path / "in.jsonl", rows)
    report = convert_file(source, tmp_path / "out.jsonl")
    lines = formats.describe(report, tmp_path / "left").splitlines()
    assert lines[0] == "text to text: 32 rows in, 1 written, 31 left out"
    assert lines[1].startswith("  note, 1 rows: media stand under 'media'")
    assert lines[2] == f"  left out: {source}, row 1, field 'text': is blank"
    assert lines[22] == "  and more, by field and reason:"
    assert lines[23].split() == ["30", "text", "is", "blank"]
    assert lines[-1] == f"  all of them are in {tmp_path / 'left'}"
    assert len(formats.describe(report).splitlines()) == len(lines) - 1


def test_reasons_do_not_grow_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "_REASONS", 2)
    rows = [{"messages": [{"role": name}]} for name in "abcd"]
    report = convert_file(write(tmp_path / "a.jsonl", rows), tmp_path / "b.jsonl")
    assert (report.rejected, len(report.reasons)) == (4, 2)


def test_other_columns_are_kept_as_text(tmp_path):
    source = write(tmp_path / "in.jsonl", MIXED)
    convert_file(source, tmp_path / "out.parquet", keep_meta=True)
    meta = [r.value["meta"] for r in read_records(tmp_path / "out.parquet")]
    assert [json.loads(one) for one in meta] == [{"id": 1}, {}]
    deep: list = []
    for _ in range(100_000):  # deeper than any Python's limit
        deep = [deep]
    (flat,) = convert([{"text": "a", "n": deep}], keep_meta=True).rows
    assert (
        "maximum recursion depth" in json.loads(conversion._flat(flat)["meta"])["lost"]
    )


def test_rows_that_json_cannot_hold_are_reported(tmp_path):
    call = {"role": "assistant", "content": "x", "tool_calls": [{"n": float("nan")}]}
    source = tmp_path / "a.jsonl"
    source.write_text(
        json.dumps({"messages": [{"role": "user", "content": "x"}, call]})
    )
    report = convert_file(source, tmp_path / "b.jsonl")
    assert report.written == 0
    assert "row 1: cannot be written as JSON (Out of range" in str(report.examples[0])


def test_parquet_of_rows_that_differ(tmp_path):
    def calling(arguments):
        call = [{"name": "f", "arguments": arguments}]
        answer = {"role": "assistant", "content": "x", "tool_calls": call}
        return {"messages": [{"role": "user", "content": "x"}, answer]}

    rows = [calling("{}"), calling({"a": 1})]
    source = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="cannot be Parquet, since rows differ"):
        convert_file(source, tmp_path / "b.parquet")
    assert sorted(folder(tmp_path)) == ["a.jsonl"]
    assert convert_file(source, tmp_path / "b.jsonl").written == 2


def test_parquet_takes_columns_that_come_late(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_PARQUET_ROWS", 2)
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    rows = [{"messages": chat}] * 3 + [{"messages": chat, "tools": [{"name": "f"}]}]
    source = write(tmp_path / "a.jsonl", rows)
    convert_file(source, tmp_path / "b.parquet")
    tools = [r.value["tools"] for r in read_records(tmp_path / "b.parquet")]
    assert tools == [None, None, None, '[{"name": "f"}]']


def test_a_file_without_rows(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    for options in ({}, {"format": "text"}):
        with pytest.raises(DataError, match="a.json holds no rows"):
            convert_file(tmp_path / "a.json", tmp_path / "b.jsonl", **options)
    assert sorted(folder(tmp_path)) == ["a.json"]


def test_an_error_halfway_leaves_what_was_there(tmp_path):
    source = tmp_path / "a.jsonl"
    source.write_bytes(LINES + b"\xff")
    for target in ("out.jsonl", "out.parquet"):
        (tmp_path / target).write_text("old")
        with pytest.raises(DataError, match="is not UTF-8"):
            convert_file(source, tmp_path / target, format="text")
        assert (tmp_path / target).read_text() == "old"
    assert sorted(folder(tmp_path)) == ["a.jsonl", "out.jsonl", "out.parquet"]


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    source = write(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "out.jsonl").write_text("old")

    def no_space(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DataError, match="could not be written .No space left"):
        convert_file(source, tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "old"
    assert sorted(folder(tmp_path)) == ["a.jsonl", "out.jsonl"]


def test_a_source_may_be_its_own_target(tmp_path):
    source = write(tmp_path / "a.jsonl", MIXED)
    expected = load(source).rows
    convert_file(source, source)
    assert load(source).rows == expected


WRITER = """
import json, sys
from helpers import formats
def rows():
    for n in range(3000):
        yield {"who": sys.argv[2], "n": n}
formats.write_jsonl(rows(), sys.argv[1])
"""


def test_of_two_writers_one_wins(tmp_path):
    target = tmp_path / "out.jsonl"
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(target), who], cwd=ROOT)
        for who in ("one", "two")
    ]
    assert [process.wait() for process in running] == [0, 0]
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert len({row["who"] for row in rows}) == 1
    assert [row["n"] for row in rows] == list(range(3000))
    assert sorted(folder(tmp_path)) == ["out.jsonl"]


ENDLESS = """
import signal, sys, time
# a job in the background inherits that Ctrl-C is ignored
signal.signal(signal.SIGINT, signal.default_int_handler)
from helpers import formats
def rows():
    n = 0
    while True:
        n += 1
        if n == 1000:
            print("ready", flush=True)
        time.sleep(0.0001)
        yield {"n": n}
formats.write_jsonl(rows(), sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="sends the signal of Ctrl-C")
def test_ctrl_c_leaves_no_half_file(tmp_path):
    import signal

    (tmp_path / "out.jsonl").write_text("old")
    process = subprocess.Popen(
        [sys.executable, "-c", ENDLESS, str(tmp_path / "out.jsonl")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert b"KeyboardInterrupt" in errors
    assert folder(tmp_path) == {"out.jsonl": b"old"}
