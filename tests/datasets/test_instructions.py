"""The instruction rows: right answers, and test sets that change one thing each."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import make_instructions
import oracle
import pytest
import world

TRAINED_SIZE = 12_000
TESTS = {"new_rows", "new_wordings", "new_combinations", "held_out"}
HELD_CLUSTERS = {"extraction", "order"}
UNKNOWN = ": it cannot be told from the text."
FIELDS = ["instruction", "input", "output", "task", "cluster"]
Splits = dict[str, list[dict]]

# What stands in a slot of a wording, where it is not one word.
SLOT = {"kind": r"(?:animal|food|tool|clothing)", "thing": r"\w+ \w+"}
SLOT |= {"said": ".+", "same": ".+"}


def plain(text: str) -> str:
    """Words alone: without capitals, punctuation and white space."""
    return " ".join(re.findall(r"[\w{}]+", text.casefold()))


def pattern(wording: str) -> re.Pattern[str]:
    """What a wording looks like with its slots filled."""
    parts = re.split(r"{(\w+)}", wording)
    filled = "".join(
        SLOT.get(part.lower(), r"\w+") if index % 2 else re.escape(part)
        for index, part in enumerate(parts)
    )
    return re.compile(filled, re.I)


def tasks_of(found: list[dict]) -> set[str]:
    return {task for row in found for task in row["task"].split("+")}


def test_sizes_fields_tasks_and_clusters(instructions: Splits) -> None:
    assert set(instructions) == TESTS | {"train"}
    for split, found in instructions.items():
        for row in found:
            assert list(row) == FIELDS, split
            assert row["instruction"] == row["instruction"].strip() != ""
            assert row["output"] == row["output"].strip() != ""
    train = instructions["train"]
    assert len(train) >= TRAINED_SIZE
    assert min(len(instructions[split]) for split in TESTS) >= 360
    assert len(tasks_of(train)) >= 24
    assert len({row["cluster"] for row in train} - {"pairs"}) >= 8


def test_tasks_are_balanced(instructions: Splits) -> None:
    singles = [row for row in instructions["train"] if row["cluster"] != "pairs"]
    counts = Counter(row["task"] for row in singles)
    assert max(counts.values()) <= 1.25 * min(counts.values())
    for split in TESTS - {"new_combinations"}:
        counts = Counter(row["task"] for row in instructions[split])
        assert max(counts.values()) - min(counts.values()) <= 1, split
    counts = Counter(row["task"] for row in instructions["new_combinations"])
    assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    ("task", "answers"),
    [
        ("mood", {"good news.", "bad news."}),
        ("remark", {"kind.", "harsh."}),
        ("kind_of", {"animal.", "food.", "tool.", "clothing."}),
    ],
)
def test_closed_answers_are_balanced(
    instructions: Splits, task: str, answers: set[str]
) -> None:
    rows = [row for row in instructions["train"] if row["task"] == task]
    found = [row["output"].split(" is ")[-1].split(" are ")[-1] for row in rows]
    counts = Counter(found)
    assert set(counts) == answers
    for answer, count in counts.items():
        assert 0.75 <= count * len(answers) / len(found) <= 1.25, answer


def test_no_is_twice_as_frequent_as_yes(instructions: Splits) -> None:
    # The card says so; unequal numbers are, in the world.
    rows = [row for row in instructions["train"] if row["task"] == "same"]
    counts = Counter(row["output"].split(": ")[1].rstrip(".") for row in rows)
    assert set(counts) == {"yes", "no"}
    assert 1.6 <= counts["no"] / counts["yes"] <= 2.4


def test_some_answers_have_more_than_one_sentence(instructions: Splits) -> None:
    long = {r["task"] for r in instructions["train"] if r["output"].count(". ") > 0}
    assert {"all_about", "feels", "replace_name", "replace_colour", "twice"} <= long


@pytest.mark.parametrize("split", sorted(TESTS | {"train"}))
def test_every_answer_is_recomputed(instructions: Splits, split: str) -> None:
    wrong = [
        (row, found)
        for row in instructions[split]
        if (found := oracle.answer(row)) != row["output"]
    ]
    assert wrong == []


@pytest.mark.parametrize("task", sorted(oracle.RULES))
def test_the_oracle_refuses_wrong_answers(instructions: Splits, task: str) -> None:
    """A row with the text of another: the oracle must not say what the row says."""
    split = "train" if task in make_instructions.TRAINED else "held_out"
    found = [row for row in instructions[split] if row["task"] == task][:40]
    field = "input" if found[0]["input"] else "instruction"
    noticed = changed = 0
    for row, other in zip(found, found[1:], strict=False):
        if other["output"] == row["output"]:
            continue
        changed += 1
        try:
            noticed += oracle.answer(row | {field: other[field]}) != row["output"]
        except (ValueError, AssertionError):
            noticed += 1
    assert changed >= 10
    assert noticed >= 0.6 * changed


def test_the_oracle_knows_no_builder() -> None:
    source = Path(oracle.__file__).read_text(encoding="utf-8")
    imports = set(re.findall(r"^\s*(?:from|import) (\w+)", source, re.M))
    assert imports.isdisjoint({"world", "build", "card_figures"})
    assert not [name for name in imports if name.startswith("make_")]
    assert "wordings" not in source.split('"""')[2]


