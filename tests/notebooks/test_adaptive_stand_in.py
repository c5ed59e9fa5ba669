"""Notebook 02 on another model: other vocabulary, untied, random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "02_adaptive_tuning.ipynb"
FEWER = {
    "TOKENS = 60_000": "TOKENS = 12_000",
    "TAG_STEPS = 60": "TAG_STEPS = 2",
    "LABELLED = 200": "LABELLED = 16",
    '"general": 120, "comics": 25, "recipes": 25': (
        '"general": 9, "comics": 2, "recipes": 2'
    ),
    "draws=2000": "draws=100",
}
"""The same cells on fewer rows: random weights have nothing to be measured."""


def test_notebook_02_runs_on_a_stand_in(
    tmp_path, foreign_model, foreign_tokenizer
) -> None:
    import nbformat

    foreign_model.save_pretrained(tmp_path / "model")
    foreign_tokenizer.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"  # RoPE has no table to outgrow
    facts = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(facts | {"max_position_embeddings": 1024}))
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
    for many, few in FEWER.items():
        assert many in code
        code = code.replace(many, few)
    script = tmp_path / "notebook.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=NOTEBOOK.parent,
        env=os.environ | {"MODEL": str(tmp_path / "model"), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RESULT: bits per byte on comics" in done.stdout
