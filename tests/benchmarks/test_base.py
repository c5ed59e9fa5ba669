"""`make base` in miniature: killed and taken up again, it draws the identical curve."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "base.py"


def start(work: Path, out: Path) -> subprocess.Popen:
    call = [sys.executable, str(SCRIPT), "--tiny", "--threads", "1"]
    call += ["--work", str(work), "--out", str(out)]
    return subprocess.Popen(
        call,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def log_of(work: Path) -> list[dict]:
    import torch

    return torch.load(work / "state.pt", weights_only=True)["log"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, Path]:
    """One run that nothing stops: its work and its output."""
    work, out = (tmp_path_factory.mktemp(name) for name in ("work", "out"))
    run = start(work, out)
    said, _ = run.communicate(timeout=300)
    assert run.returncode == 0, said
    return work, out


def test_killed_and_resumed_it_draws_the_identical_curve(whole, tmp_path) -> None:
    work = tmp_path / "work"
    run = start(work, tmp_path / "out")
    for line in run.stdout:  # kill it in the last stage, after a checkpoint
        if line.startswith("practice    40"):
            break
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    run.stdout.close()
    seen = log_of(work)
    assert 0 < len(seen) < len(log_of(whole[0]))
    again = start(work, tmp_path / "out")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "copy    20" not in said  # it did not start anew
    assert log_of(work) == log_of(whole[0])
    ours, theirs = (
        (folder / "model.safetensors").read_bytes()
        for folder in (tmp_path / "out", whole[1])
    )
    assert ours == theirs


def test_it_learns_and_probes_while_it_trains(whole) -> None:
    log = log_of(whole[0])
    stages = list(dict.fromkeys(line["stage"] for line in log))
    assert stages == ["copy", "bind", "drill", "read", "practice", "refine"]
    reading = [line for line in log if line["stage"] == "read"]
    assert reading[-1]["loss"] < reading[0]["loss"] - 0.2
    assert {"where", "situations_unseen", "tone"} <= set(reading[-1]["probes"])
    for stage in ("practice", "refine"):
        lines = [line for line in log if line["stage"] == stage]
        assert lines[-1]["loss"] < lines[0]["loss"]
        assert "meant_unseen" in lines[-1]["probes"]
    binding = next(line for line in log if line["stage"] == "bind")
    assert set(binding["probes"]) == {"copy", "bind", "backwards"}


def test_growing_changes_nothing_at_first() -> None:
    import torch

    sys.path.insert(0, str(ROOT / "benchmarks"))
    import base

    small = base.first_model(base.TINY)
    for layer in small.model.layers:
        torch.nn.init.normal_(layer.mlp.down_proj.weight, std=0.02)
    ids = torch.arange(7, 47)[None]
    grown = base.grow(small, base.TINY)
    assert len(grown.model.layers) == base.TINY.layers > 2
    assert grown.config.intermediate_size > small.config.intermediate_size
    assert torch.allclose(small(ids).logits, grown(ids).logits, atol=1e-5)


def test_exercises_are_what_they_say() -> None:
    import numpy as np

    sys.path.insert(0, str(ROOT / "benchmarks"))
    import base

    made = base.Exercises(stop=9, fillers=np.array([10, 11]), pool=np.arange(20, 200))
    rng = np.random.default_rng(1)
    words = made.draw(rng, 60)
    assert len(set(words)) == 60
    assert set(words) <= set(made.pool)

    copied = made.copied(rng, 200, words)
    assert any((copied[n:] == copied[:-n]).all() for n in range(6, 31))

    bound = made.bound(rng, 200, words)
    sentences = [[int(t) for t in part] for part in split(bound, 9)[:-1]]
    assert all(set(inside) <= {10, 11} for _, *inside, _ in sentences)
    partners: dict[int, list[int]] = {}
    for one, *_, two in sentences[:9]:
        partners.setdefault(one, []).append(two)
    assert max(map(len, partners.values())) > 1  # told again
    assert all(len(set(found)) == 1 for found in partners.values())

    turned = [
        [t for t in part if t > 19] for part in split(made.turned(rng, 200, words), 9)
    ]
    assert len(turned) > 3
    for told, again in zip(turned[:-2:2], turned[1:-1:2], strict=True):
        assert again == told[::-1]


def split(row, stop: int) -> list[list[int]]:
    """The parts of a row between its stops."""
    parts: list[list[int]] = [[]]
    for token in row.tolist():
        if token == stop:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def test_what_it_writes_is_a_model_that_loads_and_a_card(whole) -> None:
    from helpers import encoding, models

    model, tokenizer = models.load(whole[1])
    messages = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yo"},
    ]
    encoded = encoding.encode([{"messages": messages}], tokenizer)
    learnt = [label for label in encoded.labels[0] if label != -100]
    assert learnt[-1] == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.decode(tokenizer("in the kitchen\n\nyes")["input_ids"][1:]) == (
        "in the kitchen\n\nyes"
    )
    card = (whole[1] / "README.md").read_text(encoding="utf-8")
    assert f"{sum(p.numel() for p in model.parameters()):,} parameters" in card


def test_another_recipe_in_the_same_folder_is_refused(whole) -> None:
    call = [sys.executable, str(SCRIPT), "--work", str(whole[0])]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "another recipe" in done.stderr


def test_the_shipped_base_is_the_recorded_one() -> None:
    import hashlib

    record = json.loads((ROOT / "benchmarks/results/base.json").read_text("utf-8"))
    weights = (ROOT / "helpers/tiny_llama/model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == record["model_sha256"]
    assert len(weights) <= 12e6
    stored = weights[8 + int.from_bytes(weights[:8], "little") :]
    assert len(stored) == 4 * record["parameters"]  # float32
    assert 1_500_000 <= record["parameters"] <= 6_000_000
