"""Speed and memory in pairs: ours against the obvious way, in one run.

    python benchmarks/speed.py                # all pairs
    python benchmarks/speed.py encoding       # one of them

Each pair runs in fresh processes, in turn (A B, B A, A B …, so that a machine that
slows down slows both); the record holds the medians, the ratio round by round with its
spread, and each side's peak memory. What must be equal (ids and labels, text) is
compared in the same run, and a difference is an error. Where a side trains, the round
is its seed, and the losses are compared round by round.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import records

sys.path.insert(0, str(records.ROOT))

ROUNDS = {"encoding": 5, "training": 8, "answers": 5}  # others: 3
ROUND = int(os.environ.get("ROUND", 0))  # this process's; seed of what is random
COMMAND = "python benchmarks/speed.py"
ROWS = 20_000
TRAIN_ROWS = 1536
QUESTIONS = 384


def peak_megabytes() -> float:
    """Returns this process's peak resident memory so far, in MB.

    Linux's own mark: `getrusage` there starts with the peak of the parent.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1e3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def digest(value: object) -> str:
    """Returns a short hash of a JSON-able value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


# --- encoding: batches against SFTTrainer's own preparation ---------------------------


def conversations(count: int) -> list[dict]:
    """Returns instruction rows as conversations, repeated up to `count`."""
    import tuning

    rows = tuning.read("train")
    return [{"messages": tuning.chat(rows[i % len(rows)])} for i in range(count)]


def encoding_ours() -> dict:
    """Encodes the rows with `helpers.encoding`."""
    from helpers import encoding, models

    _, tokenizer = models.load()
    rows = conversations(ROWS)
    began = time.perf_counter()
    encoded = encoding.encode(rows, tokenizer)
    seconds = time.perf_counter() - began
    same = digest([encoded.input_ids, encoded.labels])
    return {"seconds": seconds, "same": same, "units": ROWS}


def encoding_peer() -> dict:
    """Lets SFTTrainer prepare the same rows, with assistant_only_loss."""
    from trl import SFTTrainer

    import datasets
    from helpers import models

    datasets.disable_caching()
    model, tokenizer = models.load()
    data = datasets.Dataset.from_list(conversations(ROWS))
    config = sft_config(assistant_only_loss=True, max_length=None)
    began = time.perf_counter()
    trainer = SFTTrainer(
        model=model, args=config, train_dataset=data, processing_class=tokenizer
    )
    seconds = time.perf_counter() - began
    ids = trainer.train_dataset["input_ids"]
    labels = trainer.train_dataset["labels"]
    same = digest([list(map(list, ids)), list(map(list, labels))])
    return {"seconds": seconds, "same": same, "units": ROWS}


def encoding_calls() -> dict:
    """Only calls the libraries that both of them call: renders, and tokenises."""
    from transformers.utils.chat_template_utils import render_jinja_template

    from helpers import models

    _, tokenizer = models.load()
    chats = [row["messages"] for row in conversations(ROWS)]
    began = time.perf_counter()
    texts, _ = render_jinja_template(
        chats,
        chat_template=tokenizer.chat_template,
        return_assistant_tokens_mask=True,
        **tokenizer.special_tokens_map,
    )
    tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return {"seconds": time.perf_counter() - began, "units": ROWS}


# --- training: our settings, SFTTrainer's defaults, a bare loop -----------------------


def sft_config(**changes):
    """Returns an SFTConfig that is silent and saves nothing."""
    from trl import SFTConfig

    quiet = {
        "output_dir": str(records.ROOT / "build" / "bench"),
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
        "seed": ROUND,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return SFTConfig(**(quiet | changes))


def training_rows(tokenizer, *, ours: bool):
    """Returns encoded rows: those of like length together, or as the file has them."""
    import tuning

    from helpers import encoding

    encoded = tuning.encode(tuning.read("train")[:TRAIN_ROWS], tokenizer)
    return encoding.arrange(encoded, STEP, seed=ROUND) if ours else encoded


def plain_loss():
    """Returns SFTTrainer with the model's own loss, as notebook 05 has it on a CPU."""
    from transformers import Trainer
    from trl import SFTTrainer

    class PlainLoss(SFTTrainer):
        def compute_loss(self, model, inputs, *rest, **options):
            inputs = {**inputs, "use_cache": False}
            return Trainer.compute_loss(self, model, inputs, *rest, **options)

    return PlainLoss


