"""Metrics against hand-worked values, other implementations and their own laws."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from helpers.metrics import (
    bits_per_byte,
    classification,
    copy_baseline,
    entities,
    exact_match,
    majority_baseline,
    perplexity,
    rouge_l,
    token_f1,
)

law = settings(derandomize=True, deadline=None, database=None, max_examples=100)
TEXTS = st.text(alphabet="ab the.,! 12é\n", max_size=20)


# exact_match


def test_exact_match_forgives_white_space_and_nothing_else():
    predictions = ["  the\tball\n", "the ball.", "The ball", "the ball", ""]
    references = ["the ball"] * 4 + [" "]
    assert exact_match(predictions, references) == [True, False, False, True, True]


def test_exact_match_folds_case_on_request():
    assert exact_match(["STRASSE", "b"], ["straße", "c"], casefold=True) == [
        True,
        False,
    ]


@law
@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_exact_match_of_a_text_with_itself_reversed_in_space(texts):
    spaced = [f" {text} " for text in texts]
    assert all(exact_match(spaced, texts))


# token_f1


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("The red ball.", "a ball", 2 / 3),  # articles and the full stop go
        ("ball ball", "ball", 2 / 3),  # a word counts as often as it occurs
        ("ball", "ball ball ball", 1 / 2),
        ("Anaconda", "conda", 0.0),  # an article goes only as a word
        ("don't", "dont", 1.0),
        ("box", "ball", 0.0),
        ("the", "a", 1.0),  # no word left on either side
        ("the", "ball", 0.0),
        ("ball", "", 0.0),
    ],
)
def test_token_f1_by_hand(prediction, reference, expected):
    assert token_f1([prediction], [reference]) == [pytest.approx(expected)]


@law
@given(TEXTS, TEXTS)
def test_token_f1_is_symmetric_and_a_proportion(one, other):
    [forward], [backward] = token_f1([one], [other]), token_f1([other], [one])
    assert forward == pytest.approx(backward)
    assert 0 <= forward <= 1
    assert token_f1([one], [one]) == [1.0]


# rouge_l


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence():
    # Lin 2004, section 3.1: both candidates share "police the gunman" or "the gunman"
    # with the reference "police killed the gunman".
    reference = "police killed the gunman"
    scores = rouge_l(
        ["police kill the gunman", "the gunman kill police", ""], [reference] * 3
    )
    assert scores == [pytest.approx(0.75), pytest.approx(0.5), 0.0]


def test_rouge_l_stems_on_request():
    assert rouge_l(["running dogs"], ["run dog"]) == [0.0]
    assert rouge_l(["running dogs"], ["runs dog"], stem=True)[0] > 0.4


@pytest.mark.parametrize("reference", ["你好", "?!", ""])
def test_rouge_l_refuses_what_it_cannot_see(reference):
    with pytest.raises(ValueError, match=r"references\[1\] is .*use token_f1"):
        rouge_l(["a", reference], ["a", reference])


# classification


def test_classification_by_hand():
    result = classification(
        ["irony", "irony", "literal", "sarcasm"],
        ["irony", "literal", "literal", "literal"],
        labels=["irony", "sarcasm", "literal"],
    )
    assert result["accuracy"] == 0.5
    assert result["macro_f1"] == pytest.approx((2 / 3 + 0 + 1 / 2) / 3)
    assert result["confusion"] == [[1, 0, 1], [0, 0, 1], [0, 0, 1]]


def test_classification_agrees_with_scikit_learn():
    generator = random.Random(0)
    labels = ["a", "b", "c"]
    true = labels + generator.choices(labels, k=97)
    predicted = generator.choices(labels, k=100)
    result = classification(true, predicted, labels=labels)
    assert result["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert result["macro_f1"] == pytest.approx(
        f1_score(true, predicted, average="macro")
    )
    assert sum(map(sum, result["confusion"])) == 100


def test_a_label_that_only_predictions_use_costs_recall_but_has_no_f1_of_its_own():
    result = classification(
        ["yes", "no"], ["yes", "other"], labels=["yes", "no", "other"]
    )
    assert result["macro_f1"] == 0.5  # of yes 1 and no 0, not a third of 1
    assert result["confusion"][1] == [0, 0, 1]


def test_classification_takes_arrays_and_any_hashable_label():
    array = classification(np.array([0, 1, 1]), np.array([0, 1, 0]), labels=[0, 1])
    mixed = classification([None, "a", "a"], [None, "a", None], labels=[None, "a"])
    assert array == mixed
    assert type(array["confusion"][0][0]) is int
    assert type(array["macro_f1"]) is float


@pytest.mark.parametrize(
    ("true", "predicted", "labels", "message"),
    [
        (["a"], ["A"], ["a"], r"y_pred\[0\] is 'A', which is none of .*'other'"),
        (["x"], ["a"], ["a"], r"y_true\[0\] is 'x', which is none of the labels"),
        (["a"], ["a"], ["a", "a"], "labels holds 'a' more than once"),
        (["a"], ["a"], [], "labels is empty"),
        (["a"], ["a"], "ab", "labels is one string"),
        (["a"], [], ["a"], "y_pred is empty"),
        (["a", "a"], ["a"], ["a"], "found 2 y_true but 1 y_pred"),
    ],
)
def test_classification_says_what_it_found(true, predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        classification(true, predicted, labels=labels)


# perplexity and bits per byte


def test_perplexity_weights_texts_by_their_tokens():
    assert perplexity(math.log(10) * 3, 3) == pytest.approx(10)
    assert perplexity([0.0, 9.0], [1, 9]) == pytest.approx(math.exp(0.9))
    assert perplexity(np.array([0.0, 9.0]), np.array([1, 9])) == pytest.approx(
        math.exp(0.9)
    )


def test_perplexity_too_large_for_a_float_is_infinite():
    assert perplexity(709.0, 1) < math.inf
    assert perplexity(710.0, 1) == math.inf
    assert perplexity(math.inf, 5) == math.inf


def test_bits_per_byte_of_a_uniform_guess():
    assert bits_per_byte(5 * math.log(256), 5) == pytest.approx(8)
    assert bits_per_byte([math.log(2), 0.0], [1, 3]) == pytest.approx(0.25)


@pytest.mark.parametrize("metric", [perplexity, bits_per_byte])
@pytest.mark.parametrize(
    ("nats", "counts", "message"),
    [
        (1.0, 0, "is 0, so there was no text to score"),
        ([1.0], [1, 2], "found 1 nats but 2"),
        ([], [], "nats is empty"),
        ([1.0, -2.0], [1, 1], r"nats holds -2.0 at position 1; it must be 0 or more"),
        (math.nan, 1, "nats holds nan"),
        (1.0, -1, "holds -1 at position 0"),
    ],
)
def test_losses_that_make_no_sense(metric, nats, counts, message):
    with pytest.raises(ValueError, match=message):
        metric(nats, counts)


@law
@given(
    st.lists(st.tuples(st.floats(0, 500), st.integers(1, 50)), min_size=1, max_size=6)
)
def test_perplexity_lies_between_the_best_and_the_worst_text(texts):
    nats, tokens = zip(*texts, strict=True)
    each = [perplexity(n, t) for n, t in texts]
    whole = perplexity(nats, tokens)
    assert min(each) * (1 - 1e-9) <= whole <= max(each) * (1 + 1e-9)


# baselines


def test_majority_guesses_the_commonest_training_answer():
    assert majority_baseline(["b", "a", "a"], ["a", "b", " a "]) == [True, False, True]
    assert majority_baseline([1, 2, 2], [2, 1]) == [True, False]


def test_majority_takes_the_first_seen_of_equals():
    assert majority_baseline(["b", "a"], ["b", "a"]) == [True, False]


def test_majority_within_groups_and_for_groups_that_training_lacks():
    hits = majority_baseline(
        ["yes", "yes", "yes", "red", "red", "blue"],
        ["yes", "red", "blue", "yes"],
        train_groups=["ask"] * 3 + ["colour"] * 3,
        test_groups=["ask", "colour", "colour", "held out"],
    )
    assert hits == [True, True, False, True]


def test_majority_compares_as_exact_match_does():
    assert majority_baseline(["No", "no ", "Yes"], ["NO"], casefold=True) == [True]
    assert majority_baseline(["No", "no ", "Yes"], ["NO"]) == [False]


@pytest.mark.parametrize(
    ("train", "test", "groups", "message"),
    [
        ([], ["a"], {}, "train_labels is empty"),
        (["a"], [], {}, "test_labels is empty"),
        (["a"], ["a"], {"train_groups": [1]}, "test_groups is missing"),
        (["a"], ["a"], {"test_groups": [1]}, "train_groups is missing"),
        (
            ["a"],
            ["a", "b"],
            {"train_groups": [1], "test_groups": [1]},
            "found 2 test_labels but 1 test_groups",
        ),
        (
            ["a", "b"],
            ["a"],
            {"train_groups": [1], "test_groups": [1]},
            "found 2 train_labels but 1 train_groups",
        ),
    ],
)
def test_majority_says_what_it_found(train, test, groups, message):
    with pytest.raises(ValueError, match=message):
        majority_baseline(train, test, **groups)


def test_copying_the_input():
    assert copy_baseline(["A b", "c"], ["a  b", "d"], casefold=True) == [True, False]
    assert copy_baseline(["A b"], ["a b"]) == [False]
    with pytest.raises(ValueError, match="found 2 inputs but 1 references"):
        copy_baseline(["a", "b"], ["a"])


# entities

TAG = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B"])
ROWS = st.lists(
    st.lists(st.tuples(TAG, TAG), min_size=1, max_size=8), min_size=1, max_size=6
)


@law
@given(ROWS)
def test_entities_are_scored_as_seqeval_does(rows):
    from seqeval.metrics import f1_score as entity_f1
    from seqeval.metrics import precision_score, recall_score
    from seqeval.scheme import IOB2

    true = [[pair[0] for pair in row] for row in rows]
    said = [[pair[1] for pair in row] for row in rows]
    found = entities(true, said)
    library = {"mode": "strict", "scheme": IOB2, "zero_division": 0}
    counts = np.sum(found["rows"], axis=0)
    if counts[1:].all():  # seqeval refuses to score where one side has no entity
        assert found["f1"] == pytest.approx(entity_f1(true, said, **library))
        assert found["recall"] == pytest.approx(recall_score(true, said, **library))
        precision = precision_score(true, said, **library)
        assert found["precision"] == pytest.approx(precision)
    else:
        assert found["f1"] == 0
    assert sum(kind["count"] for kind in found["types"].values()) == counts[2]


def test_an_entity_is_right_only_as_a_whole_and_by_its_type():
    true = [["B-HERO", "I-HERO", "O", "B-PLACE"], ["O", "B-HERO"]]
    said = [["B-HERO", "O", "O", "B-PLACE"], ["I-HERO", "B-PLACE"]]
    found = entities(true, said)
    assert found["rows"] == [(1, 2, 2), (0, 1, 1)]  # the lone I-HERO is none
    assert (found["precision"], found["recall"]) == (1 / 3, 1 / 3)
    assert found["types"]["PLACE"]["precision"] == 1 / 2
    assert found["types"]["HERO"] == {
        "precision": 0.0,
        "recall": 0.0,
        "f1": 0.0,
        "count": 2,
    }


@pytest.mark.parametrize(
    ("true", "said", "message"),
    [
        ([["O"]], [], "found 1 true but 0 predicted|predicted is empty"),
        ([["O", "O"]], [["O"]], "row 0 has 2 true tags but 1 predicted ones"),
        ([["O"]], [["HERO"]], "predicted holds a tag that is not IOB2"),
        ([[""]], [["O"]], "true holds a tag that is not IOB2"),
        ([["E-HERO"]], [["O"]], "true holds a tag that is not IOB2"),
    ],
)
def test_tags_that_are_none(true, said, message):
    with pytest.raises(ValueError, match=message):
        entities(true, said)


# What all metrics of answers refuse


@pytest.mark.parametrize("metric", [exact_match, token_f1, rouge_l])
@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        (["a"], ["a", "b"], "found 1 predictions but 2 references"),
        ([], [], "predictions is empty"),
        (["a", None], ["a", "b"], r"predictions\[1\] is None, which is not a string"),
        (["a"], [["a"]], r"references\[0\] is \['a'\], which is not a string"),
        ("ab", ["a", "b"], "predictions is one string"),
    ],
)
def test_answers_that_are_no_answers(metric, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        metric(predictions, references)
