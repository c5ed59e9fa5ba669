"""Instruction tuning's variants on the same rows: full, LoRA, and two mask mistakes.

    python benchmarks/instruction_tuning.py   # 4 variants × 5 seeds; resumes

Writes results/instruction_tuning.json: exact match and the share of answers that end
by themselves, on new rows, new wordings and new combinations.
"""

from __future__ import annotations

import records
import tuning

from helpers import metrics, models, statistics

SEEDS = range(5)
ROWS = 3000
COMMAND = "python benchmarks/instruction_tuning.py"
SPLITS = ("new_rows", "new_wordings", "new_combinations", "held_out")
RATES = {"LoRA r 16": 5e-3}
VARIANTS = (
    "full tuning",
    "LoRA r 16",
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


def run(variant: str, seed: int) -> dict:
    """Tunes one variant with one seed and asks every test."""
    model, tokenizer = models.load()
    rows = tuning.shuffled(tuning.read("train"), seed)[:ROWS]
    loss_on = "all" if variant == "user's turn learnt too" else "answers"
    encoded = tuning.encode(rows, tokenizer, loss_on=loss_on)
    if variant == "end token not learnt":
        for labels in encoded.labels:
            labels[-1] = -100
    if variant.startswith("LoRA"):
        model = with_lora(model)
    rate = RATES.get(variant, 1.5e-3)
    tuning.train(model, tokenizer, encoded, seed=seed, rate=rate)
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
    rows = baselines()
    for variant in VARIANTS:
        runs = []
        for seed in SEEDS:
            key = f"{variant} {seed}"
            runs.append(tuning.resumed(path, key, lambda v=variant, s=seed: run(v, s)))
            print(f"instruction tuning: {variant}, seed {seed}: {runs[-1]}", flush=True)
        common = {"technique": variant, "rows": ROWS, "seeds": list(SEEDS)}
        common["trainable_parameters"] = runs[0]["trainable"]
        for split in SPLITS:
            for metric, key in (("exact match", split), ("ended", f"{split} ended")):
                found = tuning.over_seeds([r[key] for r in runs])
                rows.append(common | {"split": split, "metric": metric} | found)
    records.write("instruction_tuning", rows, command=COMMAND, **tuning.hashes())


if __name__ == "__main__":
    main()
