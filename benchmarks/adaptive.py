"""Adaptive tuning in miniature: comics against a control, with and without replay.

    python benchmarks/adaptive.py    # 4 texts and the base × 5 seeds; resumes

Writes results/adaptive.json: perplexity and bits per byte on comics, recipes and
general text, and F1 of entities after tuning each on the same few labelled rows. A
seed draws the text, its order, and the labelled rows. Settings are those of
notebook 02.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from random import Random

import records
import tuning

from helpers import generation, metrics, models

DATASETS = records.ROOT / "datasets"
sys.path.insert(0, str(DATASETS))
import make_comics  # noqa: E402
import make_general  # noqa: E402
import make_recipes  # noqa: E402

SEEDS = range(5)
STEPS, BATCH, BLOCK = 50, 16, 128
RATE = 1e-3
REPLAY = 0.2
FEW, EPOCHS = 150, 6
COMMAND = "python benchmarks/adaptive.py"
KEPT = records.ROOT / "build" / "adaptive.json"
Make = Callable[..., Iterator[str]]
RUNS: dict[str, tuple[Make | None, float]] = {
    "base": (None, 0),
    "comics": (make_comics.documents, 0),
    "comics + replay": (make_comics.documents, REPLAY),
    "recipes": (make_recipes.documents, 0),
    "recipes + replay": (make_recipes.documents, REPLAY),
}
TAGS = ["O"] + [f"{p}-{t}" for t in make_comics.TYPES for p in "BI"]
FILES = ("general/heldout", "comics/heldout", "recipes/heldout")
FILES += ("entities/train", "entities/test")


def read(name: str) -> list[dict]:
    """Returns the rows of one file of the datasets."""
    lines = (DATASETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def blocks(make: Make, count: int, tokenizer, seed: int) -> list[dict]:
    """Returns blocks of chained documents with their labels."""
    stream, ids = make(10**6, seed=1000 + seed), []
    while len(ids) < count * BLOCK:
        for one in tokenizer(list(islice(stream, 200)))["input_ids"]:
            ids += [*one, tokenizer.eos_token_id]
    cut = (ids[at : at + BLOCK] for at in range(0, count * BLOCK, BLOCK))
    return [{"input_ids": block, "labels": block} for block in cut]


def adapt(model, rows: list[dict], *, seed: int, collator, epochs: float = 1):
    """Trains a model in place as notebook 02 does."""
    import torch
    from transformers import PrinterCallback, Trainer, TrainingArguments, set_seed

    from datasets import Dataset

    set_seed(seed)
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(records.ROOT / "build" / "bench"),
            num_train_epochs=epochs,
            per_device_train_batch_size=BATCH,
            learning_rate=RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            bf16=True,
            use_cpu=not torch.cuda.is_available(),
            dataloader_pin_memory=torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=Dataset.from_list(rows),
        data_collator=collator,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model.eval()


def pieces(row: dict, tokenizer) -> tuple[list[int], list[int]]:
    """Returns a row's ids and the place of each word's last piece."""
    coded, last, place = tokenizer(row["text"]), [], 0
    for word in row["tokens"]:
        place = row["text"].index(word, place) + len(word)
        last.append(coded.char_to_token(place - 1))
    return coded["input_ids"], last


def labelled(row: dict, tokenizer) -> dict:
    """Returns a row as the trainer takes it."""
    ids, last = pieces(row, tokenizer)
    labels = [-100] * len(ids)
    for place, tag in zip(last, row["tags"], strict=True):
        labels[place] = TAGS.index(tag)
    return {"input_ids": ids, "labels": labels}


def entity_f1(model, tokenizer, seed: int) -> float:
    """Tunes a tagger on the body of a model and returns its F1 on the test."""
    import torch
    from seqeval.metrics import f1_score
    from seqeval.scheme import IOB2
    from transformers import (
        AutoModelForTokenClassification,
        DataCollatorForTokenClassification,
        set_seed,
    )

    config = copy.deepcopy(model.config)
    config.num_labels = len(TAGS)
    set_seed(seed)
    tagger = AutoModelForTokenClassification.from_config(config)
    tagger.model.load_state_dict(model.model.state_dict())
    tokenizer.padding_side = "right"
    collate = DataCollatorForTokenClassification(tokenizer)
    train = read("entities/train")
    few = [labelled(row, tokenizer) for row in Random(seed).sample(train, FEW)]
    adapt(tagger, few, seed=seed, collator=collate, epochs=EPOCHS)
    test, said = read("entities/test"), []
    for at in range(0, len(test), 50):
        rows = test[at : at + 50]
        batch = collate([labelled(row, tokenizer) for row in rows]).to(tagger.device)
        batch.pop("labels")
        with torch.no_grad():
            best = tagger(**batch).logits.argmax(-1).tolist()
        for row, ids in zip(rows, best, strict=True):
            said.append([TAGS[ids[place]] for place in pieces(row, tokenizer)[1]])
    truth = [row["tags"] for row in test]
    return float(f1_score(truth, said, mode="strict", scheme=IOB2))


def run(name: str, seed: int) -> dict[str, float]:
    """Adapts the base to one text and measures it."""
    from transformers import default_data_collator

    model, tokenizer = models.load()
    make, replay = RUNS[name]
    found = {}
    if make:
        rehearsed = round(STEPS * BATCH * replay)
        rows = blocks(make, STEPS * BATCH - rehearsed, tokenizer, seed)
        rows += blocks(make_general.documents, rehearsed, tokenizer, seed)
        began = time.perf_counter()
        adapt(model, rows, seed=seed, collator=default_data_collator)
        found["seconds"] = time.perf_counter() - began
    for text in ("general", "comics", "recipes"):
        held = [row["text"] for row in read(f"{text}/heldout")]
        loss = generation.sequence_loss(model, tokenizer, held, batch_size=32)
        found[f"perplexity {text}"] = metrics.perplexity(loss["nats"], loss["tokens"])
        found[f"bits per byte {text}"] = metrics.bits_per_byte(
            loss["nats"], loss["bytes"]
        )
    found["F1 entities"] = entity_f1(model, tokenizer, seed)
    return found


def over_seeds(values: list[float]) -> dict:
    """Returns mean, interval and the seeds' values; perplexities may exceed 1."""
    from helpers import statistics

    mean, low, high = statistics.over_seeds(values)
    told = {"value": mean, "low": max(0.0, low), "high": high}
    return {key: round(value, 4) for key, value in told.items()} | {
        "per_seed": [round(value, 4) for value in values]
    }


