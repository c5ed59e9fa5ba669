"""From a path to text: compression by content, folders, limits, what is no data.

Nothing here runs what it reads: no pickle is loaded and no archive unpacked, so that
none can place a file outside of its folder. Packed data are read as a stream, and
one that swells beyond reason ends in an error instead of filling the memory.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from helpers.formats.results import DataError

DATA_SUFFIXES = frozenset(
    {".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet"}
    | {".conll", ".bio", ".iob", ".iob2", ".txt"}
)
PACKED_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")

_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_BUFFER = 1 << 18
# Text packs to a tenth, and rows that repeat each other to a fiftieth or so.
_FREE_BYTES = 1 << 26
_MOST_SWELLING = 200


def plain_name(path: Path) -> Path:
    """Return the path without a suffix of compression, in lower case."""
    name = path.name.lower()
    for suffix in PACKED_SUFFIXES:
        name = name.removesuffix(suffix)
    return Path(name)


def data_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the data files of a folder and below it, in order, and the others.

    Files whose names begin with a dot, and all in folders of such names, are no part.
    """
    known, others = [], []
    for path in sorted(folder.rglob("*")):
        inner = path.relative_to(folder).parts
        if path.is_dir() or any(part.startswith(".") for part in inner):
            continue
        (known if plain_name(path).suffix in DATA_SUFFIXES else others).append(path)
    return known, others


def first_bytes(path: Path, file: str, count: int = 512) -> bytes:
    """Return the first bytes of a file, or say why it cannot be read."""
    try:
        # A pipe or a device could be waited for without end.
        if path.exists() and not path.is_file():
            raise DataError(f"{file} is no regular file: save its content to one.")
        with path.open("rb") as handle:
            return handle.read(count)
    except FileNotFoundError:
        raise DataError(
            f"{file} does not exist: check the name and the working folder."
        ) from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(
            f"{file!r} cannot be read ({reason}): check its name and permissions."
        ) from error


def refuse_what_is_no_data(start: bytes, file: str) -> None:
    """Raise for pointers and archives, by the first bytes (a tar's are unpacked)."""
    if start.startswith(_LFS_POINTER):
        raise DataError(
            f"{file} is a Git LFS pointer and not the data: run `git lfs pull` in its "
            f"repository."
        )
    if start.startswith(b"PK\x03\x04"):
        raise DataError(
            f"{file} is a zip archive or a spreadsheet: unpack it and name a file in "
            f"it, or export the sheet as CSV."
        )
    if start[257:262] == b"ustar":
        raise DataError(
            f"{file} is a tar archive: unpack it and name a file in it, or the folder."
        )


def open_bytes(path: Path, file: str) -> IO[bytes]:
    """Open a file for reading its bytes, unpacked where they are packed."""
    start = first_bytes(path, file)
    refuse_what_is_no_data(start, file)
    # The first bytes decide, not the name: some clients unpack a .gz on the way.
    for magic, kind in _MAGIC.items():
        if start.startswith(magic):
            return io.BufferedReader(_Unpacking(path, file, kind), _BUFFER)
    return path.open("rb", buffering=_BUFFER)


def open_text(path: Path, file: str, *, newline: str) -> IO[str]:
    """Open a file as UTF-8 text, without a byte-order mark."""
    return io.TextIOWrapper(open_bytes(path, file), "utf-8-sig", newline=newline)


def open_seekable(path: Path, file: str) -> IO[bytes]:
    """Open a file whose reader jumps about in it: packed, it is unpacked to disk."""
    stream = open_bytes(path, file)
    if stream.seekable():
        return stream
    with stream:
        whole = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
        while block := stream.read(_BUFFER):
            whole.write(block)
    whole.seek(0)
    return whole


def not_utf8(path: Path, file: str) -> DataError:
    """Return the error for a file that is not UTF-8, with the place of the first."""
    decoder, offset = codecs.getincrementaldecoder("utf-8")(), 0
    with open_bytes(path, file) as stream:
        for block in iter(lambda: stream.read(_BUFFER), b""):
            pending = decoder.getstate()[0]
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                offset += error.start - len(pending)
                byte = error.object[error.start]
                break
            offset += len(block)
        else:  # cut in the middle of its last character
            pending = decoder.getstate()[0]
            offset, byte = offset - len(pending), pending[0]
    with open_bytes(path, file) as stream:
        wide = stream.read(2) in _UTF16_MARKS
    found = "it looks like UTF-16" if wide else f"byte 0x{byte:02x}"
    return DataError(
        f"{file} is not UTF-8 ({found} at byte offset {offset}): save it as UTF-8, or "
        f"as JSON Lines if it is a binary table."
    )


def refuse_what_swells(path: Path, file: str) -> None:
    """Raise for a packed file that soon unpacks to hundreds of times its size.

    While rows are read, the same limit holds; but by then, millions of tiny ones could
    have taken minutes.
    """
    with open_bytes(path, file) as stream:
        if not stream.seekable():
            for _ in range(_FREE_BYTES // _BUFFER + 1):
                if not stream.read(_BUFFER):
                    break


class _Unpacking(io.RawIOBase):
    """The bytes of a packed file; broken and swelling ones raise DataError."""

    def __init__(self, path: Path, file: str, kind: str) -> None:
        self._file = file
        self._kind = kind
        self._count = 0
        self._packed = path.open("rb")
        self._source = _unpacker(self._packed, kind)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._source.read(len(buffer))
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise DataError(
                f"{self._file} is a broken {self._kind} file ({error}): fetch or write "
                f"it again."
            ) from error
        if not self._count:
            refuse_what_is_no_data(data, self._file)
        self._count += len(data)
        if self._count > max(_FREE_BYTES, _MOST_SWELLING * self._packed.tell()):
            raise DataError(
                f"{self._file} unpacks to more than {_MOST_SWELLING} times its size: "
                f"unpack it yourself if you trust it."
            )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._source.close()
        self._packed.close()
        super().close()


def _unpacker(packed: IO[bytes], kind: str) -> Any:
    if kind == "gzip":
        return gzip.GzipFile(fileobj=packed)
    if kind == "bzip2":
        return bz2.BZ2File(packed)
    if kind == "xz":
        return lzma.LZMAFile(packed)
    import pyarrow

    return pyarrow.CompressedInputStream(packed, "zstd")


def lines_of(handle: IO[str], most: int, file: str) -> Iterator[str]:
    """Yield the lines of a text, none of them longer than `most` characters."""
    for number, line in enumerate(iter(lambda: handle.readline(most + 1), ""), 1):
        if len(line) > most:
            raise DataError(
                f"{file} has over {most:,} characters in line {number}, too many for a "
                f"row: check how it was written."
            )
        yield line