def trained(changes: dict, *, ours: bool) -> dict:
    """Trains with SFTTrainer and measures the loss on rows outside, in nats."""
    from trl import SFTTrainer

    from helpers import encoding, models

    model, tokenizer = models.load()
    encoded = training_rows(tokenizer, ours=ours)
    kind = plain_loss() if ours else SFTTrainer
    trainer = kind(
        model=model,
        args=sft_config(num_train_epochs=1, **changes),
        train_dataset=encoding.to_dataset(encoded),
        processing_class=tokenizer,
    )
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    tokens = sum(map(len, encoded.input_ids))
    return {"seconds": seconds, "units": tokens, "loss": loss_outside(model, tokenizer)}


def loss_outside(model, tokenizer) -> float:
    """Returns the mean loss per learnt token on rows that were not trained on."""
    import torch
    import tuning

    encoded = tuning.encode(tuning.read("new_rows"), tokenizer)
    model.eval()
    nats, count = 0.0, 0
    with torch.no_grad():
        for ids, labels in zip(encoded.input_ids, encoded.labels, strict=True):
            logits = model(torch.tensor([ids])).logits[0, :-1].float()
            target = torch.tensor(labels[1:])
            nats += torch.nn.functional.cross_entropy(
                logits, target, reduction="sum"
            ).item()
            count += int((target != -100).sum())
    return nats / count


# One pass of few steps. Chosen by hand under seeds 100 to 102, which the record does
# not have: both rates by the loss on 200 of the rows that the record asks, our
# momentum, and our rate beside it, on rows of train.jsonl that nobody trained on.
RATE, PEER_RATE = 1e-3, 7e-4
STEP = 16  # rows a step
MOMENTUM = 0.6
OURS = {
    "per_device_train_batch_size": STEP,
    "train_sampling_strategy": "sequential",
    "learning_rate": RATE,
    "adam_beta1": MOMENTUM,
    "activation_checkpointing": False,
    "max_length": None,
}


def training_ours() -> dict:
    """Trains on 16 rows of like length a step."""
    from helpers import models

    return trained(OURS | {"bf16": models.half_precision() == "bf16"}, ours=True)


def training_peer() -> dict:
    """Trains with SFTTrainer's defaults (8 rows a step), but for the learning rate.

    At its default of 2e-5 a model of this size learns next to nothing.
    """
    return trained({"learning_rate": PEER_RATE}, ours=False)


def training_bare() -> dict:
    """Trains on the batches of the first in a plain PyTorch loop."""
    import torch
    from transformers import get_linear_schedule_with_warmup

    from helpers import models

    model, tokenizer = models.load()
    encoded = training_rows(tokenizer, ours=True)
    batches = trainer_batches(model, tokenizer, encoded)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=RATE, betas=(MOMENTUM, 0.999), weight_decay=0.0
    )
    schedule = get_linear_schedule_with_warmup(optimizer, 0, len(batches))
    half = models.half_precision() == "bf16"
    model.train()
    began = time.perf_counter()
    for batch in batches:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    tokens = sum(map(len, encoded.input_ids))
    return {"seconds": seconds, "units": tokens, "loss": loss_outside(model, tokenizer)}


def trainer_batches(model, tokenizer, encoded) -> list[dict]:
    """Returns the very batches that SFTTrainer would train on."""
    from trl import SFTTrainer

    from helpers import encoding

    trainer = SFTTrainer(
        model=model,
        args=sft_config(**OURS),
        train_dataset=encoding.to_dataset(encoded),
        processing_class=tokenizer,
    )
    return [dict(batch) for batch in trainer.get_train_dataloader()]


# --- reading: continued pre-training against products of large matrices ---------------

READ_STEPS, READ_ROWS, READ_LENGTH = 40, 8, 256  # as the base reads


def operations(model, tokens: int, length: int) -> float:
    """Returns the billions of operations that training on these tokens asks for.

    Six for each weight and token; and in each layer, for each token and each it may
    attend to, twelve for each unit of width (Kaplan et al. 2020, section 2.1; backward
    counts double).
    """
    config = model.config
    weights = sum(weight.numel() for weight in model.parameters())
    seen = config.num_hidden_layers * config.hidden_size * length
    return (6 * weights + 12 * seen) * tokens / 1e9


