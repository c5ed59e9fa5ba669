"""The record of adaptive tuning, in miniature: every arm, resumed, with its facts."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import adaptive  # noqa: E402
import records  # noqa: E402

SMALL = {
    "TOKENS": 2500,
    "SHARES": (0.25,),
    "SEEDS": range(2),
    "LABELLED": (16,),
    "TAG_STEPS": 1,
    "HELD_OUT": 2,
    "TESTED": 20,
    "PEAK_SIZE": 128,
}


@pytest.fixture(scope="module")
def record(tmp_path_factory) -> dict:
    """The record of a run so small that it learns next to nothing, made twice."""
    folder = tmp_path_factory.mktemp("adaptive")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SMALL.items():
            patch.setattr(adaptive, name, value)
        patch.setattr(records, "RESULTS", folder)
        patch.setattr(adaptive, "kept_at", lambda facts: folder / "kept.json")
        adaptive.text_of.cache_clear()
        adaptive.main()
        first = json.loads((folder / "adaptive.json").read_text("utf-8"))
        patch.setattr(adaptive, "run", lambda *arm: pytest.fail("it was done before"))
        adaptive.main()
        adaptive.text_of.cache_clear()
        again = json.loads((folder / "adaptive.json").read_text("utf-8"))
    assert again["rows"][:-1] == first["rows"][:-1]  # the last one is a time
    return first


def value(record: dict, **facts) -> float:
    (row,) = [
        row for row in record["rows"] if facts.items() <= {**row, "seeds": 0}.items()
    ]
    return row["value"]


def test_every_arm_is_measured_on_every_text_and_on_the_task(record) -> None:
    arms = {"base", "comics + 25% replay", "recipes + 25% replay"}
    told = {(row["technique"], row.get("split")) for row in record["rows"]}
    for arm in arms:
        for domain in adaptive.DOMAINS:
            assert (arm, f"{domain}/heldout") in told
        assert (arm, "entities/test") in told
    assert ("names looked up", "entities/test") in told


def test_even_little_reading_helps_its_own_domain_most(record) -> None:
    for domain in ("comics", "recipes"):
        found = {
            arm: value(
                record,
                technique=arm,
                split=f"{domain}/heldout",
                metric="bits per byte",
            )
            for arm in ("base", "comics + 25% replay", "recipes + 25% replay")
        }
        best = min(found, key=found.get)
        assert best.startswith(domain)
        assert found["base"] > found[best] + 0.3


def test_it_says_how_near_it_comes_to_the_matrix_peak(record) -> None:
    row = record["rows"][-1]
    assert row["metric"] == "share of the matrix peak"
    assert 0 < row["value"] < 1
    assert row["tokens_per_second"] > 0


def test_a_domain_too_short_for_its_share_is_refused(monkeypatch) -> None:
    from helpers.formats import DataError

    monkeypatch.setattr(adaptive, "TOKENS", 3000)
    one = adaptive.encoding.encode([{"text": "One line."}], adaptive.models.load()[1])
    monkeypatch.setattr(adaptive, "text_of", lambda domain: one)
    with pytest.raises(DataError, match="Text 1 is 1 rows"):
        adaptive.read_on("comics", 0.0, 0)
