"""What the tuning records share: rows, training as in notebook 05, and exact match."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from records import ROOT, file_hash

from helpers import encoding, generation, metrics, models, statistics

sys.path.insert(0, str(ROOT / "datasets"))
import make_instructions  # noqa: E402

DATA = ROOT / "datasets" / "instructions"
BATCH = 32  # rows a step
SEARCH = 100  # the seed of the order in which rates are tried: no run has it
DEV_ROWS = 420  # to choose a rate on


def read(split: str) -> list[dict]:
    """Returns the rows of a split of the instructions."""
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def chat(row: dict) -> list[dict]:
    """Returns a row as messages."""
    asked = "\n\n".join(filter(None, [row["instruction"], row["input"]]))
    return [
        {"role": "user", "content": asked},
        {"role": "assistant", "content": row["output"]},
    ]


def encode(rows: Sequence[dict], tokenizer, *, loss_on: str = "answers"):
    """Returns rows as ids and labels."""
    messages = [{"messages": chat(row)} for row in rows]
    return encoding.encode(messages, tokenizer, loss_on=loss_on)


def train(
    model,
    tokenizer,
    encoded,
    *,
    seed: int,
    rate: float,
    epochs: float = 1,
    batch: int = BATCH,
    callbacks: Sequence = (),
    resume: bool = False,
    **changes: object,
):
    """Trains as notebook 05 does, but for changes of settings; returns the trainer.

    Args:
        model: changed in place.
        tokenizer: the model's.
        encoded: rows.
        seed: of the order and of whatever is drawn.
        rate: the highest learning rate.
        epochs: passes.
        batch: rows a step.
        callbacks: for the trainer.
        resume: go on from the last checkpoint in `output_dir`, if there is one.
        **changes: settings of SFTConfig that differ.
    """
    import torch
    from transformers import set_seed
    from transformers.trainer_utils import get_last_checkpoint
    from trl import SFTConfig, SFTTrainer

    set_seed(seed)
    arranged = encoding.arrange(encoded, batch, seed=seed)
    half = models.half_precision()
    options: dict = {
        "output_dir": str(ROOT / "build" / "bench"),
        "num_train_epochs": epochs,
        "per_device_train_batch_size": batch,
        "train_sampling_strategy": "sequential",  # arrange() has shuffled
        "learning_rate": rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "bf16": half == "bf16",
        "fp16": half == "fp16",
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "activation_checkpointing": False,
        "max_length": None,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
    }
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**(options | changes)),
        train_dataset=encoding.to_dataset(arranged),
        processing_class=tokenizer,
        callbacks=list(callbacks),
    )
    if getattr(model, "is_loaded_in_4bit", False):  # TRL rounds them to bfloat16
        for weight in filter(lambda one: one.requires_grad, model.parameters()):
            weight.data = weight.data.float()
    folder = Path(trainer.args.output_dir)
    last = get_last_checkpoint(str(folder)) if resume and folder.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    model.eval()
    return trainer


def ask(model, tokenizer, rows: Sequence[dict]) -> list[generation.Answer]:
    """Returns the model's greedy answers."""
    prompts = [chat(row)[:1] for row in rows]
    return generation.answer(
        model, tokenizer, prompts, max_new_tokens=64, batch_size=128
    )


def right(answers: Sequence[generation.Answer], rows: Sequence[dict]) -> list[bool]:
    """Returns exact match, row by row."""
    return metrics.exact_match(
        [said.text for said in answers], [row["output"] for row in rows]
    )


def draw_rows(
    rng: random.Random,
    tasks: Sequence[str],
    count: int,
    *,
    lexicon: str,
    clear_of: Sequence[dict],
) -> list[dict]:
    """Draws rows of tasks in turn, in training wordings, with texts no others have."""
    taken = {make_instructions.told(row) for row in clear_of if row["input"]}
    rows: list[dict] = []
    while len(rows) < count:
        task = tasks[len(rows) % len(tasks)]
        row = make_instructions.single(rng, task, "train", lexicon=lexicon)
        if make_instructions.told(row) not in taken:
            rows.append(row)
    return rows


@cache
def dev() -> list[dict]:
    """Returns rows to choose on: of trained tasks, with texts that no other row has.

    Training rows left out would not do: they share situations and texts with those that
    are trained on, and praise rates that learn these by heart.
    """
    every = ("train", "new_rows", "new_wordings", "new_combinations", "held_out")
    others = [row for split in every for row in read(split)]
    rng, tasks = random.Random("instructions dev"), make_instructions.TRAINED
    return draw_rows(rng, tasks, DEV_ROWS, lexicon="dev", clear_of=others)


def chosen_rate(
    path: Path,
    rates: Sequence[float],
    tune: Callable[[list[dict], float], tuple],
    *,
    rows: int,
    name: str,
) -> tuple[float, dict[str, float]]:
    """Returns the learning rate that was best on `dev`, and what all tried gave there.

    The tests are not looked at. Every rate is tried once, with the same order of rows,
    by as many rows as the runs have that it is chosen for.

    Args:
        path: where the trials are kept.
        rates: what to choose from.
        tune: from rows and a rate to a tuned model and its tokenizer.
        rows: training rows.
        name: of the technique, in the kept file.
    """
    mixed = shuffled(read("train"), SEARCH)

    def trial(rate: float) -> float:
        model, tokenizer = tune(mixed[:rows], rate)
        return sum(right(ask(model, tokenizer, dev()), dev())) / DEV_ROWS

    found = {}
    for rate in rates:
        key = f"{name}, rate {rate:g}"
        found[rate] = resumed(path, key, lambda rate=rate: trial(rate))
        print(f"{key}: {found[rate]:.1%} of {DEV_ROWS} rows of dev", flush=True)
    best = max(found, key=found.get)
    return best, {f"{rate:g}": round(value, 4) for rate, value in found.items()}


def over_seeds(values: Sequence[float], *, least: float = 0.0) -> dict:
    """Returns a record's value, interval (none below `least`) and seeds' values."""
    mean, low, high = statistics.over_seeds(values)
    return {
        "value": round(mean, 4),
        "low": round(max(least, low), 4),
        "high": round(min(1.0, high), 4),
        "per_seed": [round(value, 4) for value in values],
    }


def hashes() -> dict[str, str]:
    """Returns the hashes of the base model and of the instructions."""
    return {
        "model_sha256": file_hash(models.SHIPPED / "model.safetensors"),
        "data_sha256": file_hash(*sorted(DATA.glob("*.jsonl"))),
    }


def kept(name: str) -> Path:
    """Returns where a record's runs are kept: apart for each base and each data."""
    parts = [known[:8] for known in hashes().values()]
    return ROOT / "build" / f"{'-'.join([name, *parts])}.json"


def resumed(path: Path, key: str, work: Callable[[], object]) -> object:
    """Returns the kept result of `key`, or does the work and keeps it.

    Long records are made of many runs; a killed one goes on where it stopped.
    """
    kept = json.loads(path.read_text()) if path.exists() else {}
    if key not in kept:
        kept[key] = work()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(kept))
        part.replace(path)
    return kept[key]


def shuffled(rows: Sequence[dict], seed: int) -> list[dict]:
    """Returns the rows in an order of this seed's."""
    mixed = list(rows)
    random.Random(seed).shuffle(mixed)
    return mixed
