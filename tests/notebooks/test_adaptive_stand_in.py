"""Notebook 02 on another model: other vocabulary, untied, random weights."""

from __future__ import annotations

FEWER = {
    "TOKENS = 60_000": "TOKENS = 12_000",
    "TAG_STEPS = 60": "TAG_STEPS = 2",
    "LABELLED = 200": "LABELLED = 16",
    '"general": 120, "comics": 25, "recipes": 25': (
        '"general": 9, "comics": 2, "recipes": 2'
    ),
    "draws=2000": "draws=100",
}
"""The same cells on fewer rows: random weights have nothing to be measured."""


def test_notebook_02_runs_on_a_stand_in(run_notebook, stand_in) -> None:
    said = run_notebook("02", fewer=FEWER, MODEL=stand_in)
    assert "RESULT: bits per byte on comics" in said
