"""The QLoRA benchmark: a killed run goes on to the same losses, and a whole record."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import qlora  # noqa: E402
import tuning  # noqa: E402

SETTINGS = {
    "rate": 5e-3,
    "per_device_train_batch_size": 8,
    "save_strategy": "steps",
    "save_steps": 2,
    "logging_steps": 1,
    "resume": True,
}
STEPS, KILLED_AFTER = 8, 5
KILLED = f"""
import os, signal, sys, torch
sys.path[:0] = ["benchmarks", "."]
import qlora, tuning
from transformers import TrainerCallback

class Killer(TrainerCallback):
    def on_step_end(self, args, state, control, **_):
        if state.global_step == {KILLED_AFTER}:
            os.kill(os.getpid(), signal.SIGKILL)

torch.set_num_threads(int(sys.argv[2]))
more = dict(output_dir=sys.argv[1], callbacks=[Killer()])
rows = tuning.read("train")[:64]
qlora.train(qlora.Variant(True), rows, 0, **more, **{SETTINGS!r})
print("not killed")
"""


def curve(folder: Path) -> list[tuple[int, float]]:
    """Trains, or goes on where a run in this folder stopped; step and loss."""
    _, _, trainer = qlora.train(
        qlora.Variant(True),
        tuning.read("train")[:64],
        0,
        output_dir=str(folder),
        **SETTINGS,
    )
    logs = trainer.state.log_history
    return [(log["step"], log["loss"]) for log in logs if "loss" in log]


@pytest.mark.filterwarnings("ignore")  # TRL's, PEFT's and bitsandbytes' own
def test_a_killed_run_in_four_bits_goes_on_to_the_same_losses(tmp_path: Path) -> None:
    import torch

    threads = str(torch.get_num_threads())
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "killed"), threads],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert "not killed" not in killed.stdout
    saved = sorted(path.name for path in (tmp_path / "killed").glob("checkpoint-*"))
    assert saved == ["checkpoint-2", "checkpoint-4"]
    whole, resumed = curve(tmp_path / "whole"), curve(tmp_path / "killed")
    assert [step for step, _ in whole] == list(range(1, STEPS + 1))
    assert resumed == whole
    assert whole[-1][1] < whole[0][1] - 0.3


def made_up(base: float) -> list[dict]:
    """Runs of five seeds."""
    return [
        {"new_rows": base + seed / 100, "new_wordings": base}
        | {"trainable": 10, "weight_bytes": 120, "seconds": 1.0}
        | {"moved": {"new_rows": base - 0.1, "new_wordings": base}}
        for seed in range(5)
    ]


def test_the_record_pairs_seeds_and_names_every_variant() -> None:
    runs = {variant.name: made_up(0.5) for variant in qlora.VARIANTS}
    runs[qlora.VARIANTS[1].name] = made_up(0.45)
    rows = qlora.rows_of(runs, rows=3000, seeds=range(5))
    assert len(runs) == len(qlora.VARIANTS)
    found = {(row["technique"], row["split"]): row for row in rows}
    for variant in qlora.VARIANTS:
        row = found[variant.name, "new_rows"]
        assert row["rows"] == 3000
        # 40 bytes of adapter, 80 of base; what was rounded to 16 bits is kept in half
        assert row["weight_bytes"] == (120 if variant.four_bits else 80)
    pair = found["QLoRA less LoRA", "new_rows"]
    assert pair["value"] == pytest.approx(-0.05)
    assert pair["low"] == pytest.approx(pair["high"])
    assert found[qlora.MOVED, "new_rows"]["value"] == pytest.approx(0.35)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_both_kinds_of_base_get_the_same_adapter_and_stay_frozen() -> None:
    import torch

    first = {}
    for variant in qlora.VARIANTS[:2]:
        model = qlora.with_adapter(qlora.base(variant.four_bits)[0], variant, 3)
        first[variant.name] = {
            name: weight.detach().clone()
            for name, weight in model.named_parameters()
            if weight.requires_grad
        }
        assert all("lora_" in name for name in first[variant.name])
    lora, four = first.values()
    assert lora.keys() == four.keys()
    assert all(torch.equal(lora[name], four[name]) for name in lora)


def test_the_rate_is_chosen_on_rows_that_no_trial_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, asked = [], []

    def tune(rows, rate):
        trained.append([row["output"] for row in rows])
        return rate, None

    def ask(rate, tokenizer, rows):
        asked.append([row["output"] for row in rows])
        return rate

    train = [{"output": str(number)} for number in range(300)]
    dev = tuning.dev()
    monkeypatch.setattr(tuning, "read", lambda split: train)
    monkeypatch.setattr(tuning, "ask", ask)
    monkeypatch.setattr(tuning, "right", lambda rate, rows: [rate == 0.2] * len(rows))
    path = tmp_path / "kept.json"
    best, tried = tuning.chosen_rate(path, (0.1, 0.2), tune, rows=100, name="a")
    assert (best, tried) == (0.2, {"0.1": 0.0, "0.2": 1.0})
    assert len(trained[0]) == 100 and len(asked[0]) == len(dev) == tuning.DEV_ROWS
    assert trained[0] == trained[1] and asked[0] == asked[1]
    again = tuning.chosen_rate(path, (0.1, 0.2), tune, rows=100, name="a")
    assert again == (best, tried) and len(trained) == 2, "a kept trial was run again"


def test_the_rows_to_choose_on_are_no_one_elses() -> None:
    every = ("train", "new_rows", "new_wordings", "new_combinations", "held_out")
    texts = {row["input"] for split in every for row in tuning.read(split)}
    own = tuning.dev()
    assert len(own) == tuning.DEV_ROWS and len({row["task"] for row in own}) == 28
    assert not texts & {row["input"] for row in own if row["task"] != "kind_of"}