def main() -> None:
    """Runs every text and seed, and writes the record."""
    rows = []
    for name in RUNS:
        runs = []
        for seed in SEEDS:
            key = f"{name} {seed}"
            runs.append(tuning.resumed(KEPT, key, lambda n=name, s=seed: run(n, s)))
            print(f"adaptive: {name}, seed {seed}: {runs[-1]}", flush=True)
        tokens = STEPS * BATCH * BLOCK if RUNS[name][0] else 0
        common = {"technique": name, "train_tokens": tokens, "seeds": list(SEEDS)}
        if tokens:
            mean = sum(r["seconds"] for r in runs) / len(runs)
            common["train_seconds"] = round(mean, 1)
        for key in runs[0]:
            if key != "seconds":
                metric, _, split = key.rpartition(" ")
                labelled_rows = {"rows": FEW} if metric == "F1" else {}
                rows.append(
                    common
                    | {"metric": metric, "split": split}
                    | labelled_rows
                    | over_seeds([r[key] for r in runs])
                )
    paths = [DATASETS / f"{name}.jsonl" for name in FILES]
    records.write(
        "adaptive",
        rows,
        command=COMMAND,
        model_sha256=records.file_hash(models.SHIPPED / "model.safetensors"),
        data_sha256=records.file_hash(*paths),
    )


if __name__ == "__main__":
    main()