def test_a_twentieth_cannot_be_told(instructions: Splits) -> None:
    open_ended = [row["output"].endswith(UNKNOWN) for row in instructions["train"]]
    assert 0.045 <= sum(open_ended) / len(open_ended) <= 0.055
    told = [row for row in instructions["train"] if "cannot be told" in row["output"]]
    assert all(row["output"].endswith(UNKNOWN) for row in told)
    assert len({row["task"] for row in told}) >= 6


# --- wordings -------------------------------------------------------------------------


@pytest.mark.parametrize("task", make_instructions.TRAINED)
def test_trained_tasks_have_enough_wordings(task: str) -> None:
    wordings = world.WORDINGS[task]
    assert len({plain(wording) for wording in wordings["train"]}) >= 8
    assert len({plain(wording) for wording in wordings["held"]}) >= 3


@pytest.mark.parametrize("task", make_instructions.HELD)
def test_held_out_tasks_have_no_training_wording(task: str) -> None:
    assert world.WORDINGS[task]["train"] == []
    assert len({plain(wording) for wording in world.WORDINGS[task]["held"]}) >= 3


def test_no_wording_is_used_twice() -> None:
    """Neither for two tasks nor in two roles: training, held out, or in prose."""
    uses = Counter(
        plain(wording)
        for told in world.WORDINGS.values()
        for role in ("train", "held", "ask")
        for wording in told[role]
    )
    assert {wording: count for wording, count in uses.items() if count > 1} == {}


def test_no_held_out_wording_is_part_of_one_that_is_read() -> None:
    read = [
        f" {plain(wording)} "
        for told in world.WORDINGS.values()
        for role in ("train", "ask")
        for wording in told[role]
    ]
    for told in world.WORDINGS.values():
        for held in told["held"]:
            assert not [text for text in read if f" {plain(held)} " in text], held


def matches(row: dict, role: str, *, whole: bool) -> bool:
    find = re.fullmatch if whole else re.search
    return any(
        find(pattern(wording), row["instruction"])
        for task in row["task"].split("+")
        for wording in world.WORDINGS[task][role]
    )


def test_rows_use_the_wordings_of_their_split(instructions: Splits) -> None:
    for split in ("train", "new_rows", "new_combinations"):
        for row in instructions[split]:
            whole = row["cluster"] != "pairs"
            assert matches(row, "train", whole=whole), row
    for split in ("new_wordings", "held_out"):
        for row in instructions[split]:
            assert matches(row, "held", whole=True), row
            assert not matches(row, "train", whole=True), row


def test_no_training_row_uses_a_held_out_wording(instructions: Splits) -> None:
    for row in instructions["train"]:
        if row["cluster"] != "pairs":
            assert not matches(row, "held", whole=True), row


# --- pairs and clusters ---------------------------------------------------------------


def test_two_clusters_are_never_trained(instructions: Splits) -> None:
    held = instructions["held_out"]
    assert {row["cluster"] for row in held} == HELD_CLUSTERS
    for split in set(instructions) - {"held_out"}:
        found = instructions[split]
        assert {row["cluster"] for row in found}.isdisjoint(HELD_CLUSTERS), split
        assert tasks_of(found).isdisjoint(tasks_of(held)), split


def test_clusters_are_those_of_the_tasks(instructions: Splits) -> None:
    for found in instructions.values():
        for row in found:
            pair = "+" in row["task"]
            wanted = "pairs" if pair else world.WORDINGS[row["task"]]["cluster"]
            assert row["cluster"] == wanted


def test_new_combinations_are_new_but_their_parts_are_not(
    instructions: Splits,
) -> None:
    trained = {r["task"] for r in instructions["train"] if r["cluster"] == "pairs"}
    tested = {row["task"] for row in instructions["new_combinations"]}
    assert len(tested) >= 16
    assert all(task.count("+") == 1 for task in trained | tested)
    # Neither in this order nor in the other.
    unordered = {frozenset(task.split("+")) for task in trained}
    assert unordered.isdisjoint(frozenset(task.split("+")) for task in tested)
    first = {task.split("+")[0] for task in trained}
    second = {task.split("+")[1] for task in trained}
    for task in tested:
        assert set(task.split("+")) <= first & second, task


def test_pairs_are_answered_by_two_sentences(instructions: Splits) -> None:
    for row in instructions["new_combinations"]:
        assert row["output"].count(".") >= 2, row
        assert row["output"].endswith((".", '"')), row
