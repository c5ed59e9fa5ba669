"""Notebook 01 with another model's tokenizer: other vocabulary, no padding token."""

from __future__ import annotations


def test_notebook_01_runs_on_a_stand_in(run_notebook, stand_in) -> None:
    said = run_notebook("01", MODEL=stand_in, ROWS="400")
    assert "by hand as by the library" in said
    assert "RESULT: perplexity uniform" in said
