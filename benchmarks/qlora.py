"""What four bits cost: LoRA on the base in 16 bits against QLoRA, same seeds and rows.

    python benchmarks/qlora.py   # 5 variants × 5 seeds; goes on where it was stopped

Writes results/qlora.json: exact match on new rows and new wordings by technique, rank
and target modules, each pair's difference over seeds, and how far the answers of the
QLoRA adapter move when it is put on the 16-bit base. LoRA's learning rate, the best on
rows of its own, `tuning.dev`, is taken for all: what is compared is the base alone.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import records
import tuning

from helpers import models

SEEDS = range(5)
ROWS = 3000
RATES = (2e-3, 5e-3, 1e-2)
COMMAND = "python benchmarks/qlora.py"
SPLITS = ("new_rows", "new_wordings")
MOVED = "QLoRA r 16, adapter on the 16-bit base"


@dataclass(frozen=True)
class Variant:
    """What is trained.

    Attributes:
        four_bits: whether the base is in NF4; else its weights are rounded to bf16.
        rank: of LoRA; alpha is twice as much.
        targets: the linear layers that get an adapter, as PEFT takes them.
    """

    four_bits: bool
    rank: int = 16
    targets: str | tuple[str, ...] = "all-linear"

    @property
    def name(self) -> str:
        """The name in the record."""
        technique = "QLoRA" if self.four_bits else "LoRA"
        where = "" if self.targets == "all-linear" else ", queries and values"
        return f"{technique} r {self.rank}{where}"


VARIANTS = (
    Variant(False),
    Variant(True),
    Variant(True, rank=4),
    Variant(True, rank=64),
    Variant(True, targets=("q_proj", "v_proj")),
)


def base(four_bits: bool):
    """Returns model and tokenizer: NF4, or bf16's values; computed in float32."""
    if four_bits:
        return models.load(quantization="nf4")
    model, tokenizer = models.load(dtype="bfloat16")
    return model.float(), tokenizer


def with_adapter(model, variant: Variant, seed: int):
    """Returns the model with a fresh adapter, the same one for each kind of base."""
    import torch
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if variant.four_bits:
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    config = LoraConfig(
        r=variant.rank,
        lora_alpha=2 * variant.rank,
        target_modules=variant.targets
        if isinstance(variant.targets, str)
        else list(variant.targets),
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(seed)
    return get_peft_model(model, config)


def train(
    variant: Variant, chosen: list[dict], seed: int, *, rate: float, **changes: object
):
    """Returns the model tuned on rows, its tokenizer and the trainer."""
    model, tokenizer = base(variant.four_bits)
    model = with_adapter(model, variant, seed)
    trainer = tuning.train(
        model,
        tokenizer,
        tuning.encode(chosen, tokenizer),
        seed=seed,
        rate=rate,
        **({"bf16": False} | changes),
    )
    return model, tokenizer, trainer


def asked(model, tokenizer, limit: int | None) -> dict[str, float]:
    """Returns exact match by split."""
    found = {}
    for split in SPLITS:
        test = tuning.read(split)[:limit]
        hits = tuning.right(tuning.ask(model, tokenizer, test), test)
        found[split] = sum(hits) / len(test)
    return found


def moved(model, tokenizer, limit: int | None) -> dict[str, float]:
    """Returns exact match of the adapter once it sits on the 16-bit base."""
    folder = records.ROOT / "build" / "bench-adapter"
    models.save(model, tokenizer, folder)
    other, _ = models.load(dtype="bfloat16", adapter=folder)
    return asked(other.float(), tokenizer, limit)


def run(
    variant: Variant,
    seed: int,
    *,
    rate: float,
    rows: int = ROWS,
    limit: int | None = None,
) -> dict:
    """Tunes one variant with one seed and asks the tests."""
    chosen = tuning.shuffled(tuning.read("train"), seed)[:rows]
    model, tokenizer, trainer = train(variant, chosen, seed, rate=rate)
    found: dict = asked(model, tokenizer, limit)
    found["trainable"] = models.count_parameters(model)["trainable"]
    found["weight_bytes"] = models.footprint(model)
    found["seconds"] = round(trainer.state.log_history[-1]["train_runtime"], 1)
    if variant == VARIANTS[1]:
        found["moved"] = moved(model, tokenizer, limit)
    return found


def stored(found: dict, *, four_bits: bool) -> int:
    """Returns the bytes of base and adapter as they are kept.

    A base in 16 bits is computed in float32 here, so it is twice as large in memory.
    """
    adapter = 4 * found["trainable"]
    base_bytes = found["weight_bytes"] - adapter
    return adapter + (base_bytes if four_bits else base_bytes // 2)


def rows_of(
    runs: dict[str, list[dict]], *, rows: int, seeds: Sequence[int], **searched: object
) -> list:
    """Returns the record's rows of all runs, by variant and seed."""
    made = []
    for name, found in runs.items():
        common = {"technique": name, "rows": rows, "seeds": list(seeds)} | searched
        common["trainable_parameters"] = found[0]["trainable"]
        common["weight_bytes"] = stored(found[0], four_bits=name.startswith("QLoRA"))
        common["train_seconds"] = [one["seconds"] for one in found]
        for split in SPLITS:
            values = [one[split] for one in found]
            made.append(
                common
                | {"split": split, "metric": "exact match"}
                | tuning.over_seeds(values)
            )
    lora, qlora = (runs[variant.name] for variant in VARIANTS[:2])
    for split in SPLITS:
        common = {"split": split, "rows": rows, "seeds": list(seeds)}
        values = [one["moved"][split] for one in qlora]
        made.append(
            common
            | {"technique": MOVED, "metric": "exact match"}
            | tuning.over_seeds(values)
        )
        pairs = [
            four[split] - full[split] for four, full in zip(qlora, lora, strict=True)
        ]
        made.append(
            common
            | {"technique": "QLoRA less LoRA", "metric": "difference, paired by seed"}
            | tuning.over_seeds(pairs, least=-1.0)
        )
    return made


def main() -> None:
    """Runs every variant and seed, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    path = tuning.kept("qlora")
    rate, tried = tuning.chosen_rate(
        path,
        RATES,
        lambda rows, rate: train(VARIANTS[0], rows, tuning.SEARCH, rate=rate)[:2],
        rows=ROWS,
        name=VARIANTS[0].name,
    )
    runs: dict[str, list[dict]] = {}
    for variant in VARIANTS:
        for seed in SEEDS:
            key = f"{variant.name}, rate {rate:g}, seed {seed}"
            work = functools.partial(run, variant, seed, rate=rate)
            one = tuning.resumed(path, key, work)
            runs.setdefault(variant.name, []).append(one)
            print(f"qlora: {key}: {one}", flush=True)
    rows = rows_of(runs, rows=ROWS, seeds=SEEDS, rate=rate, rates_tried=tried)
    records.write("qlora", rows, command=COMMAND, **tuning.hashes())


if __name__ == "__main__":
    main()
