"""Instruction tuning's variants on the same rows: full, LoRA, and two mask mistakes.

    python benchmarks/instruction_tuning.py   # 6 variants × 5 seeds; resumes

Writes results/instruction_tuning.json: exact match and the share of answers that end
by themselves, on new rows, new wordings and new combinations. Full tuning and LoRA
each get the learning rate that is best on rows of their own, `tuning.dev`, with steps
of 32 rows as in notebook 05 and with smaller ones, of which one pass makes four times
as many; the mistakes get full tuning's.
"""

from __future__ import annotations

import functools

import records
import tuning

from helpers import metrics, models, statistics

SEEDS = range(5)
ROWS = 3000
COMMAND = "python benchmarks/instruction_tuning.py"
SPLITS = ("new_rows", "new_wordings", "new_combinations", "held_out")
FULL, LORA = "full tuning", "LoRA r 16"
SMALL = 8  # rows a step
FULL_SMALL, LORA_SMALL = (f"{name}, {SMALL} rows a step" for name in (FULL, LORA))
RATES = {
    FULL: (4e-4, 8e-4, 1.5e-3),
    LORA: (2e-3, 5e-3, 1e-2),
    FULL_SMALL: (2e-4, 4e-4, 8e-4),
    LORA_SMALL: (1e-3, 2e-3, 5e-3),
}
VARIANTS = (
    FULL,
    LORA,
    FULL_SMALL,
    LORA_SMALL,
    "end token not learnt",
    "user's turn learnt too",
)


def with_lora(model):
    """Returns the model with an adapter on every linear layer."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def tune(variant: str, rows: list[dict], rate: float, seed: int):
    """Returns the base tuned on rows by a variant, and the tokenizer."""
    model, tokenizer = models.load()
    loss_on = "all" if variant == "user's turn learnt too" else "answers"
    encoded = tuning.encode(rows, tokenizer, loss_on=loss_on)
    if variant == "end token not learnt":
        for labels in encoded.labels:
            labels[-1] = -100
    if variant in (LORA, LORA_SMALL):
        model = with_lora(model)
    batch = SMALL if variant in (FULL_SMALL, LORA_SMALL) else tuning.BATCH
    tuning.train(model, tokenizer, encoded, seed=seed, rate=rate, batch=batch)
    return model, tokenizer


def run(variant: str, rate: float, seed: int) -> dict:
    """Tunes one variant with one seed and asks every test."""
    rows = tuning.shuffled(tuning.read("train"), seed)[:ROWS]
    model, tokenizer = tune(variant, rows, rate, seed)
    found = {"trainable": models.count_parameters(model)["trainable"]}
    for split in SPLITS:
        test = tuning.read(split)
        said = tuning.ask(model, tokenizer, test)
        found[split] = sum(tuning.right(said, test)) / len(test)
        found[f"{split} ended"] = sum(one.ended for one in said) / len(said)
    return found


def baselines() -> list[dict]:
    """Returns what needs no training: the untuned base, majority and copy."""
    model, tokenizer = models.load()
    train, rows = tuning.read("train"), []
    for split in SPLITS:
        test = tuning.read(split)
        truth = [row["output"] for row in test]
        found = {
            "untuned base": tuning.right(tuning.ask(model, tokenizer, test), test),
            "majority answer": metrics.majority_baseline(
                [row["output"] for row in train],
                truth,
                train_groups=[row["task"] for row in train],
                test_groups=[row["task"] for row in test],
            ),
            "copy of the text": metrics.copy_baseline(
                [row["input"] for row in test], truth
            ),
        }
        for technique, hits in found.items():
            low, high = statistics.wilson(sum(hits), len(hits))
            rows.append(
                {"technique": technique, "split": split, "metric": "exact match"}
                | {"value": round(sum(hits) / len(hits), 4), "n": len(hits)}
                | {"low": round(low, 4), "high": round(high, 4)}
            )
    return rows


def main() -> None:
    """Runs every variant and seed, and writes the record."""
    path = tuning.kept("instruction_tuning")
    searched = {
        name: tuning.chosen_rate(
            path,
            rates,
            lambda rows, rate, name=name: tune(name, rows, rate, tuning.SEARCH),
            rows=ROWS,
            name=name,
        )
        for name, rates in RATES.items()
    }
    rows = baselines()
    for variant in VARIANTS:
        rate, tried = searched.get(variant, searched[FULL])
        runs = []
        for seed in SEEDS:
            key = f"{variant} {rate:g} {seed}"
            work = functools.partial(run, variant, rate, seed)
            runs.append(tuning.resumed(path, key, work))
            print(f"instruction tuning: {key}: {runs[-1]}", flush=True)
        common = {"technique": variant, "rows": ROWS, "seeds": list(SEEDS)}
        common |= {"rate": rate, "rates_tried": tried}
        common["trainable_parameters"] = runs[0]["trainable"]
        for split in SPLITS:
            for metric, key in (("exact match", split), ("ended", f"{split} ended")):
                found = tuning.over_seeds([r[key] for r in runs])
                rows.append(common | {"split": split, "metric": metric} | found)
    records.write("instruction_tuning", rows, command=COMMAND, **tuning.hashes())


if __name__ == "__main__":
    main()
