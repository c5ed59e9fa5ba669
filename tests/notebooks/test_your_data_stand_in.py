"""Notebook 09 on another model, on few rows: other vocabulary, random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "09_your_data.ipynb"
FEWER = {
    "RANK, EPOCHS = 16, 6": "RANK, EPOCHS = 4, 1",
    "NEW_TOKENS = 48": "NEW_TOKENS = 4",
    "max_new_tokens=48": "max_new_tokens=4",
    'OUT = Path("../build/09")': "OUT = Path({out!r})",
}
"""The same cells, fewer steps: random weights have nothing to be measured."""


def run_notebook(folder: Path, **env: str) -> str:
    """Runs the notebook's code as a script, with its files in a folder."""
    import nbformat

    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
    for many, few in FEWER.items():
        assert many in code
        code = code.replace(many, few.format(out=str(folder / "out")))
    script = folder / "notebook.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=NOTEBOOK.parent,
        env=os.environ | {"PYTHONPATH": str(ROOT), "ROWS": "24"} | env,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_notebook_09_runs_on_a_stand_in_and_a_file_of_the_reader(
    tmp_path, foreign_model, foreign_tokenizer
) -> None:
    foreign_model.save_pretrained(tmp_path / "model")
    foreign_tokenizer.save_pretrained(tmp_path / "model")
    file = tmp_path / "mine.csv"
    lines = ["instruction,output"]
    lines += [f"Say the number {n}.,It is {n}." for n in range(30)]
    file.write_text("\n".join([*lines, "Say nothing.,", ""]), encoding="utf-8")
    said = run_notebook(tmp_path, MODEL=str(tmp_path / "model"), FILE=str(file))
    assert "31 rows in, 30 kept, 1 left out" in said
    assert "RESULT: 30 of 31 rows kept" in said
    assert "use_peft: true" in said
