"""Mutated real files: `formats.convert_file` converts, reports or says what is wrong.

    python benchmarks/fuzz.py --data FOLDER                # 10,000 files, a record
    python benchmarks/fuzz.py --data FOLDER --count 100    # a trial, no record

Each file is a real one with a few random changes: bytes flipped, cut out, doubled or
put in, its end cut off, packed by gzip, or renamed. The only error allowed is
`DataError`; rows in must be rows written and rows left out; what was written must be
readable; an error must leave no file behind. Anything else stops the run and keeps the
file.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import records

sys.path.insert(0, str(records.ROOT))

from helpers import formats  # noqa: E402

COUNT = 10_000
MOST_BYTES = 300_000
PIECES = (b'"', b"\\", b"{", b"}", b"[", b"]", b",", b"\n", b"\t", b"\x00", b"\xff")
PIECES += (b"null", b"NaN", b"1e999", b'"\\ud800"', b"\xef\xbb\xbf", b"\r\n", b"[[[[")
NAMES = (".json", ".jsonl", ".csv", ".tsv", ".conll", ".txt", ".parquet")


def mutated(data: bytes, draw: random.Random) -> bytes:
    """Returns the bytes with one to five random changes."""
    changed = bytearray(data)
    for _ in range(draw.randint(1, 5)):
        place = draw.randrange(len(changed) + 1)
        length = min(draw.choice((1, 1, 5, 200)), len(changed) - place)
        what = draw.randrange(5)
        if what == 0 and length:
            changed[place] = draw.randrange(256)
        elif what == 1:
            del changed[place : place + length]
        elif what == 2:
            changed[place:place] = changed[place : place + length]
        elif what == 3:
            changed[place:place] = draw.choice(PIECES)
        elif draw.random() < 0.2:
            del changed[place:]
    return bytes(changed)


def outcome(path: Path, options: dict) -> str:
    """Converts a file and returns what became of it; raises if it broke a promise."""
    target = path.with_name("out.jsonl")
    try:
        report = formats.convert_file(path, target, **options)
    except formats.DataError as error:
        if target.exists() or "\n" in str(error).strip():
            raise AssertionError(
                f"a half file, or more than a sentence: {error}"
            ) from None
        return "refused"
    lines = target.read_text(encoding="utf-8").split("\n")[:-1]
    target.unlink()
    if len(lines) != report.written or not report.total:
        raise AssertionError(f"{len(lines)} lines of {report.written} written")
    for line in lines[:3]:
        json.loads(line)
    return "converted in part" if report.rejected else "converted"


def run(data: Path, count: int, seed: int) -> tuple[Counter[str], float]:
    """Tries `count` files; returns how often each outcome was, and the longest."""
    draw = random.Random(seed)
    sources = [(p.name, p.read_bytes()[:MOST_BYTES]) for p in sorted(data.iterdir())]
    seen: Counter[str] = Counter()
    longest = 0.0
    with tempfile.TemporaryDirectory() as place:
        for number in range(count):
            name, content = draw.choice(sources)
            content = mutated(content, draw)
            if draw.random() < 0.1:
                content = gzip.compress(content, 1)
                content = mutated(content, draw) if draw.random() < 0.5 else content
            if draw.random() < 0.1:
                name = Path(name).stem + draw.choice(NAMES)
            path = Path(place, name)
            path.write_bytes(content)
            # Half of the runs settle what would be asked, so that more is converted.
            options = {"to": "messages"} if draw.random() < 0.5 else {}
            began = time.process_time()
            try:
                seen[outcome(path, options)] += 1
            except BaseException:
                kept = records.ROOT / "build" / f"fuzz_{seed}_{number}_{name}"
                kept.parent.mkdir(exist_ok=True)
                kept.write_bytes(content)
                print(f"file {number} of seed {seed} is kept as {kept}", flush=True)
                raise
            longest = max(longest, time.process_time() - began)
            path.unlink()
    return seen, longest


def main() -> None:
    """Reads the command line, runs, and writes the record of a full run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of real files")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    seen, longest = run(options.data, options.count, options.seed)
    rows = [
        {
            "technique": what,
            "metric": "files",
            "value": seen[what],
            "n": options.count,
            "seeds": [options.seed],
        }
        for what in ("converted", "converted in part", "refused")
    ]
    rows.append(
        {
            "technique": "longest",
            "metric": "CPU seconds for a file",
            "value": round(longest, 3),
            "n": options.count,
            "seeds": [options.seed],
        }
    )
    for row in rows:
        print(f"{row['technique']:18s} {row['value']:>9,} {row['metric']}")
    if options.count >= COUNT:
        names = sorted(path.name for path in options.data.iterdir())
        records.write(
            "fuzz",
            rows,
            command="python benchmarks/fuzz.py --data FOLDER",
            files=names,
            data_hash=records.file_hash(*(options.data / name for name in names)),
        )


if __name__ == "__main__":
    main()
