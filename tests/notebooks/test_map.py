"""Notebook 00 without torch, with all records, and with hardly any."""

from __future__ import annotations

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCKED = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "transformers", "trl", "peft"}:
            raise ImportError(f"the map needs no {name}")

sys.meta_path.insert(0, Block())
"""


def test_the_map_needs_no_torch(run_notebook) -> None:
    assert "techniques in one picture" in run_notebook("00", before=BLOCKED)


def test_the_map_says_which_records_are_absent(tmp_path: Path, run_notebook) -> None:
    shutil.copy(ROOT / "benchmarks" / "results" / "base.json", tmp_path)
    assert "1 of 12 techniques have a record" in run_notebook(
        "00", before=BLOCKED, RECORDS=str(tmp_path)
    )


def test_the_map_draws_another_models_sizes(tmp_path: Path, run_notebook) -> None:
    shutil.copy(ROOT / "helpers" / "tiny_llama" / "config.json", tmp_path)
    config = (tmp_path / "config.json").read_text(encoding="utf-8")
    wider = config.replace('"intermediate_size": 512', '"intermediate_size": 1024')
    assert wider != config
    (tmp_path / "config.json").write_text(wider, encoding="utf-8")
    assert run_notebook("00", before=BLOCKED, MODEL=str(tmp_path)) != run_notebook(
        "00", before=BLOCKED
    )
