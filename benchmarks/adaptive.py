"""Adaptive tuning's record: reading comics or recipes, with and without replay.

    python benchmarks/adaptive.py    # 7 arms × 5 seeds; goes on where it was stopped

Every arm but the base reads the same number of tokens: a domain, of which a share is
replaced by text that the base was pre-trained on. Afterwards each is measured on
held-out text of every domain (bits per byte), and tuned to tag entities with few rows.
Each seed draws its own text, order, head and labelled rows. Writes
results/adaptive.json, and how near the training comes to the processor's matrix peak.
"""

from __future__ import annotations

import copy
import json
import sys
import time
from collections.abc import Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import records
import tuning

from helpers import encoding, generation, metrics, models, statistics, tagging

sys.path.insert(0, str(records.ROOT / "datasets"))
import build  # noqa: E402
import make_general  # noqa: E402

TOKENS = 100_000  # that every arm reads
BATCH = 8  # documents a step
RATE = 3e-3
SHARES = (0.0, 0.1, 0.25)  # of replay
SEEDS = range(5)
LABELLED = (100, 400)  # rows to tune the tagger on
TAG_BATCH = 16
TAG_STEPS = 60
TAG_RATE = 2e-3
HELD_OUT = 150  # texts of each domain
TESTED = 600  # tagged rows
PEAK_SIZE = 2048  # of the matrices that the peak is measured with
COMMAND = "python benchmarks/adaptive.py"
DOMAINS = ("comics", "recipes", "general")


def lines_of(name: str) -> list[dict]:
    """Returns the rows of a JSON Lines file under datasets/."""
    path = records.ROOT / "datasets" / f"{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@cache
