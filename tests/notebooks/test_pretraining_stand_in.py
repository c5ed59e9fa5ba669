"""Notebook 01 with another model's tokenizer: other vocabulary, no padding token."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"


def test_notebook_01_runs_on_a_stand_in(
    tmp_path, foreign_model, foreign_tokenizer
) -> None:
    foreign_model.save_pretrained(tmp_path / "model")
    foreign_tokenizer.save_pretrained(tmp_path / "model")
    cells = nbformat.read(NOTEBOOKS / "01_pretraining.ipynb", as_version=4).cells
    code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
    script = tmp_path / "notebook.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=NOTEBOOKS,
        env=os.environ
        | {"MODEL": str(tmp_path / "model"), "ROWS": "400", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "by hand as by the library" in done.stdout
    assert "RESULT: perplexity uniform" in done.stdout
