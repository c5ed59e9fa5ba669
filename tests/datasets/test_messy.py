"""The messy file: what the list says is planted, and the doctor finds it, all of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import build
import make_messy
import pytest

from helpers import checks, formats, models
from helpers.checks import folder, probe, source

MESSY = Path(build.__file__).parent / "messy"


@pytest.fixture(scope="module")
def planted() -> list[dict]:
    lines = (MESSY / "planted.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def case() -> checks.Case:
    case = checks.Case(
        source=source.read(MESSY / "rows.jsonl"),
        test=source.read(MESSY / "test.jsonl"),
        folder=folder.load(Path(models.SHIPPED)),
    )
    case.probe = probe.build(case.source, case.folder, max_length=1024)
    return case


def rows_of(rule: str, case: checks.Case) -> set[int]:
    """The rows of the messy file at which a rule points."""
    one = checks.RULES[rule]
    found = one.find(*(getattr(case, need) for need in one.needs))
    if rule != "leakage":
        return {place.row for place in found}
    told = (re.search(r"is row (\d+)", place.excerpt) for place in found)
    return {int(match[1]) for match in told}


def test_each_kind_is_planted_as_often_as_it_says(planted: list[dict]) -> None:
    counts = Counter((row["mistake"], row["rule"]) for row in planted)
    wanted = {(k, rule): count for k, (rule, count) in make_messy.KINDS.items()}
    assert dict(counts) == wanted
    assert sum(1 for rule, _ in make_messy.KINDS.values() if rule) == 15
    lines = (MESSY / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == make_messy.ROWS


@pytest.mark.parametrize(
    "rule", sorted({rule for rule, _ in make_messy.KINDS.values() if rule})
)
def test_the_doctor_finds_what_was_planted_and_no_more(
    planted: list[dict], case: checks.Case, rule: str
) -> None:
    wanted = {row["row"] for row in planted if row["rule"] == rule}
    assert rows_of(rule, case) == wanted


def test_no_rule_points_at_a_sound_row_or_a_cut_answer(
    planted: list[dict], case: checks.Case
) -> None:
    spoilt = {row["row"] for row in planted if row["rule"]}
    for rule in checks.RULES.values():
        if rule.severity == "note":
            continue
        if all(getattr(case, need) is not None for need in rule.needs):
            assert rows_of(rule.id, case) - {0} <= spoilt, rule.id


def test_the_sound_rows_pass(planted: list[dict]) -> None:
    spoilt = {row["row"] for row in planted}
    found = formats.records(MESSY / "rows.jsonl")
    sound = [record.value for record in found if record.row not in spoilt]
    assert len(sound) == make_messy.ROWS - len(planted)
    report = checks.check_rows(sound)
    assert report.sound
    assert checks.check(MESSY / "test.jsonl", model=models.SHIPPED).sound


def test_a_cut_answer_is_the_beginning_of_the_right_one(
    planted: list[dict], instructions: dict[str, list[dict]]
) -> None:
    lines = (MESSY / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    whole = {row["output"] for row in instructions["train"]}
    cut = [row["row"] for row in planted if row["mistake"] == "cut answer"]
    for number in cut:
        said = json.loads(lines[number - 1])["messages"][1]["content"]
        assert any(text.startswith(said) and text != said for text in whole)
