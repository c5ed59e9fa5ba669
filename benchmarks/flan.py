"""FLAN in miniature: the same budget of rows, spread over more and more tasks.

    python benchmarks/flan.py      # 4 sizes × 5 seeds; goes on where it was stopped

Writes results/flan.json: exact match on wordings never seen, for tasks in the training
set, for tasks outside it, and for two clusters that are always outside. The learning
rate is the one that is best on rows of their own, `tuning.dev`.
"""

from __future__ import annotations

import functools
import sys
from random import Random

import records
import tuning

from helpers import models

sys.path.insert(0, str(records.ROOT / "datasets"))
import make_instructions  # noqa: E402

SIZES = (4, 8, 16, 28)
SEEDS = range(5)
ROWS = 2000
RATES = (8e-4, 1.5e-3, 3e-3)
COMMAND = "python benchmarks/flan.py"


def tune(rows: list[dict], rate: float, seed: int):
    """Returns the base tuned on rows, and the tokenizer."""
    model, tokenizer = models.load()
    encoded = tuning.encode(rows, tokenizer)
    tuning.train(model, tokenizer, encoded, seed=seed, rate=rate)
    return model, tokenizer


def run(size: int, rate: float, seed: int) -> dict[str, float]:
    """Tunes on `size` tasks and returns exact match by test."""
    order = tuning.shuffled(make_instructions.TRAINED, seed)
    tasks = order[:size]
    wordings, held = tuning.read("new_wordings"), tuning.read("held_out")
    rng = Random(f"flan {seed}")
    own = tuning.draw_rows(rng, tasks, ROWS, lexicon="train", clear_of=wordings + held)
    model, tokenizer = tune(own, rate, seed)
    tests = {
        "new wordings, tasks trained": [r for r in wordings if r["task"] in tasks],
        "new wordings, tasks not trained": [
            r for r in wordings if r["task"] not in tasks
        ],
        "two clusters never trained": held,
    }
    found = {}
    for name, test in tests.items():
        if test:
            hits = tuning.right(tuning.ask(model, tokenizer, test), test)
            found[name] = sum(hits) / len(hits)
    return found


def main() -> None:
    """Runs every size and seed, and writes the record."""
    path = tuning.kept("flan")
    rate, tried = tuning.chosen_rate(
        path,
        RATES,
        lambda rows, rate: tune(rows, rate, tuning.SEARCH),
        rows=ROWS,
        name="full tuning",
    )
    found = {}
    for size in SIZES:
        for seed in SEEDS:
            key = f"{size} tasks, rate {rate:g}, seed {seed}"
            work = functools.partial(run, size, rate, seed)
            result = tuning.resumed(path, key, work)
            print(f"flan: {key}: {result}", flush=True)
            for name, value in result.items():
                found.setdefault((name, size), []).append(value)
    rows = [
        {"technique": "full tuning", "split": name, "tasks": size, "rows": ROWS}
        | {"metric": "exact match", "seeds": list(SEEDS)}
        | {"rate": rate, "rates_tried": tried}
        | tuning.over_seeds(values)
        for (name, size), values in found.items()
    ]
    records.write("flan", rows, command=COMMAND, **tuning.hashes())


if __name__ == "__main__":
    main()
