"""What tests of notebooks share: a notebook run as a script, and a stand-in model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
CONTEXT = 2048  # tokens: RoPE has no table to outgrow


@pytest.fixture
def run_notebook(tmp_path: Path) -> Callable[..., str]:
    """Runs a notebook's code as a script in a process of its own."""

    def run(
        notebook: str,
        *,
        fewer: Mapping[str, str] | None = None,
        before: str = "",
        **environment: str,
    ) -> str:
        """Returns what the notebook printed.

        Args:
            notebook: its number, such as "05".
            fewer: texts of its code and what stands in their place; each must occur.
            before: code that runs first.
            **environment: variables, such as MODEL and ROWS.
        """
        (path,) = NOTEBOOKS.glob(f"{notebook}_*.ipynb")
        cells = nbformat.read(path, as_version=4).cells
        code = "\n\n".join(cell.source for cell in cells if cell.cell_type == "code")
        for many, few in (fewer or {}).items():
            assert many in code, f"{path.name} has no {many!r} any more"
            code = code.replace(many, few)
        script = tmp_path / "notebook.py"
        script.write_text(before + code, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(script)],
            cwd=NOTEBOOKS,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture
def save_stand_in(tmp_path: Path) -> Callable[..., str]:
    """Saves a model and a tokenizer for `MODEL`, with a wide context."""

    def save(model, tokenizer) -> str:
        """Returns the folder."""
        folder = tmp_path / "model"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        config = folder / "config.json"
        facts = json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps(facts | {"max_position_embeddings": CONTEXT}))
        return str(folder)

    return save


@pytest.fixture
def stand_in(save_stand_in, foreign_model, foreign_tokenizer) -> str:
    """A folder with a random LLaMA: other vocabulary, other template, untied."""
    return save_stand_in(foreign_model, foreign_tokenizer)
