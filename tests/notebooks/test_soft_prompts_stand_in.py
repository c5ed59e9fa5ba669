"""Notebook 07 on another model: other vocabulary, other template, random weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "07_prompt_tuning.ipynb"
FEWER = {
    "DEV, TEST = 150, 300": "DEV, TEST = 6, 8",
    "stream[:40]": "stream[:10]",
    "rows=80": "rows=5",
    "for size in [5, 20, 80]": "for size in [5]",
}
"""The same cells on fewer rows: random weights have nothing to be measured."""


def test_notebook_07_runs_on_a_stand_in(
    tmp_path, foreign_model, foreign_tokenizer
) -> None:
    import nbformat

    foreign_model.save_pretrained(tmp_path / "model")
    foreign_tokenizer.save_pretrained(tmp_path / "model")
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
        env=os.environ
        | {"MODEL": str(tmp_path / "model"), "ROWS": "30", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RESULT: hard → soft prompt on test" in done.stdout
