"""Notebook 07 on another model: other vocabulary, other template, random weights."""

from __future__ import annotations

FEWER = {
    "DEV, TEST = 150, 300": "DEV, TEST = 6, 8",
    "stream[:40]": "stream[:10]",
    "rows=80": "rows=5",
    "for size in [5, 20, 80]": "for size in [5]",
}
"""The same cells on fewer rows: random weights have nothing to be measured."""


def test_notebook_07_runs_on_a_stand_in(run_notebook, stand_in) -> None:
    said = run_notebook("07", fewer=FEWER, MODEL=stand_in, ROWS="30")
    assert "RESULT: hard → soft prompt on test" in said
