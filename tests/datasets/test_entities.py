"""The tagged rows: valid tags, the right ones, and names known, read and new."""

from __future__ import annotations

from collections import Counter

import card_figures
import make_comics
import make_entities
import oracle
import pytest

Splits = dict[str, list[dict]]
SIZES = {"train": 2000, "dev": 300, "test": 600}
TAGS = {"O"} | {f"{p}-{t}" for p in "BI" for t in oracle.ENTITY_TYPES}


def names(row: dict) -> list[tuple[str, str]]:
    """The row's entities as name and type."""
    return [
        (" ".join(row["tokens"][begin:end]), kind)
        for begin, end, kind in sorted(card_figures.spans(row["tags"]))
    ]


def test_sizes_and_fields(entities: Splits) -> None:
    assert {split: len(found) for split, found in entities.items()} == SIZES
    for found in entities.values():
        assert all(list(row) == ["text", "tokens", "tags"] for row in found)
        assert all(len(row["tokens"]) == len(row["tags"]) > 0 for row in found)


def test_tags_are_valid_iob2(entities: Splits) -> None:
    for found in entities.values():
        for row in found:
            assert set(row["tags"]) <= TAGS
            assert set(row["tags"]) != {"O"}
            for before, tag in zip(["O", *row["tags"]], row["tags"], strict=False):
                if tag.startswith("I-"):
                    assert before in (f"B-{tag[2:]}", tag), row


def test_invalid_tags_would_be_seen() -> None:
    tags = ["O", "I-HERO"]
    assert card_figures.spans(tags) == set()
    assert card_figures.spans(["B-HERO", "I-HERO", "B-HERO", "O"]) == {
        (0, 2, "HERO"), (2, 3, "HERO")
    }  # fmt: skip


@pytest.mark.parametrize("split", SIZES)
def test_tags_follow_from_the_text(entities: Splits, split: str) -> None:
    for row in entities[split]:
        assert oracle.entity_tags(row["text"]) == (row["tokens"], row["tags"])


@pytest.mark.parametrize("split", SIZES)
def test_types_are_balanced(entities: Splits, split: str) -> None:
    count = Counter(kind for row in entities[split] for _, kind in names(row))
    assert set(count) == set(make_comics.TYPES)
    for kind, found in count.items():
        assert 0.09 <= found / count.total() <= 0.42, (kind, count)


def test_names_are_labelled_read_or_new(entities: Splits) -> None:
    used = {
        split: {name for row in found for name, _ in names(row)}
        for split, found in entities.items()
    }
    dealt = {
        part: {name for of in make_comics.NAMES.values() for name in of[part]}
        for part in make_comics.PARTS
    }
    for split, parts in make_entities.NAMES_OF.items():
        may = set().union(*(dealt[part] for part in parts))
        assert used[split] <= may
        assert len(used[split]) >= 0.95 * len(may), may - used[split]
    assert not used["train"] & (dealt["dev"] | dealt["read"] | dealt["new"])


def test_sorts_of_names_are_equally_frequent_in_the_test(entities: Splits) -> None:
    count = Counter(
        card_figures.sort_of_name(name)
        for row in entities["test"]
        for name, _ in names(row)
    )
    assert all(0.27 <= n / count.total() <= 0.40 for n in count.values()), count
    with pytest.raises(ValueError, match="no name"):
        card_figures.sort_of_name("Mira")


def test_capitals_alone_do_not_give_the_entities(entities: Splits) -> None:
    """Bystanders, sound words and first words are capitals without a tag."""
    tagged = Counter(
        tag != "O"
        for row in entities["test"]
        for token, tag in zip(row["tokens"], row["tags"], strict=True)
        if token[0].isupper()
    )
    assert tagged[False] >= 0.3 * tagged.total()


def test_a_list_of_the_training_names_is_not_enough() -> None:
    precision, recall, _ = card_figures.entity_scores("test")
    assert precision == "100%"
    assert int(recall.rstrip("%")) <= 45


def test_rows_are_the_builders(entities: Splits) -> None:
    assert make_entities.rows("dev") == entities["dev"]