def reading_ours() -> dict:
    """Goes on with pre-training on prose, 2,048 tokens a step."""
    import torch

    from helpers import models

    model, tokenizer = models.load()
    text = records.ROOT / "datasets" / "general" / "heldout.jsonl"
    lines = text.read_text(encoding="utf-8").splitlines()
    prose = " ".join(json.loads(line)["text"] for line in lines)
    ids = torch.tensor(tokenizer(prose)["input_ids"])
    batch = ids[: READ_ROWS * READ_LENGTH].view(READ_ROWS, READ_LENGTH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    half = models.half_precision() == "bf16"
    model.train()
    began = time.perf_counter()
    for _ in range(READ_STEPS):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    seconds = time.perf_counter() - began
    units = operations(model, READ_STEPS * batch.numel(), READ_LENGTH)
    return {"seconds": seconds, "units": units}


def reading_peer() -> dict:
    """Multiplies large matrices, as many operations: the machine's peak."""
    import torch

    from helpers import models

    model, _ = models.load()
    units = operations(model, READ_STEPS * READ_ROWS * READ_LENGTH, READ_LENGTH)
    size = 2048
    dtype = torch.bfloat16 if models.half_precision() else torch.float32
    one, two = torch.randn(2, size, size, dtype=dtype).unbind()
    one @ two
    times = max(1, round(units * 1e9 / (2 * size**3)))
    began = time.perf_counter()
    for _ in range(times):
        one @ two
    seconds = (time.perf_counter() - began) * units * 1e9 / (times * 2 * size**3)
    return {"seconds": seconds, "units": units}


# --- answers: batches against one by one ----------------------------------------------


def answers(batch_size: int) -> dict:
    """Answers questions in batches of this size."""
    import tuning

    from helpers import generation, models

    model, tokenizer = models.load()
    prompts = [tuning.chat(row)[:1] for row in tuning.read("new_rows")[:QUESTIONS]]
    began = time.perf_counter()
    said = generation.answer(
        model, tokenizer, prompts, max_new_tokens=24, batch_size=batch_size
    )
    seconds = time.perf_counter() - began
    same = digest([one.text for one in said])
    return {"seconds": seconds, "same": same, "units": QUESTIONS}


def answers_ours() -> dict:
    """Answers 128 questions at a time."""
    return answers(128)


def answers_peer() -> dict:
    """Answers one question at a time."""
    return answers(1)


# --- imports --------------------------------------------------------------------------


def imports_ours() -> dict:
    """Imports the package."""
    began = time.perf_counter()
    import helpers  # noqa: F401
    import helpers.formats  # noqa: F401

    return {"seconds": time.perf_counter() - began, "units": 1}


def imports_peer() -> dict:
    """Imports what the package must not import: torch and transformers."""
    began = time.perf_counter()
    import torch  # noqa: F401
    import transformers  # noqa: F401

    return {"seconds": time.perf_counter() - began, "units": 1}


# --- formats: reading rows, and converting them, against the readers of libraries -----

SIMPLE_ROWS = 200_000


def simple_file() -> Path:
    """Returns JSON Lines of short rows, written once: prompt and completion."""
    import random

    path = records.ROOT / "build" / "bench" / f"simple_{SIMPLE_ROWS}.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = random.Random(0)
        words = [f"word{n}" for n in range(2000)]
        part = path.with_suffix(".part")
        with part.open("w", encoding="utf-8") as handle:
            for _ in range(SIMPLE_ROWS):
                sides = (" ".join(draw.choices(words, k=k)) for k in (8, 12))
                row = dict(zip(("prompt", "completion"), sides, strict=True))
                handle.write(json.dumps(row) + "\n")
        part.replace(path)
    return path


def timed_reading(read: Callable[[Path], int]) -> dict:
    """Times a reader on the file; it returns how many rows it saw."""
    path = simple_file()
    began = time.perf_counter()
    count = read(path)
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "same": count, "units": count}


def formats_ours() -> dict:
    """Reads rows of JSON Lines one by one with `formats.records`."""
    from helpers import formats

    return timed_reading(lambda path: sum(1 for _ in formats.records(path)))


def formats_convert() -> dict:
    """Detects the format in all rows, converts them to messages and writes them."""
    from helpers import formats

    target = records.ROOT / "build" / "bench" / "converted.jsonl"
    return timed_reading(lambda path: formats.convert_file(path, target).written)


def formats_check() -> dict:
    """Holds them against all of the doctor's rules that need no model."""
    from helpers import checks

    return timed_reading(lambda path: checks.check(path).figures["rows"])


def formats_pandas() -> dict:
    """Reads them into a table with pandas."""
    import pandas

    return timed_reading(lambda path: len(pandas.read_json(path, lines=True)))


