"""Soft prompts: length, start, learning rate, and rival techniques, five seeds each.

    python benchmarks/soft_prompts.py    # some 16 settings × 3 tasks × 5 seeds; resumes

One thing is varied at a time from LENGTH vectors that start at random tokens of the
vocabulary, at RATE (Lester's): the figures of Lester et al. (2021) in miniature. Where
techniques are compared, each has the rate that is best on dev with one seed; the tests
are not looked at for it.
Writes results/soft_prompts.json: accuracy by the likeliest label. The tasks are three
of notebook 07's, in one fixed wording each; a fourth, tone, is what techniques.py
measures.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Sequence

import records
import tuning

from helpers import generation, models, statistics
from helpers.encoding import encode_prompts

sys.path.append(str(records.ROOT / "datasets"))
import world  # noqa: E402

LABELS = {
    "mood": ["glad", "sad"],
    "aim": ["person", "thing"],
    "kind": ["food", "tool", "animal", "clothing"],
}
WORDING = {
    "mood": "{text} {name} was",
    "aim": "{text} It was said about the",
    "kind": "{text} It is a kind of",
}
SIZES = {"train": 1500, "dev": 200, "test": 400}
STEPS = {"mood": 150, "aim": 150, "kind": 100}
BATCH = 16
SEEDS = range(5)

LENGTH, START, RATE = 20, "vocabulary", 0.3
LENGTHS = (1, 5, 20, 50, 100)
STARTS = ("random", "vocabulary", "label words")
SOFT_RATES = (0.003, 0.03, 0.3, 1.0)
SOFT = "soft prompt"
RATES = {
    SOFT: SOFT_RATES[1:],
    "prefix tuning": (1e-2, 3e-2, 1e-1),
    "P-tuning": (1e-3, 3e-3, 1e-2),
    "IA3": (1e-2, 3e-2, 1e-1),
    "LoRA": (2e-3, 5e-3, 1e-2),
    "full tuning": (5e-4, 1e-3, 2e-3),
}
COMMAND = "python benchmarks/soft_prompts.py"


# --- rows -----------------------------------------------------------------------------


def told(task: str, row: dict, name: str) -> dict:
    """Returns a sentence of the world about a person, with its label."""
    if task == "mood":
        text = world.upper_first(row["text"].replace("{name}", name)) + "."
        label = LABELS[task][row["mood"] == "bad"]
    elif task == "aim":
        text, label = f'{name} said: "{row["text"]}"', row["aim"]
    else:
        text, label = f"{name} has the {row['text']}.", world.KIND_OF[row["text"]]
    return {"text": text, "name": name, "label": label}


def lexicon_of(task: str) -> list[dict]:
    """Returns what a task's texts are drawn from: text, frame and split of each.

    Training takes frames that the base has read; the unseen ones are halved into dev
    and test. For "kind", a word is its own frame, and all of them are read.
    """
    if task == "kind":
        parts = ("train", "train", "dev", "test")
        return [
            {"text": word, "frame": word, "split": parts[number % len(parts)]}
            for number, word in enumerate(world.KIND_OF)
        ]
    rows = world.SITUATIONS if task == "mood" else world.REMARKS
    unseen = sorted({row["frame"] for row in rows if row["split"] == "unseen"})
    halves = {frame: ("dev", "test")[n % 2] for n, frame in enumerate(unseen)}
    return [row | {"split": halves.get(row["frame"], "train")} for row in rows]


def rows_of(task: str, part: str, count: int) -> list[dict]:
    """Returns rows, labels and frames balanced; no frame is in two parts."""
    frames: dict[str, dict[object, list[dict]]] = {}
    for row in lexicon_of(task):
        if row["split"] == part:
            label = told(task, row, "")["label"]
            frames.setdefault(label, {}).setdefault(row["frame"], []).append(row)
    rng, found = random.Random(f"{task} {part}"), []
    for number in range(count):
        of_label = frames[LABELS[task][number % len(LABELS[task])]]
        row = rng.choice(of_label[rng.choice(sorted(of_label))])
        found.append(told(task, row, rng.choice(world.NAMES)))
    return found


def asked(task: str, rows: Sequence[dict]) -> list[str]:
    """Returns the rows' texts up to where their label is due."""
    return [WORDING[task].format(**row) for row in rows]


def encoded(tokenizer, task: str, rows: Sequence[dict]) -> list[tuple[int, list[int]]]:
    """Returns for each row the tokens before its label, and all its ids."""
    answers = [f" {row['label']}" for row in rows]
    before = [len(ids) for ids in encode_prompts(asked(task, rows), tokenizer)]
    whole = encode_prompts(asked(task, rows), tokenizer, answers=answers)
    return list(zip(before, whole, strict=True))


