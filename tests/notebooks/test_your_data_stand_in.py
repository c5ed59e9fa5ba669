"""Notebook 09 on another model, on few rows: other vocabulary, random weights."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"
FEWER = {
    "RANK, EPOCHS = 16, 6": "RANK, EPOCHS = 4, 1",
    "NEW_TOKENS = 48": "NEW_TOKENS = 4",
    "max_new_tokens=48": "max_new_tokens=4",
}
"""The same cells, fewer steps: random weights have nothing to be measured."""


def test_notebook_09_runs_on_a_stand_in_and_a_file_of_the_reader(
    tmp_path, run_notebook, stand_in
) -> None:
    file = tmp_path / "mine.csv"
    lines = ["instruction,output"]
    lines += [f"Say the number {n}.,It is {n}." for n in range(30)]
    file.write_text("\n".join([*lines, "Say nothing.,", ""]), encoding="utf-8")
    out = {'OUT = Path("../build/09")': f"OUT = Path({str(tmp_path / 'out')!r})"}
    said = run_notebook(
        "09", fewer=FEWER | out, MODEL=stand_in, FILE=str(file), ROWS="24"
    )
    assert "31 rows in, 24 kept, 7 left out" in said
    assert "6  beyond ROWS" in said
    assert "RESULT: 24 of 31 rows kept" in said
    assert "use_peft: true" in said
    # The command that the notebook hands on runs as it is, and learns.
    trl = Path(sys.executable).with_name("trl")
    more = ["--logging_steps=1", "--num_train_epochs=8", "--learning_rate=5e-3"]
    done = subprocess.run(
        [trl, "sft", "--config", tmp_path / "out" / "run.yaml", *more],
        cwd=NOTEBOOKS,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = re.findall(r"'loss': '?([\d.]+)", done.stdout)
    assert len(losses) >= 8 and float(losses[-1]) < float(losses[0])
    assert (tmp_path / "out" / "trl" / "adapter_model.safetensors").exists()
