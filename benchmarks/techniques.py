"""All techniques on one task: the same base, rows, steps, test set and search.

    python benchmarks/techniques.py                  # 5 seeds × 1,000 rows; resumes
    python benchmarks/techniques.py --rows 3000      # a larger record, which says so
    python benchmarks/techniques.py --minutes 30     # stop then; the same call goes on

The task is tone: irony, sarcasm or literal. Whatever is trained sees the same number
of rows for the same number of steps of one loop, and its learning rate is the best of
three on dev, or of up to two more where the best of them lies at an end; whatever is
only asked gets three wordings on dev instead. Answers are labels by likelihood, but for
the head. Tests are asked once, with what dev chose. Record: results/techniques.json,
accuracy on three tests and macro-F1 over seeds, what each costs, what it forgets, exact
tests between neighbours, and instruction tuning against fine-tuning at the same number
of rows.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import os
import random
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import fine_tuning
import records
import scoring
import speed
import tuning

from helpers import encoding, generation, metrics, models, statistics

BASE = os.environ.get("MODEL") or models.SHIPPED
COMMAND = "python benchmarks/techniques.py"
LABELS = ["irony", "sarcasm", "literal"]
BATCH, EPOCHS = 16, 2
SHOTS, VECTORS, RANK = 8, 20, 16
PRICED = 24  # steps that time and memory are taken from
FURTHER = 2  # learning rates beyond the three, where the best lies at an end
ENOUGH = 0.8  # the accuracy that examples are counted for
ADAPTIVE_RATE = 1e-3
CONFIDENCE = 0.99  # of the interval for one more run
PROSE = 200  # held-out paragraphs whose perplexity is taken

WORDINGS = (
    "{text} This is",
    "{text} The remark is",
    "{text} Is it irony, sarcasm or literal? It is",
)
INSTRUCTIONS = (
    "Is it irony, sarcasm or literal?",
    "Irony, sarcasm or literal?",
    "Say irony, sarcasm or literal.",
)
UNSEEN_INSTRUCTIONS = (
    "Which is it, irony, sarcasm or literal words?",
    "Does the speaker use irony, sarcasm or literal words?",
)
EMPTY = ("N/A", "...", "A text.")  # stand for a text, to see what a model leans to

FULL = (2e-4, 5e-4, 1e-3)
LORA = (2e-3, 5e-3, 1e-2)
RATES = {
    "soft prompt": (0.03, 0.3, 1.0),
    "prefix tuning": (1e-2, 3e-2, 1e-1),
    "IA3": (1e-2, 3e-2, 1e-1),
    "LoRA": LORA,
    "QLoRA": LORA,
    "head only": (3e-2, 1e-1, 3e-1),
    "full tuning": FULL,
    "adaptive + full": FULL,
}
INSTRUCTED = {"instruction-tuned": 0, "instruction-tuned + few-shot": SHOTS}
PROMPTED = {"zero-shot": 0, "few-shot": SHOTS, "few-shot, calibrated": SHOTS}
SHUFFLED, MAJORITY = "full tuning, labels shuffled", "majority"
RULE = "a rule: about a person?"
ONE_TASK, MANY_TASKS = "fine-tuning: one task", "instruction tuning: many tasks"
TECHNIQUES = (*PROMPTED, *RATES, SHUFFLED, *INSTRUCTED)
"""In the order in which they are run; the majority needs no run."""


@dataclass(frozen=True)
class Budget:
    """What each technique may use.

    Attributes:
        rows: labelled rows, or rows of instructions.
        seeds: runs that are averaged.
        asked: rows of each split that are asked; None: all.
    """

    rows: int = 1000
    seeds: int = 5
    asked: int | None = 400

    @property
    def steps(self) -> int:
        """Steps of training."""
        return math.ceil(EPOCHS * self.rows / BATCH)


# --- rows -----------------------------------------------------------------------------


@functools.cache
def _split(name: str) -> tuple[dict, ...]:
    return tuple(fine_tuning.read(name))


def chosen(seed: int, count: int) -> list[dict]:
    """Returns training rows of a seed's choice."""
    return tuning.shuffled(_split("train"), seed)[:count]


