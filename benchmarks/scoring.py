"""Label scores in batches with a kept prefix, against one by one, in one run.

    python benchmarks/scoring.py                # zero-shot and with eight examples

Each side runs in fresh processes, in turn; the record holds medians, the ratios with
their spread and each side's peak memory. The scores must be equal up to rounding, and
each side must choose the same labels, or there is no record.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import records
import speed

PAIRS = 5
COMMAND = "python benchmarks/scoring.py"
QUESTIONS, BATCH = 256, 64
SHOTS = (0, 8)
LABELS = [" glad", " sad"]
TOLERANCE = 1e-3  # nats
GOAL = 3.0


def prompts(shots: int) -> list[str]:
    """Returns questions about the mood of situations, behind the same examples."""
    sys.path.insert(0, str(records.ROOT / "datasets"))
    import world

    rng = Random("scoring")

    def told(split: str, mood: str) -> str:
        name = rng.choice(world.NAMES)
        return f"{world.situation(rng, name, mood, split)} {name} was"

    word = {"good": "glad", "bad": "sad"}
    moods = ["good", "bad"] * (QUESTIONS // 2)
    shown = [f"{told('train', mood)} {word[mood]}.\n" for mood in moods[:shots]]
    return ["".join(shown) + told("test", mood) for mood in moods]


def loaded():
    """Returns the shipped model and its tokenizer, warmed up."""
    from helpers import generation, models

    model, tokenizer = models.load()
    generation.score_labels(model, tokenizer, ["Mira was"], LABELS)
    return model, tokenizer


def kept(shots: int) -> dict:
    """Scores 64 questions at a time, what they share being read once."""
    return batched(shots, reuse_prefix=True)


def whole(shots: int) -> dict:
    """Scores 64 questions at a time, each read whole."""
    return batched(shots, reuse_prefix=False)


def batched(shots: int, *, reuse_prefix: bool) -> dict:
    """Scores in batches with `helpers.generation`."""
    from helpers import generation

    model, tokenizer = loaded()
    asked = prompts(shots)
    began = time.perf_counter()
    found = generation.score_labels(
        model, tokenizer, asked, LABELS, batch_size=BATCH, reuse_prefix=reuse_prefix
    )
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "scores": found["sum"].tolist()}


def alone(shots: int) -> dict:
    """Scores one label of one question at a time, with a forward pass each."""
    import torch

    model, tokenizer = loaded()
    asked, scores = prompts(shots), []
    began = time.perf_counter()
    with torch.no_grad():
        for prompt in asked:
            start = len(tokenizer(prompt)["input_ids"])
            scores.append([])
            for label in LABELS:
                ids = tokenizer(prompt + label)["input_ids"]
                logs = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
                pairs = [logs[i - 1, ids[i]].item() for i in range(start, len(ids))]
                scores[-1].append(sum(pairs))
    return {"seconds": time.perf_counter() - began, "scores": scores}


SIDES: list[Callable[[int], dict]] = [kept, whole, alone]


def fresh(side: Callable, shots: int) -> dict:
    """Runs one side in a fresh process."""
    call = [sys.executable, str(Path(__file__)), "--child", side.__name__, str(shots)]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side.__name__} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def compare(runs: dict[str, list[dict]]) -> float:
    """Returns the largest difference in nats; ends if it is more than rounding."""
    every = [run["scores"] for found in runs.values() for run in found]
    largest = 0.0
    for scores in every[1:]:
        for row, first in zip(scores, every[0], strict=True):
            differences = [abs(a - b) for a, b in zip(row, first, strict=True)]
            largest = max(largest, *differences)
            if row.index(max(row)) != first.index(max(first)):
                raise SystemExit("The sides do not choose the same labels.")
    if largest > TOLERANCE:
        raise SystemExit(f"The sides differ by {largest:.5f} nats.")
    return largest


def measure(shots: int) -> list[dict]:
    """Runs all sides in turn and returns a row for each."""
    runs: dict[str, list[dict]] = {side.__name__: [] for side in SIDES}
    for number in range(PAIRS):
        for side in SIDES:
            run = fresh(side, shots)
            runs[side.__name__].append(run)
            print(
                f"{shots} examples {number + 1}/{PAIRS} {side.__name__:6s} "
                f"{run['seconds']:.3f} s",
                flush=True,
            )
    difference, ours, rows = compare(runs), runs[SIDES[0].__name__], []
    for side in SIDES:
        found = runs[side.__name__]
        pairs = zip(ours, found, strict=True)
        ratios = [them["seconds"] / us["seconds"] for us, them in pairs]
        row = {
            "technique": f"{side.__name__}_{shots}",
            "what": f"{side.__doc__.splitlines()[0]} {shots} examples stand before.",
            "metric": "questions per second",
            "value": statistics.median(QUESTIONS / run["seconds"] for run in found),
            "seconds": statistics.median(run["seconds"] for run in found),
            "times_ours": statistics.median(ratios),
            "times_ours_low": min(ratios),
            "times_ours_high": max(ratios),
            "largest_difference_nats": difference,
            "n": PAIRS,
            "peak_megabytes": max(run["peak_megabytes"] for run in found),
        }
        rows.append(
            {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
        )
    return rows


def main() -> None:
    """Reads the command line, measures, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        name, shots = options.child
        sys.path.insert(0, str(records.ROOT))
        result = globals()[name](int(shots))
        print(json.dumps(result | {"peak_megabytes": round(speed.peak_megabytes(), 1)}))
        return
    rows = [row for shots in SHOTS for row in measure(shots)]
    records.write("speed_scoring", rows, command=COMMAND)
    for row in rows:
        print(
            f"{row['technique']:8s} {row['value']:9,.1f} {row['metric']}, takes "
            f"{row['times_ours']:.2f} times ours [{row['times_ours_low']:.2f}, "
            f"{row['times_ours_high']:.2f}], peak {row['peak_megabytes']:,.0f} MB"
        )
    reached = min(r["times_ours"] for r in rows if r["technique"].startswith("alone"))
    print(f"one by one takes at least {reached:.1f} times ours; wanted: {GOAL}")


if __name__ == "__main__":
    main()
