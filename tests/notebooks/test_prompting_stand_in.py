"""Notebook 04 on another model: other vocabulary, other template, random weights."""

from __future__ import annotations

FEWER = {
    "DEV, TEST = 240, 400": "DEV, TEST = 8, 8",
    "ASKED = 60": "ASKED = 2",
    "DRAWS = 3": "DRAWS = 1",
    "else 2e-5": "else 1e-3",
}
"""Fewer rows, larger steps: random weights have nothing to be measured."""


def test_notebook_04_runs_on_a_stand_in(run_notebook, stand_in) -> None:
    said = run_notebook("04", fewer=FEWER, MODEL=stand_in, ROWS="320")
    assert "RESULT: best prompt on test" in said