def text_of(domain: str):
    """Returns a domain's text to read, as ids: all of it, or enough for any share.

    Replay takes the beginning of what the base was pre-trained on; the held-out general
    text is clear of it.
    """
    make, count = build.DOMAINS.get(domain, (make_general.documents, 20_000))
    rows = build.texts(make, count, build.SEED)
    enough = islice(rows, max(100, TOKENS // 25))
    return encoding.encode(list(enough), models.load()[1])


def read_on(domain: str, share: float, seed: int) -> dict:
    """Returns the base after reading a domain, and what that took."""
    model, tokenizer = models.load()
    parts = [(text_of(domain), 1 - share), (text_of("general"), share)]
    mixed = encoding.mix(parts, TOKENS, seed=seed)
    began = time.perf_counter()
    tuning.train(model, tokenizer, mixed, seed=seed, rate=RATE, batch=BATCH)
    return {
        "model": model,
        "seconds": time.perf_counter() - began,
        "tokens": sum(map(len, mixed.input_ids)),
    }


def fit(model, tokenizer, domain: str) -> float:
    """Returns bits per byte on held-out text of a domain."""
    texts = [row["text"] for row in lines_of(f"{domain}/heldout")[:HELD_OUT]]
    loss = generation.sequence_loss(model, tokenizer, texts)
    return metrics.bits_per_byte(loss["nats"], loss["bytes"])


@cache
def names() -> list[str]:
    """Returns the tags of the training rows, in the order of the outputs."""
    return tagging.encode(lines_of("entities/train"), models.load()[1]).names


def tagger(body, tokenizer, rows: Sequence[dict], seed: int):
    """Returns a model that tags words: a copy of a body under a new head, tuned."""
    from transformers import (
        DataCollatorForTokenClassification,
        LlamaForTokenClassification,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    config = copy.deepcopy(body.config)
    config.id2label = dict(enumerate(names()))
    config.label2id = {name: place for place, name in enumerate(names())}
    set_seed(seed)
    model = LlamaForTokenClassification(config)
    model.model.load_state_dict(body.model.state_dict())
    model.to(body.device)
    tokenizer.padding_side = "right"
    on_cpu = body.device.type == "cpu"
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(records.ROOT / "build" / "bench"),
            max_steps=TAG_STEPS,
            per_device_train_batch_size=TAG_BATCH,
            learning_rate=TAG_RATE,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            use_cpu=on_cpu,
            dataloader_pin_memory=not on_cpu,
            logging_steps=TAG_STEPS,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=tagging.encode(rows, tokenizer, names=names()).to_dataset(),
        data_collator=DataCollatorForTokenClassification(tokenizer),
    )
    trainer.train()
    return model.eval()


def say(model, tokenizer, rows: Sequence[dict]) -> list[list[str]]:
    """Returns the tags that a tagger gives the words of rows."""
    import torch

    tagged, logits = tagging.encode(rows, tokenizer, names=names()), []
    for start in range(0, len(rows), 100):
        ids = tagged.input_ids[start : start + 100]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(model.device)
        with torch.no_grad():
            logits += list(model(**batch).logits.float().cpu().numpy())
    return tagging.read(logits, tagged)


def entity_f1(body, tokenizer, size: int, seed: int) -> float:
    """Returns the test's entity F1 after tuning on `size` labelled rows."""
    rows = tuning.shuffled(lines_of("entities/train"), seed)[:size]
    model = tagger(body, tokenizer, rows, seed)
    test = lines_of("entities/test")[:TESTED]
    said = say(model, tokenizer, test)
    return metrics.entities([row["tags"] for row in test], said)["f1"]


def looked_up(size: int, seed: int) -> float:
    """Returns the same of a list of the names in these rows."""
    known = tagging.gazetteer(tuning.shuffled(lines_of("entities/train"), seed)[:size])
    test = lines_of("entities/test")[:TESTED]
    said = [tagging.look_up(row["tokens"], known) for row in test]
    return metrics.entities([row["tags"] for row in test], said)["f1"]


def run(domain: str, share: float, seed: int) -> dict[str, float]:
    """Measures one arm: bits per byte by domain, entity F1 by labelled rows."""
    model, tokenizer = models.load()
    found = {}
    if domain:
        read = read_on(domain, share, seed)
        model = read.pop("model")
        found |= read
    found |= {name: fit(model, tokenizer, name) for name in DOMAINS}
    for size in LABELLED:
        found[f"F1 {size}"] = entity_f1(model, tokenizer, size, seed)
    return found


def arms() -> dict[str, tuple[str, float]]:
    """Returns what each arm reads, by its name."""
    found = {"base": ("", 0.0)}
    for domain in ("comics", "recipes"):
        for share in SHARES:
            name = f"{domain} + {share:.0%} replay" if share else domain
            found[name] = (domain, share)
    return found


def over_seeds(values: Sequence[float]) -> dict:
    """Returns value, interval and seeds' values; the base reads nothing: no spread."""
    mean, low, high = statistics.over_seeds(values)
    numbers = {"value": mean, "low": max(0.0, low), "high": high}
    return {key: round(number, 4) for key, number in numbers.items()} | {
        "seeds": list(SEEDS),
        "per_seed": [round(value, 4) for value in values],
    }


def matrix_peak() -> float:
    """Returns the best rate of a large matrix product, in operations a second."""
    import torch

    kind = torch.bfloat16 if models.half_precision() else torch.float32
    one, other = (torch.randn(PEAK_SIZE, PEAK_SIZE).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        began = time.perf_counter()
        one @ other
        best = min(best, time.perf_counter() - began)
    return 2 * PEAK_SIZE**3 / best


def speed() -> dict:
    """Returns how near reading comes to the matrix peak, both measured here and now.

    A token costs six operations for each weight that multiplies it: two forward, four
    backward. The output layer is the tied embedding, so every weight counts once.
    """
    peak = matrix_peak()
    read = read_on("comics", 0.0, 0)
    weights = models.count_parameters(read["model"])["total"]
    per_second = read["tokens"] / read["seconds"]
    return {
        "value": round(6 * weights * per_second / peak, 4),
        "tokens_per_second": round(per_second),
        "peak_operations_per_second": round(peak),
    }


def rows_of(runs: dict[str, list[dict]]) -> list[dict]:
    """Returns the record's rows of all arms."""
    rows = []
    for arm, found in runs.items():
        for key in found[0]:
            values = [one[key] for one in found]
            if key in DOMAINS:
                facts = {"split": f"{key}/heldout", "metric": "bits per byte"}
            elif key.startswith("F1 "):
                facts = {"split": "entities/test", "metric": "entity F1"}
                facts["labelled_rows"] = int(key.removeprefix("F1 "))
            else:
                continue
            rows.append({"technique": arm} | facts | over_seeds(values))
    return rows


def kept_at(facts: dict[str, str]) -> Path:
    """Returns where the runs are kept: apart for each base and each data."""
    parts = [known[:8] for known in facts.values()]
    return records.ROOT / "build" / f"{'-'.join(['adaptive', *parts])}.json"


def main() -> None:
    """Runs every arm and seed, and writes the record."""
    sets = [records.ROOT / "datasets" / name for name in (*DOMAINS, "entities")]
    files = sorted(path for folder in sets for path in folder.glob("*.jsonl"))
    facts = {
        "model_sha256": records.file_hash(models.SHIPPED / "model.safetensors"),
        "data_sha256": records.file_hash(*files),
    }
    kept = kept_at(facts)
    runs: dict[str, list[dict]] = {}
    for arm, (domain, share) in arms().items():
        for seed in SEEDS:
            key = f"{arm} {seed} {TOKENS}"
            result = tuning.resumed(
                kept, key, lambda d=domain, s=share, n=seed: run(d, s, n)
            )
            print(f"adaptive: {arm}, seed {seed}: {result}", flush=True)
            runs.setdefault(arm, []).append(result)
    rows = rows_of(runs)
    for size in LABELLED:
        rows.append(
            {"technique": "names looked up", "split": "entities/test"}
            | {"metric": "entity F1", "labelled_rows": size}
            | over_seeds([looked_up(size, seed) for seed in SEEDS])
        )
    rows.append(
        {"technique": "reading comics", "metric": "share of the matrix peak"} | speed()
    )
    records.write("adaptive", rows, command=COMMAND, tokens=TOKENS, **facts)


if __name__ == "__main__":
    main()
