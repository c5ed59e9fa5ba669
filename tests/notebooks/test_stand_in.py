"""Notebooks on another model: other vocabulary, other template, untied, random."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"


def run_on_stand_in(notebook: str, folder: Path, model, tokenizer, *, rows: int) -> str:
    """Runs a notebook's code with MODEL set, as a script; returns what it printed."""
    import nbformat

    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    config = folder / "model" / "config.json"  # RoPE has no table to outgrow
    facts = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps(facts | {"max_position_embeddings": 1024}))
    cells = nbformat.read(NOTEBOOKS / notebook, as_version=4).cells
    code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
    script = folder / "notebook.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=NOTEBOOKS,
        env=os.environ
        | {"MODEL": str(folder / "model"), "ROWS": str(rows), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("marks", [False, True])
def test_notebook_05_runs_on_a_stand_in(
    tmp_path, foreign_model, foreign_tokenizer, marks
) -> None:
    if marks:
        foreign_tokenizer.chat_template = foreign_tokenizer.chat_template.replace(
            "{{ message['content'] | trim }}<|eot|>",
            "{% if message['role'] == 'assistant' %}{% generation %}"
            "{{ message['content'] }}<|eot|>{% endgeneration %}{% else %}"
            "{{ message['content'] }}<|eot|>{% endif %}",
        )
    said = run_on_stand_in(
        "05_instruction_tuning.ipynb",
        tmp_path,
        foreign_model,
        foreign_tokenizer,
        rows=640,
    )
    assert "ends by itself" in said


def test_notebook_03_runs_on_a_stand_in(
    tmp_path, foreign_model, foreign_tokenizer
) -> None:
    said = run_on_stand_in(
        "03_fine_tuning.ipynb", tmp_path, foreign_model, foreign_tokenizer, rows=320
    )
    assert "loss by hand" in said


def test_notebook_06_runs_on_a_stand_in(
    tmp_path, foreign_model, foreign_tokenizer
) -> None:
    import copy

    config = copy.deepcopy(foreign_model.config)
    config.intermediate_size = 128  # rows of whole blocks of 64
    model = type(foreign_model)(config)
    said = run_on_stand_in(
        "06_qlora.ipynb", tmp_path, model, foreign_tokenizer, rows=240
    )
    assert "as trained" in said
    assert "refused:" in said
