"""The speed records: ratios round by round, losses side by side, equal outputs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import speed  # noqa: E402


def run(seconds: float, **more: object) -> dict:
    return {"seconds": seconds, "units": 100, "peak_megabytes": 10.0} | more


def test_ratios_are_taken_round_by_round_not_of_the_medians() -> None:
    """A machine that is slow for one round is slow for both sides of it."""
    sides = {
        "training_ours": [run(s, loss=0.1) for s in (1.0, 10.0, 2.0)],
        "training_peer": [run(s, loss=0.1) for s in (2.0, 20.0, 5.0)],
        "training_bare": [run(s, loss=0.1) for s in (1.0, 9.0, 2.0)],
    }
    ours, peer, bare = speed.summary("training", sides)
    assert (peer["times_ours_low"], peer["times_ours_high"]) == (2.0, 2.5)
    assert peer["times_ours"] == 2.0
    assert bare["times_ours_low"] == 0.9
    assert ours["times_ours_low"] == ours["times_ours_high"] == 1.0
    assert ours["value"] == 50.0  # the median of 100, 10 and 50


def test_losses_are_compared_within_a_round() -> None:
    """Rounds differ in their order of rows; what a side adds is the paired mean."""
    row = speed.losses(
        [run(1, loss=loss) for loss in (0.10, 0.20, 0.30)],
        [run(1, loss=loss) for loss in (0.11, 0.22, 0.33)],
    )
    assert row["loss"] == pytest.approx(0.22)
    assert row["loss_above"] == pytest.approx(0.02)
    # t of 2 degrees of freedom is 4.303, the standard error 0.01 / sqrt(3)
    assert row["loss_above_low"] == pytest.approx(
        0.02 - 4.303 * 0.01 / 3**0.5, abs=1e-5
    )


def test_sides_take_turns_and_must_agree(monkeypatch) -> None:
    calls = []

    def fresh(side, number: int) -> dict:
        calls.append((side.__name__, number))
        return run(1.0, same="a" if "calls" not in side.__name__ else "b")

    monkeypatch.setattr(speed, "fresh", fresh)
    monkeypatch.setitem(speed.ROUNDS, "encoding", 2)
    with pytest.raises(SystemExit, match="encoding: the sides do not give the same"):
        speed.measure("encoding")
    names = [name for name, _ in calls]
    assert (
        names[:3] == names[:2:-1]
        and [number for _, number in calls] == [0] * 3 + [1] * 3
    )
