"""The tone rows: balanced, with the right labels, and no shortcut to them."""

from __future__ import annotations

import re
from collections import Counter

import card_figures
import oracle
import pytest

LABELS = {"irony", "sarcasm", "literal"}
SIZES = {"train": 6000, "dev": 600, "test": 1200, "unseen": 600, "written": 300}
GRAMMAR = ("train", "dev", "test", "unseen")
TESTED = ("dev", "test", "unseen")
Splits = dict[str, list[dict]]


def test_sizes_fields_and_labels(irony: Splits) -> None:
    assert {split: len(found) for split, found in irony.items()} == SIZES
    for split, found in irony.items():
        assert all(list(row) == ["text", "label"] for row in found), split
        assert all(row["text"] == row["text"].strip() != "" for row in found), split
        counts = Counter(row["label"] for row in found)
        assert counts == dict.fromkeys(LABELS, SIZES[split] // 3), split


@pytest.mark.parametrize("split", GRAMMAR)
def test_labels_follow_from_the_lexicon(irony: Splits, split: str) -> None:
    wrong = [row for row in irony[split] if oracle.tone(row["text"]) != row["label"]]
    assert wrong == []


@pytest.mark.parametrize("split", GRAMMAR)
def test_mood_polarity_and_aim_are_balanced_within_labels(
    irony: Splits, split: str
) -> None:
    count = Counter(
        (row["label"], *oracle.read_tone(row["text"])) for row in irony[split]
    )
    each = SIZES[split] // 3
    for label in LABELS:
        of = {key[1:]: n for key, n in count.items() if key[0] == label}
        for place, value in ((0, "good"), (1, "kind")):
            part = sum(n for key, n in of.items() if key[place] == value)
            assert 0.42 <= part / each <= 0.58, (label, value)
        aimed = sum(n for key, n in of.items() if key[2] == "person") / each
        wanted = {"irony": 0.0, "sarcasm": 1.0, "literal": 0.5}[label]
        assert abs(aimed - wanted) <= (0.08 if label == "literal" else 0), label
        # Every cell that a label can have is there, in about equal number.
        cells = 4 if label == "literal" else 2
        assert len(of) == cells
        assert min(of.values()) >= 0.75 * each / cells, label


@pytest.mark.parametrize("split", TESTED)
@pytest.mark.parametrize(
    ("told", "most"),
    [
        ("most frequent label", 0.34),
        ("mood of the situation", 0.40),
        ("polarity of the remark", 0.40),
        ("aim of the remark", 0.70),
        ("mood and aim", 0.70),
        ("polarity and aim", 0.70),
        ("mood and polarity", 0.70),
    ],
)
def test_no_shortcut_gives_the_label(split: str, told: str, most: float) -> None:
    right = card_figures.shortcut(told, split)
    assert sum(right) / len(right) <= most


@pytest.mark.parametrize("split", TESTED)
def test_all_three_together_give_the_label(split: str) -> None:
    assert all(card_figures.shortcut("all three", split))


@pytest.mark.parametrize("split", [*TESTED, "written"])
def test_words_alone_do_not_give_the_label(split: str) -> None:
    # What knows the aim alone has two thirds: words say no more than that.
    right = card_figures.bag_of_words(split)
    assert sum(right) / len(right) <= 0.70


def grams(text: str, size: int) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_written_rows_follow_no_template(irony: Splits, instructions: Splits) -> None:
    written = {gram for row in irony["written"] for gram in grams(row["text"], 6)}
    trained = [row["text"] for row in irony["train"]]
    trained += [f"{r['instruction']} {r['input']}" for r in instructions["train"]]
    assert len(written) > 3000
    for text in trained:
        assert written.isdisjoint(grams(text, 6)), text


def test_written_rows_name_no_label_and_repeat_nothing(irony: Splits) -> None:
    texts = [row["text"] for row in irony["written"]]
    assert len(set(texts)) == 300
    assert not [t for t in texts if re.search(r"\biron(y|ic)|sarcas|literal", t, re.I)]
    openings = Counter(" ".join(text.split()[:3]) for text in texts)
    assert openings.most_common(1)[0][1] <= 6
    assert all(6 <= len(text.split()) <= 60 for text in texts)