def batch_of(part: Sequence[tuple[int, list[int]]], pad: int) -> dict:
    """Returns ids, mask and labels, padded on the right; the loss is on labels."""
    import torch

    width = max(len(ids) for _, ids in part)
    ids = torch.tensor([ids + [pad] * (width - len(ids)) for _, ids in part])
    place = torch.arange(width)
    start = torch.tensor([before for before, _ in part])[:, None]
    size = torch.tensor([len(ids) for _, ids in part])[:, None]
    labels = torch.where((place >= start) & (place < size), ids, -100)
    mask = (place < size).long()
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


# --- training -------------------------------------------------------------------------


def soft_loss(base, vectors, batch: dict):
    """Returns the loss behind a soft prompt that is read once for the whole batch.

    The vectors stand first, so that no row changes what the model computes on them: one
    row's keys and values serve all rows, and long prompts cost little.
    """
    import torch
    from transformers import DynamicCache

    count = len(batch["input_ids"])
    read = base(inputs_embeds=vectors[None], use_cache=True).past_key_values
    cache = DynamicCache(
        [
            (one.keys.expand(count, -1, -1, -1), one.values.expand(count, -1, -1, -1))
            for one in read.layers
        ]
    )
    before = torch.ones(count, len(vectors), dtype=torch.long)
    mask = torch.cat([before, batch["attention_mask"]], dim=1)
    return base(
        **(batch | {"attention_mask": mask}), past_key_values=cache, use_cache=True
    ).loss


def started(base, tokenizer, task: str, length: int, start: str):
    """Returns a PEFT model with a soft prompt that starts as named."""
    import torch
    from peft import PromptTuningConfig, get_peft_model

    kind = "RANDOM" if start == "random" else "SAMPLE_VOCAB"
    model = get_peft_model(
        base,
        PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=length, prompt_tuning_init=kind
        ),
    )
    if start == "label words":
        words = " " + " ".join(LABELS[task])
        ids = tokenizer(words, add_special_tokens=False)["input_ids"]
        rows = torch.tensor((ids * length)[:length])
        with torch.no_grad():
            model.prompt_encoder["default"].embedding.weight.copy_(
                base.get_input_embeddings().weight[rows]
            )
    return model


def technique(name: str, base):
    """Returns the base under a technique other than the soft prompt."""
    from peft import (
        IA3Config,
        LoraConfig,
        PrefixTuningConfig,
        PromptEncoderConfig,
        get_peft_model,
    )

    common = {"task_type": "CAUSAL_LM"}
    vectors = common | {"num_virtual_tokens": LENGTH}
    configs = {
        "prefix tuning": lambda: PrefixTuningConfig(**vectors),
        "P-tuning": lambda: PromptEncoderConfig(**vectors, encoder_hidden_size=128),
        "IA3": lambda: IA3Config(**common),
        "LoRA": lambda: LoraConfig(
            **common, r=16, lora_alpha=32, target_modules="all-linear"
        ),
    }
    return base if name == "full tuning" else get_peft_model(base, configs[name]())


