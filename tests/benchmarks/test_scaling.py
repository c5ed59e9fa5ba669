"""The scaling record: its fit, its limits, and a run taken up where it stopped."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import records  # noqa: E402
import scaling  # noqa: E402

LAW = {"floor": 1.2, "A": 60.0, "alpha": 0.4, "B": 900.0, "beta": 0.5}
SIZES = (1e5, 2.6e5, 1.3e6)
TOKENS = [2e6 / 2**back for back in range(7)]


def made() -> list[tuple[float, float, float]]:
    return [(n, d, scaling.predicted(LAW, n, d)) for n, d in product(SIZES, TOKENS)]


def test_the_fit_finds_the_law_that_made_the_points() -> None:
    points = made()
    found = scaling.fit(points)
    for name in ("alpha", "beta", "floor"):
        assert found[name] == pytest.approx(LAW[name], rel=0.05), name
    assert scaling.explained(found, points) > 0.999


def test_limits_ask_for_what_the_fit_has_not_seen() -> None:
    points = made()
    asked = {found["asked"]: found for found in scaling.limits(points)}
    assert set(asked) == {"twice the tokens", "the largest model"}
    for found in asked.values():
        assert found["was"] == scaling.predicted(LAW, SIZES[-1], 2e6)
    assert asked["twice the tokens"]["told"] == pytest.approx(
        asked["twice the tokens"]["was"], rel=0.02
    )
    # a kink beyond the seen sizes is what no fit can know
    kinked = [(n, d, loss + (n == SIZES[-1])) for n, d, loss in points]
    worse = {found["asked"]: found for found in scaling.limits(kinked)}
    gap = worse["the largest model"]["was"] - worse["the largest model"]["told"]
    assert gap > 0.8


@pytest.mark.parametrize(("steps", "found"), [(976, 7), (64, 7), (3, 2), (1, 1)])
def test_the_loss_is_measured_at_doublings_and_at_the_end(steps, found) -> None:
    marks = scaling.measured(steps)
    assert len(marks) == found
    assert marks[-1] == steps
    assert all(1.9 < b / a < 3.1 for a, b in zip(marks, marks[1:], strict=False))


def test_a_killed_record_goes_on_with_the_run_that_is_missing(
    tmp_path, monkeypatch
) -> None:
    done: list[tuple[int, int]] = []
    stop_at = 3

    def pretended(size, seed, plan):
        if len(done) == stop_at:
            raise KeyboardInterrupt
        done.append((size.width, seed))
        points = [
            (tokens, 3 + 100 / size.width + seed / 100 + 10 / tokens**0.5)
            for tokens in (25_000, 50_000, 100_000)
        ]
        return {"parameters": 1000 * size.width, "points": points, "seconds": 1}

    monkeypatch.setattr(scaling, "run", pretended)
    monkeypatch.setattr(records, "RESULTS", tmp_path)
    call = ["--tokens", "100000", "--seeds", "2", "--out", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        scaling.main(call)
    assert not (tmp_path / "scaling.json").exists()
    stop_at = 99
    scaling.main(call)
    wanted = [(size.width, n) for size in scaling.SIZES.values() for n in range(2)]
    assert done == wanted  # none of them twice
    record = json.loads((tmp_path / "scaling.json").read_text())
    assert record["command"] == "python benchmarks/scaling.py --tokens 100000"
    assert {row["size"] for row in record["rows"]} == set(scaling.SIZES)


def test_a_run_learns_and_repeats(monkeypatch) -> None:
    monkeypatch.setattr(scaling, "TEXTS", 10)
    monkeypatch.setattr(scaling, "held_out", lambda: ["Mira has a red ball."] * 10)
    plan = scaling.Plan(tokens=8192, rows=8, warm=2)
    one, same, other = (
        scaling.run(scaling.Size(32, 1), seed, plan)["points"] for seed in (0, 0, 1)
    )
    assert one == same != other
    losses = [loss for _, loss in one]
    assert losses[-1] < losses[0] - 0.2
    assert [tokens for tokens, _ in one] == [512, 1024, 2048, 4096, 8192]
