"""Notebook 05 on another model: other vocabulary, other template, untied, random."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "05_instruction_tuning.ipynb"


@pytest.mark.parametrize("marks", [False, True])
def test_notebook_05_runs_on_a_stand_in(
    tmp_path, foreign_model, foreign_tokenizer, marks
) -> None:
    import nbformat

    if marks:
        foreign_tokenizer.chat_template = foreign_tokenizer.chat_template.replace(
            "{{ message['content'] | trim }}<|eot|>",
            "{% if message['role'] == 'assistant' %}{% generation %}"
            "{{ message['content'] }}<|eot|>{% endgeneration %}{% else %}"
            "{{ message['content'] }}<|eot|>{% endif %}",
        )
    foreign_model.save_pretrained(tmp_path / "model")
    foreign_tokenizer.save_pretrained(tmp_path / "model")
    config = tmp_path / "model" / "config.json"  # RoPE has no table to outgrow
    facts = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(facts | {"max_position_embeddings": 1024}))
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
    script = tmp_path / "notebook.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=NOTEBOOK.parent,
        env=os.environ
        | {"MODEL": str(tmp_path / "model"), "ROWS": "640", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "ends by itself" in done.stdout
