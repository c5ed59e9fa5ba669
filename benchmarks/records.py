"""Records: what was run, on what, and what came out, as JSON under results/."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LIBRARIES = ("torch", "transformers", "trl", "peft", "datasets", "tokenizers", "numpy")


def file_hash(*paths: Path) -> str:
    """Returns one SHA-256 over the bytes of some files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def hardware() -> str:
    """Returns the processor, its cores and, where there is one, the GPU, in words."""
    import torch

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            li for li in info.read_text().splitlines() if li.startswith("model name")
        ]
        cpu = names[0].split(":")[1].strip() if names else cpu
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cpu}, {os.cpu_count()} cores{gpu}"


def versions() -> dict[str, str]:
    """Returns the version of each library that is installed."""
    found = importlib.metadata.packages_distributions()
    return {lib: importlib.metadata.version(lib) for lib in LIBRARIES if lib in found}


def table(header: list[str], rows: list[list[str]]) -> str:
    """Returns a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def write(
    name: str,
    rows: list[dict],
    *,
    command: str,
    folder: Path | None = None,
    **facts: object,
) -> Path:
    """Writes a record aside and puts it in place whole.

    Args:
        name: of the file, without ending.
        rows: one dict per measurement: what, value, low, high, n, seeds, ...
        command: the command line that repeats it.
        folder: where it is written; None: to the records.
        **facts: model and data hashes and whatever else the reader needs.
    """
    folder = folder or RESULTS
    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "rows": rows,
        "command": command,
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "python": sys.version.split()[0],
        "versions": versions(),
        **facts,
    }
    path = folder / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path
