"""Fine-tuning's learning curve: head only, LoRA and full tuning on 50 to 6,000 rows.

    python benchmarks/fine_tuning.py    # 3 rungs × 5 sizes × 5 seeds; resumes

Each seed draws its own rows, head and order. The learning rate is, for each rung and
number of rows, the best on dev of whole trainings with three seeds (short trainings
praise too large a rate, and one seed any rate that had luck); no test is looked at for
it. Writes results/fine_tuning.json: accuracy on the grammar's test, on its unseen
situations and remarks, and on the written texts, and the learning rates tried.
"""

from __future__ import annotations

import copy
import json
import time
from statistics import median

import records
import tuning

from helpers import encoding, models

DATA = records.ROOT / "datasets" / "irony"
SIZES = (50, 200, 800, 2400, 6000)
SEEDS = range(5)
CHOOSING = SEEDS[:3]  # whose accuracy on dev chooses a rate
TESTS = ("test", "unseen", "written")
EPOCHS = 2
LEAST_STEPS = 60  # few rows are seen more often, or nothing would have moved
BATCH = 32
RATES = {
    "head only": (3e-2, 1e-1, 3e-1),
    "LoRA": (1.5e-4, 5e-4, 1.5e-3),
    "full tuning": (7e-5, 2e-4, 6e-4),
}
COMMAND = "python benchmarks/fine_tuning.py"


def read(split: str) -> list[dict]:
    """Returns the rows of a split of the tone task."""
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


CUE = "This is"  # a head reads the last token, and here the base judges a text


def questions(rows: list[dict]) -> list[str]:
    """Returns the texts of rows, with the words behind them that a label completes."""
    return [f"{row['text']} {CUE}" for row in rows]


NAMES = encoding.class_ids([row["label"] for row in read("train")])[1]


def truth(rows: list[dict]) -> list[int]:
    """Returns the class numbers of rows."""
    return encoding.class_ids([row["label"] for row in rows], names=NAMES)[0]


def classifier(rung: str, seed: int):
    """Returns the base's body with a new head, what is not to move frozen."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaForSequenceClassification, set_seed

    base, tokenizer = models.load()
    tokenizer.padding_side = "right"
    config = copy.deepcopy(base.config)
    config.id2label = dict(enumerate(NAMES))
    config.label2id = {name: number for number, name in enumerate(NAMES)}
    config.pad_token_id = tokenizer.pad_token_id
    set_seed(seed)
    model = LlamaForSequenceClassification(config)
    model.model = base.model
    model.to(base.device)
    if rung == "head only":
        model.model.requires_grad_(False)
    if rung == "LoRA":
        adapter = LoraConfig(
            r=16, lora_alpha=32, target_modules="all-linear", task_type="SEQ_CLS"
        )
        model = get_peft_model(model, adapter)
    return model, tokenizer


def train(model, tokenizer, rows: list[dict], *, seed: int, rate: float) -> None:
    """Trains as notebook 03 does."""
    import torch
    from transformers import (
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    import datasets

    set_seed(seed)
    gpu = torch.cuda.is_available()
    half = models.half_precision()
    ids = tokenizer(questions(rows))["input_ids"]
    steps = max(LEAST_STEPS, EPOCHS * -(-len(rows) // BATCH))
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(records.ROOT / "build" / "bench"),
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.05,
            bf16=half == "bf16",
            fp16=half == "fp16",
            use_cpu=not gpu,
            dataloader_pin_memory=gpu,
            save_strategy="no",
            logging_steps=50,
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=datasets.Dataset.from_dict(
            {"input_ids": ids, "labels": truth(rows)}
        ),
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    trainer.train()
    model.eval()


def accuracy(model, tokenizer, rows: list[dict]) -> float:
    """Returns the share of rows whose label is the likeliest."""
    import torch

    hits = 0
    for start in range(0, len(rows), 100):
        part = rows[start : start + 100]
        ids = tokenizer(questions(part))["input_ids"]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt")
        with torch.no_grad():
            best = model(**batch.to(model.device)).logits.argmax(-1).tolist()
        hits += sum(a == b for a, b in zip(best, truth(part), strict=True))
    return hits / len(rows)


def run(rung: str, size: int, seed: int, rate: float) -> dict:
    """Trains one rung on rows of this seed's choice and asks dev and the tests."""
    model, tokenizer = classifier(rung, seed)
    rows = tuning.shuffled(read("train"), seed)[:size]
    began = time.perf_counter()
    train(model, tokenizer, rows, seed=seed, rate=rate)
    found = {"seconds": time.perf_counter() - began}
    found["trainable"] = models.count_parameters(model)["trainable"]
    asked = ("dev", *TESTS)
    return found | {split: accuracy(model, tokenizer, read(split)) for split in asked}


def kept(rung: str, size: int, seed: int, rate: float) -> dict:
    """Returns a run's result: the kept one, or a new one that is then kept."""
    facts = tuning.hashes()["model_sha256"][:8], data_hash()[:8]
    path = records.ROOT / "build" / f"fine_tuning-{'-'.join(facts)}.json"
    key = f"{rung}, {size} rows, seed {seed}, rate {rate:g}, {EPOCHS} passes"
    result = tuning.resumed(path, key, lambda: run(rung, size, seed, rate))
    print(f"fine-tuning: {key}: {result}", flush=True)
    return result


def data_hash() -> str:
    """Returns the hash of the tone task's rows."""
    return records.file_hash(*sorted(DATA.glob("*.jsonl")))


def chosen_rate(rung: str, size: int) -> tuple[float, dict[float, float]]:
    """Returns the rate that is best on dev, and the mean accuracy there of each."""
    tried = {}
    for rate in RATES[rung]:
        values = [kept(rung, size, seed, rate)["dev"] for seed in CHOOSING]
        tried[rate] = round(sum(values) / len(values), 4)
    return max(tried, key=tried.get), tried


def rows_of(rung: str, size: int, rate: float) -> list[dict]:
    """Returns a record's rows of one rung and size, one for each test."""
    runs = [kept(rung, size, seed, rate) for seed in SEEDS]
    common = {"technique": rung, "rows": size, "learning_rate": rate}
    common["trainable_parameters"] = runs[0]["trainable"]
    # the median: another load on the machine may have slowed one run
    common["train_seconds"] = round(median(r["seconds"] for r in runs), 1)
    return [
        common
        | {"split": split, "metric": "accuracy", "seeds": list(SEEDS)}
        | tuning.over_seeds([one[split] for one in runs])
        for split in TESTS
    ]


def main() -> None:
    """Chooses the rates on dev, runs every rung, size and seed, writes the record."""
    rows, tried = [], {}
    for rung in RATES:
        for size in SIZES:
            rate, tried.setdefault(rung, {})[size] = chosen_rate(rung, size)
            rows += rows_of(rung, size, rate)
    facts = {"model_sha256": tuning.hashes()["model_sha256"]}
    facts["data_sha256"] = data_hash()
    records.write("fine_tuning", rows, command=COMMAND, rates_on_dev=tried, **facts)


if __name__ == "__main__":
    main()
