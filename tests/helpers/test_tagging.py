"""Tags on words to labels on pieces and back; what must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import models, tagging
from helpers.encoding import MASKED
from helpers.formats import DataError

DATA = Path(__file__).resolve().parents[2] / "datasets" / "entities"


def rows(split: str, count: int) -> list[dict]:
    lines = (DATA / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:count]]


@pytest.fixture(scope="module")
def tokenizer():
    return models.load()[1]


def one_hot(tagged: tagging.Tagged) -> list[np.ndarray]:
    """Logits of a model that says each label, and O where there is none."""
    return [np.eye(len(tagged.names))[np.maximum(row, 0)] for row in tagged.labels]


def test_read_gives_back_what_encode_wrote(tokenizer) -> None:
    train = rows("train", 200)
    tagged = tagging.encode(train, tokenizer)
    assert tagged.names[0] == "O" and len(tagged.names) == 9
    assert tagging.read(one_hot(tagged), tagged) == [row["tags"] for row in train]


def test_each_label_stands_where_the_library_says_that_the_word_ends(tokenizer) -> None:
    (row,) = rows("test", 1)
    tagged = tagging.encode([row], tokenizer)
    library, place = tokenizer(row["text"]), 0
    assert tagged.input_ids == [library["input_ids"]]
    for token, end in zip(row["tokens"], tagged.ends[0], strict=True):
        place = row["text"].index(token, place) + len(token)
        assert end == library.char_to_token(place - 1)
    others = set(range(len(tagged.labels[0]))) - set(tagged.ends[0])
    assert {tagged.labels[0][place] for place in others} == {MASKED}


def test_one_piece_that_ends_two_words_bears_the_first_ones_tag(tokenizer) -> None:
    row = {"text": 'Boo!"', "tokens": ["Boo", "!", '"'], "tags": ["O", "B-X", "O"]}
    tagged = tagging.encode([row], tokenizer)
    assert tagged.ends[0][1] == tagged.ends[0][2]
    assert tagged.labels[0][tagged.ends[0][1]] == tagged.names.index("B-X")


def test_a_last_letter_of_several_bytes_ends_at_its_last_piece(tokenizer) -> None:
    row = {"text": "Zoë 猫 ran", "tokens": ["Zoë", "猫", "ran"], "tags": ["O"] * 3}
    (ends,) = tagging.encode([row], tokenizer).ends
    ids = tokenizer(row["text"])["input_ids"]
    assert tokenizer.decode(ids[ends[0] + 1 : ends[1] + 1]).strip() == "猫"


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text("abé猫!z", min_size=1, max_size=6), min_size=1, max_size=6))
def test_any_words_get_their_own_last_piece_in_order(tokenizer, words) -> None:
    row = {"text": " ".join(words), "tokens": words, "tags": ["O"] * len(words)}
    (ends,) = tagging.encode([row], tokenizer).ends
    assert sorted(set(ends)) == ends  # spaces between them: no piece is shared


def test_a_foreign_tokenizer_serves_as_well(foreign_tokenizer) -> None:
    train = rows("train", 20)
    tagged = tagging.encode(train, foreign_tokenizer)
    assert tagging.read(one_hot(tagged), tagged) == [row["tags"] for row in train]


def test_the_data_set_has_ids_and_labels(tokenizer) -> None:
    tagged = tagging.encode(rows("train", 3), tokenizer)
    data = tagged.to_dataset()
    assert data["labels"][2] == tagged.labels[2]
    assert data["input_ids"][0] == tagged.input_ids[0]


def test_looking_names_up_finds_the_longest_and_never_a_part() -> None:
    known = tagging.gazetteer(
        [
            {"tokens": ["Tin", "Alley", "Row"], "tags": ["B-PLACE"] + ["I-PLACE"] * 2},
            {"tokens": ["Tin", "ran"], "tags": ["B-HERO", "O"]},
        ]
    )
    found = tagging.look_up(["Tin", "Alley", "Row", "Tin", "Alley"], known)
    assert found == ["B-PLACE", "I-PLACE", "I-PLACE", "B-HERO", "O"]
    assert tagging.look_up(["Tin"], {}) == ["O"]


def test_looked_up_names_score_as_the_card_says() -> None:
    from helpers import metrics

    known = tagging.gazetteer(rows("train", 2000))
    test = rows("test", 600)
    said = [tagging.look_up(row["tokens"], known) for row in test]
    found = metrics.entities([row["tags"] for row in test], said)
    figures = [f"{found[name]:.0%}" for name in ("precision", "recall", "f1")]
    card = (DATA / "README.md").read_text(encoding="utf-8")
    assert f"| names of training looked up, test | {' | '.join(figures)} |" in card


GOOD = {"text": "Kestrel ran.", "tokens": ["Kestrel", "ran", "."]}
GOOD |= {"tags": ["B-HERO", "O", "O"]}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"text": ""}, "row 2 .index 1. has no text"),
        ({"tags": ["B-HERO", "O"]}, "3 tokens but 2 tags"),
        ({"tokens": ["Kestrel", ".", "ran"]}, "'.', which does not come next"),
        ({"tokens": ["Kestrel", "flew", "."]}, "'flew', which does not come next"),
        ({"tokens": ["Kestrel", " ", "."]}, "' ', which does not come next"),
        ({"tags": ["I-HERO", "O", "O"]}, "I-HERO at 'Kestrel' after O"),
        ({"tags": ["B-HERO", "I-PLACE", "O"]}, "I-PLACE at 'ran' after B-HERO"),
        ({"tags": ["HERO", "O", "O"]}, "the tag 'HERO' at 'Kestrel'"),
        ({"tags": ["", "O", "O"]}, "the tag '' at 'Kestrel'"),
        ({"tags": ["B-", "O", "O"]}, "the tag 'B-' at 'Kestrel'"),
        ({"tags": ["B-DOG", "O", "O"]}, "'B-DOG' at 'Kestrel', which training never"),
    ],
)
def test_a_bad_row_is_named(tokenizer, change, complaint) -> None:
    with pytest.raises(DataError, match=complaint):
        tagging.encode([GOOD, GOOD | change], tokenizer, names=["O", "B-HERO"])


def test_no_rows_are_refused(tokenizer) -> None:
    with pytest.raises(DataError, match="no rows to tag"):
        tagging.encode([], tokenizer)


def test_logits_for_another_number_of_rows_are_refused(tokenizer) -> None:
    tagged = tagging.encode([GOOD], tokenizer)
    with pytest.raises(ValueError):
        tagging.read([], tagged)
