"""Scaling in miniature: held-out loss against tokens, for three sizes and five seeds.

    python benchmarks/scaling.py                          # the record
    python benchmarks/scaling.py --tokens 100000 --seeds 2 --out DIR   # a trial

Small LLaMAs read the beginning of the base's first text from scratch, each token once,
at a constant rate, so that every point of a curve stands for a run of that length. One
formula is fitted to the means, and asked for what it has not seen. Writes
results/scaling.json; a killed record goes on with the first run that is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
import records
import tuning
from base import Recipe

from helpers import encoding, generation, models, statistics

sys.path.insert(0, str(records.ROOT / "datasets"))
import make_general

HELD_OUT = records.ROOT / "datasets" / "general" / "heldout.jsonl"
TEXTS = 200  # held-out texts that the loss is measured on
TOKENS_A_TEXT = 40  # fewer than there are: enough texts are drawn
DOUBLINGS = 6  # the loss is measured at all tokens, at a half of them, a quarter …


@dataclass(frozen=True)
class Size:
    """A model's shape; heads have 32 dimensions, MLPs four times the width."""

    width: int
    layers: int


SIZES = {"small": Size(32, 2), "medium": Size(64, 2), "large": Size(128, 4)}


@dataclass(frozen=True)
class Plan:
    """What all runs share."""

    tokens: int = 2_000_000
    rows: int = 8  # small: at this size many steps teach more than large ones
    length: int = 64
    rate: float = 2e-3
    warm: int = 30  # steps of linear warm-up


@cache
def blocks(plan: Plan) -> np.ndarray:
    """Returns the training text: token ids, shape (blocks, length)."""
    _, tokenizer = models.load(device="cpu")
    count = plan.tokens // TOKENS_A_TEXT + 10
    texts = list(make_general.documents(count, seed=Recipe.seed))
    ids = np.array(encoding.to_blocks(texts, tokenizer, length=plan.length))
    wanted = plan.tokens // plan.length
    if len(ids) < wanted:
        raise RuntimeError(f"{count} texts fill {len(ids)} blocks, not {wanted}")
    return ids[:wanted]


@cache
def held_out() -> list[str]:
    """Returns the texts that the loss is measured on."""
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[:TEXTS]
    return [json.loads(line)["text"] for line in lines]


