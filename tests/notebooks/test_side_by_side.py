"""Notebook 08: on another model without a record, and its tables from a made-up one."""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


LITTLE = {"asked=300": "asked=30"}  # fewer might all be wrong by chance


def test_notebook_08_runs_on_a_stand_in_without_a_record(
    tmp_path, run_notebook, stand_in
) -> None:
    said = run_notebook(
        "08", fewer=LITTLE, MODEL=stand_in, RECORDS=str(tmp_path), ROWS="32"
    )
    assert "The record is absent" in said
    assert "RESULT: no record yet" in said


def made_up() -> dict:
    """A record of two techniques and all that the notebook draws of it."""
    sys.path += [str(ROOT / "benchmarks"), str(ROOT / "datasets")]
    import techniques as t

    def row(name: str, split: str, metric: str, value: float, **more: object) -> dict:
        bounds = {"low": max(0.0, value - 0.1), "high": value + 0.1}
        bounds |= {"run_low": 0.0, "run_high": 1.0}
        return {"technique": name, "split": split, "metric": metric, "value": value} | (
            bounds | more
        )

    rows = [row(t.MAJORITY, s, "accuracy", 0.33) for s in t.fine_tuning.TESTS]
    rows.append(row(t.RULE, "test", "accuracy", 0.66))
    for name, value in {"LoRA": 0.7, "zero-shot": 0.35}.items():
        costs = {"bytes_a_task": 900, "tokens_a_question": 30.0, "peak_megabytes": 600}
        costs |= {"trainable_parameters": int(1000 * value)}
        costs |= {"one_model_many_tasks": True}
        how = {"wording": t.WORDINGS[0]}
        if name == "LoRA":
            how = {"learning_rate": 5e-3, "train_seconds": 9.0}
        rows += [
            row(name, s, "accuracy", value, **costs, **how) for s in t.fine_tuning.TESTS
        ]
        rows += [row(name, "test", "macro-F1", value), row(name, "kept", "mood", 0.8)]
        rows += [row(name, "test", f"recall of {one}", value) for one in t.LABELS]
        rows += [row(name, "kept", "perplexity of prose", 4.0)]
    rows += [row("the base", "kept", "mood", 0.8)]
    rows += [row("the base", "kept", "perplexity of prose", 3.0)]
    rows += [
        row(arm, "seen task", "exact match", 0.5) for arm in (t.ONE_TASK, t.MANY_TASKS)
    ]
    pair = {"better": "LoRA", "worse": "zero-shot", "b": 9, "c": 1, "p": 0.02}
    return {
        "rows": rows,
        "neighbours": [pair | {"p_holm": 0.02}],
        "missing": [],
        "on_dev": {"zero-shot": {"0": 0.3}, "LoRA": {"0.005": 0.6, "0.002": 0.5}},
        "budget": {"rows": 32, "seeds": 2, "asked": 30},
        "command": "made up",
        "date": "2000-01-01",
    } | t.facts()


def test_notebook_08_fills_its_tables_from_a_record(tmp_path, run_notebook) -> None:
    record = tmp_path / "techniques.json"
    record.write_text(json.dumps(made_up()), encoding="utf-8")
    said = run_notebook("08", fewer=LITTLE, RECORDS=str(tmp_path), ROWS="32")
    assert "1 of 1 neighbours can be told apart" in said
    assert "compared with the record" in said
    assert "0.002: 50%  0.005: 60%" in said
    assert "above the majority on test: zero-shot" in said
    assert "RESULT: 2 techniques, LoRA 70% to zero-shot 35%, majority 33%" in said
