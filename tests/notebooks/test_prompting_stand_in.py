"""Notebook 04 on another model: other vocabulary, other template, random weights."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "04_prompt_engineering.ipynb"
FEWER = {
    "DEV, TEST = 240, 400": "DEV, TEST = 8, 8",
    "ASKED = 60": "ASKED = 2",
    "DRAWS = 3": "DRAWS = 1",
    "else 2e-5": "else 1e-3",
}
"""Fewer rows, larger steps: random weights have nothing to be measured."""


def test_notebook_04_runs_on_a_stand_in(
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
        env=os.environ
        | {"MODEL": str(tmp_path / "model"), "ROWS": "320", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "RESULT: best prompt on test" in done.stdout
