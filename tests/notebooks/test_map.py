"""Notebook 00 without torch, with all records, and with hardly any."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "00_map.ipynb"
BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "trl", "peft"}:
            raise ImportError(f"the map needs no {name}")

sys.meta_path.insert(0, Block())
"""


def run(folder: Path, **environment: str) -> str:
    """Runs the notebook's code as a script that cannot import torch."""
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
    script = folder / "notebook.py"
    script.write_text(BLOCKED + code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=NOTEBOOK.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_map_needs_no_torch(tmp_path: Path) -> None:
    assert "techniques in one picture" in run(tmp_path)


def test_the_map_says_which_records_are_absent(tmp_path: Path) -> None:
    shutil.copy(ROOT / "benchmarks" / "results" / "base.json", tmp_path)
    assert "1 of 12 techniques have a record" in run(tmp_path, RECORDS=str(tmp_path))


def test_the_map_draws_another_models_sizes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "helpers" / "tiny_llama" / "config.json", tmp_path)
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    wider = config.replace('"intermediate_size": 512', '"intermediate_size": 1024')
    assert wider != config
    (tmp_path / "config.json").write_text(wider, encoding="utf-8")
    assert run(tmp_path, MODEL=str(tmp_path)) != run(tmp_path)