def shown(seed: int, count: int) -> list[dict]:
    """Returns solved examples of a seed's choice, the labels in turn."""
    pools = {
        name: [r for r in chosen(seed, 600) if r["label"] == name] for name in LABELS
    }
    examples = [pools[LABELS[i % 3]][i // 3] for i in range(count)]
    return tuning.shuffled(examples, seed)


def questions(rows: Sequence[dict], wording: int = 0, shots: Sequence[dict] = ()):
    """Returns prompts up to where the label is due, behind solved examples."""
    pattern = WORDINGS[wording]
    head = "".join(f"{pattern.format(**row)} {row['label']}.\n" for row in shots)
    return [head + pattern.format(**row) for row in rows]


def turns(rows: Sequence[dict], instruction: str, shots: Sequence[dict] = ()):
    """Returns conversations that end on the question, behind solved ones."""

    def asked(row: dict) -> dict:
        return {"role": "user", "content": f"{instruction}\n\n{row['text']}"}

    solved = []
    for row in shots:
        answer = {"role": "assistant", "content": f"It is {row['label']}."}
        solved += [asked(row), answer]
    return [[*solved, asked(row)] for row in rows]


def pairs(tokenizer, rows: Sequence[dict]) -> list[tuple[list[int], list[int]]]:
    """Returns ids and labels of rows; only the label word is learnt."""
    prompts = questions(rows)
    before = encoding.encode_prompts(prompts, tokenizer)
    answers = [f" {row['label']}" for row in rows]
    whole = encoding.encode_prompts(prompts, tokenizer, answers=answers)
    return [
        (ids, [-100] * len(head) + ids[len(head) :])
        for head, ids in zip(before, whole, strict=True)
    ]


def instructed(tokenizer, rows: Sequence[dict]) -> list[tuple[list[int], list[int]]]:
    """Returns ids and labels of rows with an instruction; only answers are learnt."""
    found = tuning.encode(rows, tokenizer)
    return list(zip(found.input_ids, found.labels, strict=True))


def collated(part: Sequence[tuple[list[int], object]], pad: int) -> dict:
    """Returns a batch, padded on the right; labels are of tokens or of rows."""
    import torch

    width = max(len(ids) for ids, _ in part)

    def padded(values: Sequence[int], filling: int) -> list[int]:
        return [*values] + [filling] * (width - len(values))

    labels = [
        label if isinstance(label, int) else padded(label, -100) for _, label in part
    ]
    return {
        "input_ids": torch.tensor([padded(ids, pad) for ids, _ in part]),
        "attention_mask": torch.tensor([padded([1] * len(ids), 0) for ids, _ in part]),
        "labels": torch.tensor(labels),
    }


# --- training -------------------------------------------------------------------------


def fit(model, rows: list, pad: int, *, steps: int, rate: float, seed: int) -> None:
    """Trains what has a gradient: AdamW, a short warm-up, then a cosine to 0."""
    import torch
    from transformers import get_cosine_schedule_with_warmup

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    schedule = get_cosine_schedule_with_warmup(optimizer, 1 + steps // 20, steps)
    rng, queue = random.Random(seed), []
    model.train()
    for _ in range(steps):
        while len(queue) < BATCH:
            queue += rng.sample(rows, len(rows))
        part, queue = queue[:BATCH], queue[BATCH:]
        batch = {k: v.to(model.device) for k, v in collated(part, pad).items()}
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
        schedule.step()
    model.eval()


def in_four_bits():
    """Returns the base stored in NF4, prepared for training beside it."""
    from peft import prepare_model_for_kbit_training

    model, _ = models.load(BASE, quantization="nf4")
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def of_four_bits(model):
    """Returns the model with the values that NF4 keeps, stored as float32.

    It computes what `in_four_bits` computes, without unpacking at every step: on a CPU
    that is most of the time. So runs use this one; memory and time are the other's.
    """
    import torch
    from bitsandbytes import functional

    with torch.no_grad():
        for name, layer in model.model.named_modules():
            if isinstance(layer, torch.nn.Linear) and name != "lm_head":
                packed = functional.quantize_4bit(
                    layer.weight.data, quant_type="nf4", compress_statistics=True
                )
                layer.weight.copy_(functional.dequantize_4bit(*packed))
    return model


def prepared(technique: str, seed: int, *, packed: bool = False):
    """Returns model and tokenizer with a technique's weights open to training.

    Args:
        technique: that is trained.
        seed: of new weights.
        packed: whether QLoRA's base is stored in 4 bits, not only rounded to them.
    """
    import peft
    from transformers import set_seed

    set_seed(seed)
    if technique == "head only":
        return headed(seed)
    model, tokenizer = models.load(BASE)
    if technique == "QLoRA":
        model = in_four_bits() if packed else of_four_bits(model)
    common = {"task_type": "CAUSAL_LM"}
    vectors = common | {"num_virtual_tokens": VECTORS}
    low_rank = common | {"r": RANK, "lora_alpha": 2 * RANK}
    low_rank["target_modules"] = "all-linear"
    configs = {
        "soft prompt": lambda: peft.PromptTuningConfig(
            prompt_tuning_init="SAMPLE_VOCAB", **vectors
        ),
        "prefix tuning": lambda: peft.PrefixTuningConfig(**vectors),
        "IA3": lambda: peft.IA3Config(**common),
        "LoRA": lambda: peft.LoraConfig(**low_rank),
        "QLoRA": lambda: peft.LoraConfig(**low_rank),
    }
    set_seed(seed)
    if technique in configs:
        model = peft.get_peft_model(model, configs[technique]())
    return model, tokenizer


def headed(seed: int):
    """Returns the base's frozen body with a new head."""
    from transformers import LlamaForSequenceClassification, set_seed

    base, tokenizer = models.load(BASE)
    config = copy.deepcopy(base.config)
    config.num_labels = len(LABELS)
    config.pad_token_id = tokenizer.pad_token_id
    set_seed(seed)
    model = LlamaForSequenceClassification(config)
    model.model = base.model.requires_grad_(False)
    return model.to(base.device), tokenizer


def trained(technique: str, seed: int, rate: float, rows: int, steps: int, **how):
    """Returns a trained model, its tokenizer and the seconds that training took."""
    # PEFT 0.21 asks transformers 5 for a property by its former name.
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    model, tokenizer = prepared(technique, seed, **how)
    pad, own = tokenizer.pad_token_id, chosen(seed, rows)
    if technique == SHUFFLED:
        labels = tuning.shuffled([row["label"] for row in own], seed)
        own = [row | {"label": label} for row, label in zip(own, labels, strict=True)]
    began = time.perf_counter()
    if technique == "adaptive + full":
        # All training texts, whose labels are not looked at.
        ids = tokenizer([row["text"] for row in _split("train")])["input_ids"]
        texts = [(one, one) for one in ids]
        fit(model, texts, pad, steps=steps, rate=ADAPTIVE_RATE, seed=seed)
    if technique in INSTRUCTED:
        data = instructed(tokenizer, tuning.shuffled(tuning.read("train"), seed)[:rows])
    elif technique == "head only":
        ids = tokenizer(questions(own))["input_ids"]
        data = [
            (one, LABELS.index(row["label"])) for one, row in zip(ids, own, strict=True)
        ]
    else:
        data = pairs(tokenizer, own)
    fit(model, data, pad, steps=steps, rate=rate, seed=seed)
    return model, tokenizer, time.perf_counter() - began


# --- asking ---------------------------------------------------------------------------


def said(model, tokenizer, technique: str, rows: Sequence[dict], *, wording=0, seed=0):
    """Returns for each row the number of the label that is given."""
    import numpy as np

    if technique == "head only":
        return by_head(model, tokenizer, rows)
    count = PROMPTED.get(technique, 0) or INSTRUCTED.get(technique, 0)
    shots = shown(seed, count)
    labels, how = [f" {name}" for name in LABELS], "sum"
    if technique in INSTRUCTED:
        prompts = turns(rows, INSTRUCTIONS[wording], shots)
        labels, how = [f"It is {name}." for name in LABELS], "mean"
    else:
        prompts = questions(rows, wording, shots)
        how = "mean" if technique in PROMPTED else how

    def scored(asked: list) -> np.ndarray:
        return generation.score_labels(
            model, tokenizer, asked, labels, batch_size=64, reuse_prefix=True
        )[how]

    scores = scored(prompts)
    if technique == "few-shot, calibrated":
        empty = questions([{"text": text} for text in EMPTY], wording, shots)
        scores = scores - scored(empty).mean(0)
    return [int(number) for number in scores.argmax(1)]


def by_head(model, tokenizer, rows: Sequence[dict]) -> list[int]:
    """Returns for each row the number of the head's largest output."""
    import torch

    found = []
    ids = tokenizer(questions(rows))["input_ids"]
    for start in range(0, len(rows), 64):
        part = [(one, 0) for one in ids[start : start + 64]]
        batch = collated(part, tokenizer.pad_token_id)
        batch = {k: v.to(model.device) for k, v in batch.items() if k != "labels"}
        with torch.no_grad():
            found += model(**batch).logits.argmax(-1).tolist()
    return found


def hits(numbers: Sequence[int], rows: Sequence[dict]) -> list[bool]:
    """Returns right or wrong, row by row."""
    return [LABELS[n] == row["label"] for n, row in zip(numbers, rows, strict=True)]


def share(found: Sequence[bool]) -> float:
    """Returns the share of hits."""
    return sum(found) / len(found)


def kept_knowledge(model, tokenizer) -> dict[str, float]:
    """Returns what the model still knows: general prose, and the mood of situations."""
    path = records.ROOT / "datasets" / "general" / "heldout.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()[:PROSE]
    loss = generation.sequence_loss(
        model, tokenizer, [json.loads(line)["text"] for line in lines]
    )
    prompts = scoring.prompts(0)
    scores = generation.score_labels(
        model, tokenizer, prompts, scoring.LABELS, batch_size=64
    )["sum"]
    right = [best == number % 2 for number, best in enumerate(scores.argmax(1))]
    return {
        "perplexity": metrics.perplexity(loss["nats"], loss["tokens"]),
        "mood": share(right),
    }


def tokens_a_question(tokenizer, technique: str) -> float:
    """Returns how many places of the context a question takes, on average."""
    rows = _split("dev")[:100]
    count = PROMPTED.get(technique, 0) or INSTRUCTED.get(technique, 0)
    shots = shown(0, count)
    if technique in INSTRUCTED:
        prompts = turns(rows, INSTRUCTIONS[0], shots)
    else:
        prompts = questions(rows, 0, shots)
    sizes = [len(ids) for ids in encoding.encode_prompts(prompts, tokenizer)]
    virtual = VECTORS if technique in ("soft prompt", "prefix tuning") else 0
    return sum(sizes) / len(sizes) + virtual


def bytes_a_task(model, technique: str) -> int:
    """Returns what must be stored for one more task."""
    if technique in INSTRUCTED or technique in PROMPTED:
        count = PROMPTED.get(technique, 0) or INSTRUCTED.get(technique, 0)
        empty, shots = [{"text": ""}], shown(0, count)
        if technique in PROMPTED:
            (prompt,) = questions(empty, 0, shots)
            return len(prompt.encode())
        (asked,) = turns(empty, INSTRUCTIONS[0], shots)
        return len("".join(turn["content"] for turn in asked).encode())
    return 4 * models.count_parameters(model)["trainable"]  # as float32


# --- runs -----------------------------------------------------------------------------


def tried(technique: str, choice: float, budget: Budget) -> float:
    """Returns accuracy on dev with one learning rate, or wording, and seed 0."""
    rows = _split("dev")[: budget.asked]
    if technique in PROMPTED:
        model, tokenizer = models.load(BASE)
        wording = int(choice)
    else:
        model, tokenizer, _ = trained(technique, 0, choice, budget.rows, budget.steps)
        wording = 0
    return share(hits(said(model, tokenizer, technique, rows, wording=wording), rows))


def run(technique: str, seed: int, choice: float, budget: Budget) -> dict:
    """Trains, if need be, and asks the three tests and what was known before.

    Args:
        technique: of TECHNIQUES.
        seed: of rows, examples, starts and order.
        choice: the learning rate, or the number of a wording.
        budget: rows, steps and questions.
    """
    found: dict = {"seconds": 0.0, "trainable": 0}
    wording = 0
    if technique in PROMPTED:
        model, tokenizer = models.load(BASE)
        wording = int(choice)
    else:
        model, tokenizer, found["seconds"] = trained(
            technique, seed, choice, budget.rows, budget.steps
        )
        found["trainable"] = models.count_parameters(model)["trainable"]
    for split in fine_tuning.TESTS:
        rows = _split(split)[: budget.asked]
        numbers = said(model, tokenizer, technique, rows, wording=wording, seed=seed)
        found[split] = "".join(map(str, numbers))
    # A head stands beside a body that did not change; so does every prompt of words.
    plain = technique == "head only" or technique in PROMPTED
    asked = models.load(BASE)[0] if plain else model
    found |= kept_knowledge(asked, tokenizer)
    found["tokens"] = tokens_a_question(tokenizer, technique)
    found["bytes"] = bytes_a_task(model, technique)
    return found


def price(technique: str) -> dict[str, float]:
    """Returns a fresh process's peak resident megabytes and its seconds a step.

    Apart from the runs, one technique after the other: runs may have had company.
    """
    call = [sys.executable, str(Path(__file__)), "--child", technique]
    done = subprocess.run(call, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{technique} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def child(technique: str) -> None:
    """Does little of everything that a technique does, and prints what it took."""
    seconds = 0.0
    if technique in PROMPTED:
        model, tokenizer = models.load(BASE)
    else:
        model, tokenizer, seconds = trained(
            technique, 0, 1e-4, PRICED * BATCH, PRICED, packed=True
        )
    said(model, tokenizer, technique, _split("dev")[:64])
    found = {"megabytes": speed.peak_megabytes(), "seconds_a_step": seconds / PRICED}
    print(json.dumps(found))


def needed(technique: str, rate: float, budget: Budget, ask: Callable) -> int | None:
    """Returns the least of some numbers of rows that reach ENOUGH on dev; else None."""
    for part in (32, 16, 8, 4, 2, 1):
        size = budget.rows // part
        if size and ask(technique, rate, Budget(size, 1, budget.asked)) >= ENOUGH:
            return size
    return None


# --- instruction tuning against fine-tuning -------------------------------------------


def as_instructions(rows: Sequence[dict], instructions: Sequence[str]) -> list[dict]:
    """Returns tone rows as rows of instructions."""
    return [
        {
            "instruction": instructions[number % len(instructions)],
            "input": row["text"],
            "output": f"It is {row['label']}.",
        }
        for number, row in enumerate(rows)
    ]


def mixed(arm: str, seed: int, count: int) -> list[dict]:
    """Returns an arm's training rows: all of one task, or of many and that one."""
    if arm == ONE_TASK:
        return as_instructions(chosen(seed, count), INSTRUCTIONS[:1])
    tasks = len({row["task"] for row in tuning.read("train")}) + 1
    own = as_instructions(chosen(seed, math.ceil(count / tasks)), INSTRUCTIONS)
    return own + tuning.shuffled(tuning.read("train"), seed)[: count - len(own)]


def instructed_model(arm: str, seed: int, rate: float, budget: Budget) -> tuple:
    """Returns an arm's tuned model and its tokenizer."""
    from transformers import set_seed

    model, tokenizer = models.load(BASE)
    set_seed(seed)
    data = instructed(tokenizer, mixed(arm, seed, budget.rows))
    pad = tokenizer.pad_token_id
    fit(model, data, pad, steps=budget.steps, rate=rate, seed=seed)
    return model, tokenizer


def on_dev(arm: str, rate: float, budget: Budget) -> float:
    """Returns exact match on dev rows of an arm's own kind, with one learning rate."""
    model, tokenizer = instructed_model(arm, tuning.SEARCH, rate, budget)
    tone = as_instructions(_split("dev"), INSTRUCTIONS[:1])
    rows = (tone if arm == ONE_TASK else tuning.dev())[: budget.asked]
    return share(tuning.right(tuning.ask(model, tokenizer, rows), rows))


def against(arm: str, seed: int, rate: float, budget: Budget) -> dict[str, float]:
    """Returns exact match of written answers on what was seen and what was not."""
    model, tokenizer = instructed_model(arm, seed, rate, budget)
    tone = _split("test")[: min(budget.asked or 300, 300)]
    tests = {
        "seen task, seen wording": as_instructions(tone, INSTRUCTIONS[:1]),
        "seen task, unseen wording": as_instructions(tone, UNSEEN_INSTRUCTIONS),
        "28 other tasks": tuning.read("new_rows")[: budget.asked],
        "tasks that neither saw": tuning.read("held_out")[: budget.asked],
    }
    return {
        name: share(tuning.right(tuning.ask(model, tokenizer, rows), rows))
        for name, rows in tests.items()
    }


# --- the record -----------------------------------------------------------------------


class Runs:
    """The runs of one budget, kept on disk as they end.

    Attributes:
        budget: of each technique.
        deadline: when no more run is begun, in seconds of `time.monotonic`; None: none.
    """

    def __init__(self, budget: Budget, deadline: float | None = None) -> None:
        """Finds what is kept of this base and these rows."""
        self.budget, self.deadline = budget, deadline
        parts = [known[:8] for known in facts().values()]
        name = "-".join(["techniques", *parts])
        self.path = records.ROOT / "build" / f"{name}.json"

    def get(self, what: str, *key: object, work: Callable[[], object]) -> object:
        """Returns a kept result, or does the work and keeps it."""
        name = json.dumps([what, *key, asdict(self.budget)])
        known = self.path.exists() and name in json.loads(self.path.read_text())
        if not known and self.deadline and time.monotonic() > self.deadline:
            raise TimeoutError
        began = time.perf_counter()
        result = tuning.resumed(self.path, name, work)
        if not known:
            took = time.perf_counter() - began
            print(f"techniques: {what} {key}: {took:.0f} s", flush=True)
        return result

    def dev(self, technique: str, choice: float, budget: Budget | None = None) -> float:
        """Returns accuracy on dev."""
        budget = budget or self.budget
        return self.get(
            "dev",
            technique,
            choice,
            budget.rows,
            work=lambda: tried(technique, choice, budget),
        )

    def choices(self, technique: str) -> dict[float, float]:
        """Returns accuracy on dev of each rate or wording that is tried."""
        if technique in PROMPTED:
            return {n: self.dev(technique, n) for n in range(len(WORDINGS))}
        name = "instruction-tuned" if technique in INSTRUCTED else technique
        rates = RATES.get(technique, FULL)
        return searched(rates, lambda rate: self.dev(name, rate))

    def choice(self, technique: str) -> float:
        """Returns the rate or wording that was best on dev."""
        source = "full tuning" if technique == SHUFFLED else technique
        return best_of(self.choices(source))

    def runs(self, technique: str) -> list[dict]:
        """Returns a technique's run of each seed; one run where no seed matters."""
        best = self.choice(technique)
        seeds = 1 if technique == "zero-shot" else self.budget.seeds
        return [
            self.get(
                "run",
                technique,
                seed,
                best,
                work=lambda s=seed: run(technique, s, best, self.budget),
            )
            for seed in range(seeds)
        ]

    def arms(self) -> dict[str, list[dict]]:
        """Returns the runs of instruction tuning and of fine-tuning."""
        return {
            arm: [
                self.get(
                    "against",
                    arm,
                    seed,
                    rate,
                    work=lambda a=arm, s=seed, r=rate: against(a, s, r, self.budget),
                )
                for seed in range(self.budget.seeds)
            ]
            for arm in (ONE_TASK, MANY_TASKS)
            for rate in [best_of(self.arm_choices(arm))]
        }

    def arm_choices(self, arm: str) -> dict[float, float]:
        """Returns exact match on an arm's own dev rows of each rate that is tried."""

        def on_own_dev(rate: float) -> float:
            work = functools.partial(on_dev, arm, rate, self.budget)
            return self.get("arm on dev", arm, rate, work=work)

        return searched(FULL, on_own_dev)


def searched(
    rates: Sequence[float], value: Callable[[float], float]
) -> dict[float, float]:
    """Returns the value of each rate, and of some beyond if the best lies at an end."""
    found = {rate: value(rate) for rate in rates}
    for _ in range(FURTHER):
        best = best_of(found)
        if min(found) < best < max(found):
            break
        beyond = best * 3 if best == max(found) else best / 3
        rate = float(f"{beyond:.0e}")
        found[rate] = value(rate)
    return found


def best_of(found: dict[float, float]) -> float:
    """Returns the choice with the highest value, the first of equals."""
    return max(found, key=found.get)


def facts() -> dict[str, str]:
    """Returns the hashes of the base and of all rows that are used."""
    sets = ("irony", "instructions", "general", "lexicon")
    files = [p for name in sets for p in (records.ROOT / "datasets" / name).iterdir()]
    path = Path(BASE) / "model.safetensors"
    return {
        "model_sha256": records.file_hash(path) if path.exists() else str(BASE),
        "data_sha256": records.file_hash(
            *sorted(p for p in files if p.suffix in (".json", ".jsonl"))
        ),
    }


def over(values: Sequence[float], *, clipped: bool = True) -> dict:
    """Returns mean, Student's interval, and where one more run is expected."""
    mean, low, high = statistics.over_seeds(values)
    _, wide_low, wide_high = statistics.over_seeds(values, confidence=CONFIDENCE)
    # Of one more run, not of the mean: wider by the square root of n + 1.
    reach = math.sqrt(len(values) + 1)
    bounds = {
        "low": low,
        "high": high,
        "run_low": mean - (mean - wide_low) * reach,
        "run_high": mean + (wide_high - mean) * reach,
    }
    if clipped:
        bounds = {key: min(1.0, max(0.0, bound)) for key, bound in bounds.items()}
    bounds = {key: round(bound, 4) for key, bound in bounds.items()}
    seeds = list(range(len(values)))
    return {
        "value": round(mean, 4),
        **bounds,
        "seeds": seeds,
        "per_seed": [round(value, 4) for value in values],
    }


def alone(found: Sequence[bool]) -> dict:
    """Returns a share with Wilson's interval, where no seed matters."""
    low, high = statistics.wilson(sum(found), len(found))
    values = {"value": share(found), "low": low, "high": high}
    return {k: round(v, 4) for k, v in values.items()} | {"n": len(found)}


def rows_of(technique: str, made: Runs) -> list[dict]:
    """Returns a technique's rows of the record."""
    best, found = made.choice(technique), made.runs(technique)
    paid = made.get("price", technique, work=lambda: price(technique))
    common: dict = {"technique": technique, "rows": made.budget.rows}
    if technique in PROMPTED:
        common |= {"rows": PROMPTED[technique], "wording": WORDINGS[int(best)]}
    else:
        common |= {"learning_rate": best}
        common["train_seconds"] = round(paid["seconds_a_step"] * made.budget.steps, 1)
    common["trainable_parameters"] = found[0]["trainable"]
    common["bytes_a_task"] = found[0]["bytes"]
    common["tokens_a_question"] = round(found[0]["tokens"], 1)
    common["peak_megabytes"] = paid["megabytes"]
    whole = ("full tuning", "adaptive + full", SHUFFLED)
    common["one_model_many_tasks"] = technique not in whole
    rows = []
    for split in fine_tuning.TESTS:
        truth = _split(split)[: made.budget.asked]
        answers = [[int(digit) for digit in one[split]] for one in found]
        marks = [hits(numbers, truth) for numbers in answers]
        values = over([share(m) for m in marks]) if len(found) > 1 else alone(marks[0])
        rows.append(common | {"split": split, "metric": "accuracy"} | values)
        if split == "test":
            gold = [LABELS.index(row["label"]) for row in truth]
            f1 = [
                metrics.classification(gold, numbers, labels=range(3))["macro_f1"]
                for numbers in answers
            ]
            spread = over(f1) if len(f1) > 1 else {"value": round(f1[0], 4)}
            rows.append(common | {"split": split, "metric": "macro-F1"} | spread)
            rows += recalls(technique, truth, marks)
    if technique in RATES and rows[0]["value"] >= ENOUGH:
        rows[0]["rows_for_80"] = needed(technique, best, made.budget, made.dev)
    return rows + forgotten(technique, found)


def recalls(technique: str, truth: Sequence[dict], marks: list[list[bool]]) -> list:
    """Returns rows on the share that is right of each label's own rows."""
    rows = []
    for label in LABELS:
        own = [number for number, row in enumerate(truth) if row["label"] == label]
        found = [share([one[number] for number in own]) for one in marks]
        spread = over(found) if len(found) > 1 else {"value": round(found[0], 4)}
        facts_of = {"technique": technique, "split": "test"}
        rows.append(facts_of | {"metric": f"recall of {label}"} | spread)
    return rows


def forgotten(technique: str, found: Sequence[dict]) -> list[dict]:
    """Returns rows on what a model still knows with a technique's weights in use."""
    logs = [math.log(one["perplexity"]) for one in found]
    moods = [one["mood"] for one in found]
    many = len(found) > 1
    # Over seeds in nats: one ruined run must not hide what the others forgot.
    loss = over(logs, clipped=False) if many else {"value": round(logs[0], 4)}
    bounds = ("value", "low", "high", "run_low", "run_high")
    spread = loss | {k: round(math.exp(loss[k]), 4) for k in bounds if k in loss}
    if many:
        spread["per_seed"] = [round(one["perplexity"], 4) for one in found]
    mood = over(moods) if many else {"value": round(moods[0], 4)}
    common = {"technique": technique, "split": "kept"}
    return [
        common | {"metric": "perplexity of prose"} | spread,
        common | {"metric": "mood"} | mood,
    ]


def neighbours(made: Runs, done: Sequence[str], rows: Sequence[dict]) -> list[dict]:
    """Returns exact paired tests of the first seed's answers, each with the next.

    Next is who comes next by the mean over seeds, which the record's rows have.
    """
    truth = _split("test")[: made.budget.asked]
    marks = {
        name: hits([int(digit) for digit in made.runs(name)[0]["test"]], truth)
        for name in done
    }
    means = {
        row["technique"]: row["value"]
        for row in rows
        if (row["split"], row["metric"]) == ("test", "accuracy")
    }
    order = sorted(marks, key=lambda name: -means[name])
    tests = [
        {"better": one, "worse": other} | statistics.mcnemar(marks[one], marks[other])
        for one, other in zip(order, order[1:], strict=False)
    ]
    for test, adjusted in zip(
        tests, statistics.holm([test["p"] for test in tests]), strict=True
    ):
        test["p_holm"] = adjusted
    return tests


def baselines(made: Runs) -> list[dict]:
    """Returns the majority's rows, and what the untouched base knows."""
    rows = []
    for split in fine_tuning.TESTS:
        truth = [row["label"] for row in _split(split)[: made.budget.asked]]
        train = [row["label"] for row in _split("train")]
        found = metrics.majority_baseline(train, truth)
        facts_of = {"technique": MAJORITY, "split": split, "metric": "accuracy"}
        rows.append(facts_of | alone(found))
    # Sarcasm if the remark is about a person, else irony: in the grammar that rule is
    # right on all rows but the literal ones. Who beats it has learnt more than that.
    found = [row["label"] != "literal" for row in _split("test")[: made.budget.asked]]
    facts_of = {"technique": RULE, "split": "test", "metric": "accuracy"}
    rows.append(facts_of | alone(found))
    known = made.get("base", work=lambda: kept_knowledge(*models.load(BASE)))
    return rows + forgotten("the base", [known])


def compared(made: Runs) -> list[dict]:
    """Returns rows on instruction tuning against fine-tuning."""
    return [
        {"technique": arm, "rows": made.budget.rows, "split": split}
        | {"metric": "exact match", "learning_rate": best_of(made.arm_choices(arm))}
        | over([one[split] for one in found])
        for arm, found in made.arms().items()
        for split in found[0]
    ]


def whole(made: Runs) -> tuple[list[dict], dict]:
    """Returns all rows that can be had before the deadline, and facts about them."""
    rows, done, missing = baselines(made), [], []
    for technique in TECHNIQUES:
        try:
            rows += rows_of(technique, made)
            done.append(technique)
        except TimeoutError:
            missing.append(technique)
    try:
        rows += compared(made)
    except TimeoutError:
        missing += [ONE_TASK, MANY_TASKS]
    looked_up = {name: made.choices(name) for name in done if name != SHUFFLED}
    if ONE_TASK not in missing:
        looked_up |= {arm: made.arm_choices(arm) for arm in (ONE_TASK, MANY_TASKS)}
    about = {
        "on_dev": {
            name: {str(k): round(v, 4) for k, v in found.items()}
            for name, found in looked_up.items()
        },
        "neighbours": neighbours(made, done, rows) if len(done) > 1 else [],
        "missing": missing,
    }
    return rows, about


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=Budget.rows, help="to train on")
    parser.add_argument("--seeds", type=int, default=Budget.seeds, help="from 2")
    parser.add_argument(
        "--asked", type=int, default=Budget.asked, help="rows of each test; 0: all"
    )
    parser.add_argument("--minutes", type=float, help="begin no run after these")
    parser.add_argument("--folder", type=Path, help="where the record is written")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        child(options.child)
        return
    if options.seeds < 2 or options.rows < BATCH:
        parser.error(
            f"found {options.seeds} seeds and {options.rows} rows; an interval needs "
            f"two seeds, and a step {BATCH} rows"
        )
    began = time.monotonic()
    budget = Budget(options.rows, options.seeds, options.asked or None)
    deadline = began + 60 * options.minutes if options.minutes else None
    rows, about = whole(Runs(budget, deadline))
    flags = [f"--rows {budget.rows}"] * (budget.rows != Budget.rows)
    flags += [f"--seeds {budget.seeds}"] * (budget.seeds != Budget.seeds)
    flags += [f"--asked {options.asked}"] * (options.asked != Budget.asked)
    records.write(
        "techniques",
        rows,
        command=" ".join([COMMAND, *flags]),
        folder=options.folder,
        budget=asdict(budget) | {"steps": budget.steps},
        **about,
        **facts(),
    )
    minutes = (time.monotonic() - began) / 60
    print(f"techniques: {len(rows)} rows in {minutes:.1f} minutes")
    if about["missing"]:
        print("Time is up; the same call goes on with:", ", ".join(about["missing"]))


if __name__ == "__main__":
    main()