def formats_datasets() -> dict:
    """Reads them into an Arrow file with `datasets`, and walks through the rows."""
    import tempfile

    import datasets

    datasets.disable_progress_bars()

    def read(path: Path) -> int:
        with tempfile.TemporaryDirectory() as cache:
            rows = datasets.load_dataset(
                "json", data_files=str(path), split="train", cache_dir=cache
            )
            return sum(1 for _ in rows)

    return timed_reading(read)


# --- pairs ----------------------------------------------------------------------------

PAIRED: dict[str, tuple[str, list[Callable[[], dict]]]] = {
    "encoding": ("rows", [encoding_ours, encoding_peer, encoding_calls]),
    "training": ("tokens", [training_ours, training_peer, training_bare]),
    "reading": ("billion operations", [reading_ours, reading_peer]),
    "answers": ("answers", [answers_ours, answers_peer]),
    "imports": ("imports", [imports_ours, imports_peer]),
    "formats": (
        "rows",
        [
            formats_ours,
            formats_convert,
            formats_check,
            formats_pandas,
            formats_datasets,
        ],
    ),
}


def child(name: str) -> None:
    """Runs one side in this process and prints its result as JSON."""
    result = globals()[name]()
    print(json.dumps(result | {"peak_megabytes": round(peak_megabytes(), 1)}))


def fresh(side: Callable, number: int) -> dict:
    """Runs one side in a fresh process."""
    call = [sys.executable, str(Path(__file__)), "--child", side.__name__]
    environment = os.environ | {"ROUND": str(number)}
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(f"{side.__name__} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(what: str) -> list[dict]:
    """Runs all sides of a pair in turn and returns a row for each."""
    _, sides = PAIRED[what]
    runs: dict[str, list[dict]] = {side.__name__: [] for side in sides}
    rounds = ROUNDS.get(what, 3)
    for number in range(rounds):
        for side in sides[:: -1 if number % 2 else 1]:
            last = fresh(side, number)
            runs[side.__name__].append(last)
            print(f"{what} {number + 1}/{rounds} {side.__name__} {last}", flush=True)
    found = {run["same"] for all_ in runs.values() for run in all_ if "same" in run}
    if len(found) > 1:
        raise SystemExit(f"{what}: the sides do not give the same output.")
    return summary(what, runs)


def summary(what: str, runs: dict[str, list[dict]]) -> list[dict]:
    """Returns a row for each side: medians, and ratios to the first side's rounds."""
    unit, sides = PAIRED[what]
    ours = runs[sides[0].__name__]
    rows = []
    for side in sides:
        found = runs[side.__name__]
        ratios = [
            them["seconds"] / us["seconds"]
            for us, them in zip(ours, found, strict=True)
        ]
        row = {
            "technique": side.__name__,
            "what": side.__doc__.splitlines()[0],
            "metric": f"{unit} per second",
            "value": statistics.median(r["units"] / r["seconds"] for r in found),
            "seconds": statistics.median(r["seconds"] for r in found),
            "times_ours": statistics.median(ratios),
            "times_ours_low": min(ratios),
            "times_ours_high": max(ratios),
            "n": len(found),
            "peak_megabytes": max(r["peak_megabytes"] for r in found),
        }
        if "loss" in found[0]:
            row |= losses(ours, found)
        rows.append(
            {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}
        )
    return rows


def losses(ours: list[dict], found: list[dict]) -> dict:
    """Returns a side's loss, and by how much it is above ours over the rounds."""
    from helpers.statistics import over_seeds

    own, theirs = ([run["loss"] for run in runs] for runs in (ours, found))
    row = {"loss": statistics.mean(theirs), "loss_per_round": theirs}
    if found is not ours:
        mean, low, high = over_seeds(
            [them - us for us, them in zip(own, theirs, strict=True)]
        )
        row |= {"loss_above": mean, "loss_above_low": low, "loss_above_high": high}
    return row


def main() -> None:
    """Reads the command line, measures, and writes a record for each pair."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="*", choices=[*PAIRED, []], default=[])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child)
        return
    for what in options.what or PAIRED:
        rows = measure(what)
        records.write(f"speed_{what}", rows, command=f"{COMMAND} {what}")
        for row in rows:
            print(
                f"{row['technique']:16s} {row['value']:12,.1f} {row['metric']}  "
                f"takes {row['times_ours']:.2f} times ours "
                f"[{row['times_ours_low']:.2f}, {row['times_ours_high']:.2f}]  "
                f"peak {row['peak_megabytes']:,.0f} MB",
                flush=True,
            )


if __name__ == "__main__":
    main()