def new_model(size: Size, tokenizer, seed: int):
    """Returns an untrained LLaMA with tied embeddings."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=size.width,
            intermediate_size=4 * size.width,
            num_hidden_layers=size.layers,
            num_attention_heads=size.width // 32,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def measured(steps: int) -> list[int]:
    """Returns the steps after which the loss is measured: each twice the last one."""
    return sorted({max(1, steps >> back) for back in range(DOUBLINGS + 1)})


def run(size: Size, seed: int, plan: Plan) -> dict:
    """Trains one model and returns its held-out loss at several numbers of tokens."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, tokenizer = models.load(device="cpu")
    model = new_model(size, tokenizer, seed).to(device)
    # seeds differ in the weights they begin with and in the order of the text
    order = np.random.default_rng(seed).permutation(blocks(plan))
    rows = [order[i : i + plan.rows] for i in range(0, len(order), plan.rows)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=0.01)
    points, begun = [], time.perf_counter()
    for step, batch in enumerate(rows, start=1):
        ids = torch.from_numpy(batch).to(device)
        model.train()
        model(input_ids=ids, labels=ids).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.param_groups[0]["lr"] = plan.rate * min(1.0, step / plan.warm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step in measured(len(rows)):
            loss = generation.sequence_loss(model, tokenizer, held_out(), batch_size=64)
            tokens = step * plan.rows * plan.length
            points.append((min(tokens, order.size), loss["nats"] / loss["tokens"]))
    return {
        "parameters": models.count_parameters(model)["total"],
        "points": points,
        "seconds": time.perf_counter() - begun,
    }


# --- the formula ----------------------------------------------------------------------


def predicted(
    fitted: dict, parameters: float | np.ndarray, tokens: float | np.ndarray
) -> float | np.ndarray:
    """Returns the loss that the fit expects: floor + A / N**alpha + B / D**beta."""
    return (
        fitted["floor"]
        + fitted["A"] * np.power(parameters, -fitted["alpha"])
        + fitted["B"] * np.power(tokens, -fitted["beta"])
    )


def fit(points: Sequence[tuple[float, float, float]]) -> dict[str, float]:
    """Fits the loss to (parameters, tokens, loss) by least squares in log loss.

    Source: Hoffmann et al. 2022, arXiv 2203.15556, section 3.3, equation 2.
    """
    from scipy.optimize import least_squares

    sizes, tokens, losses = np.array(points, dtype=float).T

    def unpacked(x: np.ndarray) -> dict:
        # A and B are found as logarithms: they differ by powers of ten
        floor, a, alpha, b, beta = x
        named = {"floor": floor, "A": np.exp(a), "alpha": alpha}
        return named | {"B": np.exp(b), "beta": beta}

    def off(x: np.ndarray) -> np.ndarray:
        return np.log(predicted(unpacked(x), sizes, tokens)) - np.log(losses)

    lowest = ([0, -10, 0.01, -10, 0.01], [losses.min(), 25, 2, 25, 2])
    starts = [
        [losses.min() * share, a * 10, a, b * 10, b]
        for share in (0.1, 0.5, 0.9)
        for a in (0.2, 0.6)
        for b in (0.2, 0.6)
    ]
    found = min(
        (least_squares(off, start, bounds=lowest) for start in starts),
        key=lambda result: result.cost,
    )
    return {name: float(value) for name, value in unpacked(found.x).items()}


def explained(fitted: dict, points: Sequence[tuple[float, float, float]]) -> float:
    """Returns R²: the share of the loss's variance that a fit explains."""
    sizes, tokens, losses = np.array(points, dtype=float).T
    off = losses - predicted(fitted, sizes, tokens)
    return float(1 - (off**2).sum() / ((losses - losses.mean()) ** 2).sum())


def limits(points: Sequence[tuple[float, float, float]]) -> list[dict]:
    """Returns how far the formula is off where it was not fitted.

    Once it sees no run to its end and must tell the losses at twice the tokens; once
    it sees only the smaller models and must tell the largest one's last loss.
    """
    most = max(tokens for _, tokens, _ in points)
    largest = max(size for size, _, _ in points)
    parts = {
        "twice the tokens": [point for point in points if point[1] < most],
        "the largest model": [point for point in points if point[0] < largest],
    }
    last = {size: loss for size, tokens, loss in points if tokens == most}
    found = []
    for what, seen in parts.items():
        told = float(predicted(fit(seen), largest, most))
        found.append({"asked": what, "told": told, "was": float(last[largest])})
    return found


def row(name: str, parameters: int, tokens: int, losses: Sequence[float]) -> dict:
    """Returns a record's row: one size at one number of tokens."""
    mean, low, high = statistics.over_seeds(losses)
    return {
        "technique": "pre-training",
        "metric": "held-out loss, nats a token",
        "size": name,
        "parameters": parameters,
        "tokens": tokens,
        "value": round(mean, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "per_seed": [round(loss, 4) for loss in losses],
        "seeds": list(range(len(losses))),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs every size and seed that is not kept yet, and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=Plan.tokens)
    parser.add_argument("--rows", type=int, default=Plan.rows, help="a step's blocks")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="another folder, for a trial")
    options = parser.parse_args(arguments)
    plan = Plan(tokens=options.tokens, rows=options.rows)
    folder = options.out or records.ROOT / "build"
    if options.out:
        records.RESULTS = options.out
    kept = folder / f"scaling-{plan.tokens}-{data_hash()[:8]}.json"
    rows = []
    for name, size in SIZES.items():
        found = []
        for seed in range(options.seeds):
            key = f"{name} {seed} {asdict(plan)}"
            work = lambda s=size, n=seed: run(s, n, plan)  # noqa: E731
            found.append(tuning.resumed(kept, key, work))
            loss, seconds = found[-1]["points"][-1][1], found[-1]["seconds"]
            told = f"{name}, seed {seed}: loss {loss:.3f}, {seconds:.0f} s"
            print(f"scaling: {told}", flush=True)
        for place, (tokens, _) in enumerate(found[0]["points"]):
            losses = [one["points"][place][1] for one in found]
            rows.append(row(name, found[0]["parameters"], tokens, losses))
    warmed = plan.warm * plan.rows * plan.length  # tokens: no law holds before
    points = [
        (r["parameters"], r["tokens"], r["value"]) for r in rows if r["tokens"] > warmed
    ]
    fitted = fit(points)
    command = "python benchmarks/scaling.py"
    for name in ("tokens", "rows"):
        if getattr(plan, name) != getattr(Plan, name):
            command += f" --{name} {getattr(plan, name)}"
    records.write(
        "scaling",
        rows,
        command=command,
        fit=fitted | {"explained": explained(fitted, points)},
        limits=limits(points),
        plan=asdict(plan),
        shapes={name: asdict(size) for name, size in SIZES.items()},
        held_out_texts=TEXTS,
        data_sha256=data_hash(),
    )


def data_hash() -> str:
    """Returns one hash of what decides the text: its makers and the tokenizer."""
    folder = records.ROOT / "datasets"
    makers = [folder / name for name in ("make_general.py", "world.py", "phrases.py")]
    lexicons = sorted((folder / "lexicon").glob("*.json*"))
    words = models.SHIPPED / "tokenizer.json"
    return records.file_hash(*makers, *lexicons, HELD_OUT, words)


if __name__ == "__main__":
    main()