def fit(model, rows: list, pad: int, *, steps: int, rate: float, seed: int, loss_of):
    """Trains what has a gradient."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 1 + steps // 20, steps)
    rng = random.Random(seed)
    for _ in range(steps):
        loss = loss_of(batch_of(rng.sample(rows, BATCH), pad))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def accuracy(model, tokenizer, task: str, part: str) -> list[bool]:
    """Returns for each row whether its own label is the likeliest."""
    rows = rows_of(task, part, SIZES[part])
    labels = [f" {word}" for word in LABELS[task]]
    found = generation.score_labels(
        model, tokenizer, asked(task, rows), labels, batch_size=64
    )["sum"].argmax(1)
    return [LABELS[task][i] == row["label"] for i, row in zip(found, rows, strict=True)]


def run(task: str, part: str, seed: int, rate: float, **how) -> dict:
    """Trains by one setting and asks one split.

    Args:
        task: of LABELS.
        part: the split that is asked.
        seed: of the start and of the order of the rows.
        rate: the learning rate.
        **how: `length` and `start` of a soft prompt, or another `technique`.
    """
    import warnings

    from transformers import set_seed

    # PEFT 0.21 asks transformers 5 for a property by its former name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    set_seed(seed)
    base, tokenizer = models.load(device="cpu")
    if "technique" in how:
        model = technique(how["technique"], base)

        def loss_of(batch: dict):
            return model(**batch).loss
    else:
        model = started(base, tokenizer, task, how["length"], how["start"])

        def loss_of(batch: dict):
            vectors = model.prompt_encoder["default"].embedding.weight
            return soft_loss(base, vectors, batch)

    rows = encoded(tokenizer, task, rows_of(task, "train", SIZES["train"]))
    began = time.perf_counter()
    pad = tokenizer.pad_token_id
    given = {"steps": STEPS[task], "rate": rate, "seed": seed, "loss_of": loss_of}
    fit(model, rows, pad, **given)
    seconds = time.perf_counter() - began
    hits = accuracy(model.eval(), tokenizer, task, part)
    trainable = models.count_parameters(model)["trainable"]
    return {
        "accuracy": sum(hits) / len(hits),
        "seconds": seconds,
        "trainable": trainable,
    }


# --- the record -----------------------------------------------------------------------


def data_hash() -> str:
    """Returns the hash of all that rows are drawn from."""
    lexicon = records.ROOT / "datasets" / "lexicon"
    return records.file_hash(*sorted(lexicon.glob("*")))


def kept(task: str, part: str, seed: int, rate: float, **how) -> dict:
    """Returns a run's result: the kept one, or a new one that is then kept."""
    model = tuning.hashes()["model_sha256"][:8]
    path = (
        records.ROOT / "build" / f"soft_prompts-{task}-{model}-{data_hash()[:8]}.json"
    )
    key = json.dumps([part, seed, rate, how, STEPS[task]])
    result = tuning.resumed(path, key, lambda: run(task, part, seed, rate, **how))
    print(f"soft prompts: {task} {key}: {result}", flush=True)
    return result


def over_seeds(task: str, rate: float, **how) -> dict:
    """Returns a record's row of one setting over the seeds."""
    runs = [kept(task, "test", seed, rate, **how) for seed in SEEDS]
    return {
        "task": task,
        "split": "test",
        "metric": "accuracy",
        "seeds": list(SEEDS),
        "learning_rate": rate,
        "steps": STEPS[task],
        "trainable_parameters": runs[0]["trainable"],
        "train_seconds": round(sum(one["seconds"] for one in runs) / len(runs), 1),
    } | tuning.over_seeds([one["accuracy"] for one in runs])


def soft(task: str, *, length: int = LENGTH, start: str = START, rate: float = RATE):
    """Returns a record's row of a soft prompt."""
    return over_seeds(task, rate, length=length, start=start)


def compared(task: str, name: str) -> dict:
    """Returns a record's row of a technique at its best rate on dev, with one seed."""
    how = {"length": LENGTH, "start": START} if name == SOFT else {"technique": name}
    found = {
        rate: kept(task, "dev", 0, rate, **how)["accuracy"] for rate in RATES[name]
    }
    row = over_seeds(task, max(found, key=found.get), **how)
    return row | {"on_dev": {f"{rate:g}": value for rate, value in found.items()}}


def untrained(task: str) -> dict:
    """Returns a record's row of the words alone, with a Wilson interval."""
    base, tokenizer = models.load(device="cpu")
    hits = accuracy(base, tokenizer, task, "test")
    low, high = statistics.wilson(sum(hits), len(hits))
    return {
        "task": task,
        "split": "test",
        "metric": "accuracy",
        "value": round(sum(hits) / len(hits), 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "n": len(hits),
    }


def rows_of_record(task: str) -> list[dict]:
    """Returns all of a task's rows."""

    def varied(name: str, values: Sequence, make: Callable[..., dict]) -> list[dict]:
        return [{"varied": name, name: value} | make(value) for value in values]

    rows = varied("length", LENGTHS, lambda value: soft(task, length=value))
    rows += varied("start", STARTS, lambda value: soft(task, start=value))
    rows += varied("rate", SOFT_RATES, lambda value: soft(task, rate=value))
    rows += varied("technique", ["words alone"], lambda _: untrained(task))
    return rows + varied("technique", RATES, lambda name: compared(task, name))


def main() -> None:
    """Runs what is missing, and writes the record once all tasks are there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--task",
        choices=LABELS,
        help="only this one, without writing: for several processes at a time",
    )
    only = parser.parse_args().task
    rows = [
        row for task in ([only] if only else LABELS) for row in rows_of_record(task)
    ]
    if not only:
        model = tuning.hashes()["model_sha256"]
        facts = {"model_sha256": model, "data_sha256": data_hash()}
        records.write("soft_prompts", rows, command=COMMAND, **facts)


if __name__ == "__main__":
    main()
