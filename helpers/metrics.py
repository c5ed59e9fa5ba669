"""Scores of answers, labels and language models.

Metrics of single answers return one value per row, not an average: the rows are
what `helpers.statistics` needs for an interval or a paired test, and what a reader
needs to look at the rows that failed.

    correct = exact_match(predictions, references)       # [True, False, ...]
    low, high = wilson(sum(correct), len(correct))       # helpers.statistics
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from numbers import Real
from typing import Any

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ROUGE_CHARACTER = re.compile(r"[a-z0-9]")


def exact_match(
    predictions: Sequence[str], references: Sequence[str], *, casefold: bool = False
) -> list[bool]:
    """Say for each prediction whether it is its reference.

    White space is forgiven: ends are stripped and each run of it counts as one
    space. Nothing else is, so that "ball." is not "ball".

    Args:
        predictions: Answers, one per row.
        references: The wanted answers, in the same order.
        casefold: Whether "Ball" and "ball" are the same.

    Returns:
        One truth value per row.

    Raises:
        ValueError: If the lengths differ, there are no rows, or a value is no string.

    >>> exact_match(["the  ball ", "Box"], ["the ball", "box"])
    [True, False]
    """
    _check_texts(predictions=predictions, references=references)
    return [
        _normalise(prediction, casefold) == _normalise(reference, casefold)
        for prediction, reference in zip(predictions, references, strict=True)
    ]


def token_f1(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """Give each row the F1 of the words that prediction and reference share.

    As in SQuAD both sides are first made lower case, lose ASCII punctuation and the
    articles a, an, the, and are split at white space. Words count as often as they
    occur. A side without a word left scores 1 if the other has none either, else 0.

    Args:
        predictions: Answers, one per row.
        references: The wanted answers, in the same order.

    Returns:
        One value from 0 to 1 per row.

    Raises:
        ValueError: If the lengths differ, there are no rows, or a value is no string.

    Source: Rajpurkar et al. 2016, arXiv 1606.05250, section 6.1; the rule for empty
    answers is that of the SQuAD 2.0 evaluation script (arXiv 1806.03822).

    >>> token_f1(["The red ball."], ["a ball"])
    [0.6666666666666666]
    """
    _check_texts(predictions=predictions, references=references)
    return [
        _overlap_f1(_squad_words(prediction), _squad_words(reference))
        for prediction, reference in zip(predictions, references, strict=True)
    ]


def rouge_l(
    predictions: Sequence[str], references: Sequence[str], *, stem: bool = False
) -> list[float]:
    """Give each row its ROUGE-L, the F1 of the longest common subsequence of words.

    Computed by the library rouge-score, whose words are runs of the letters a-z and
    digits in lower case. Text in another script has no such words and would score 0
    even against itself, which is why a reference without any is refused.

    Args:
        predictions: Answers, one per row.
        references: The wanted answers, in the same order.
        stem: Whether to reduce words to their stems (Porter) first.

    Returns:
        One value from 0 to 1 per row.

    Raises:
        ValueError: If the lengths differ, there are no rows, a value is no string, or
            a reference holds no letter a-z and no digit.

    Source: Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries",
    section 3; the package rouge-score 0.1.2.

    >>> rouge_l(["the cat sat"], ["the cat lay"])
    [0.6666666666666666]
    """
    _check_texts(predictions=predictions, references=references)
    for row, reference in enumerate(references):
        if not _ROUGE_CHARACTER.search(reference.lower()):
            raise ValueError(
                f"references[{row}] is {reference!r}, without a letter a-z or a digit, "
                "the only characters that ROUGE-L sees here; use token_f1 for this text"
            )
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=stem)
    return [
        float(scorer.score(reference, prediction)["rougeL"].fmeasure)
        for prediction, reference in zip(predictions, references, strict=True)
    ]


def classification(
    y_true: Sequence[Hashable],
    y_pred: Sequence[Hashable],
    *,
    labels: Sequence[Hashable],
) -> dict[str, Any]:
    """Score predicted labels: accuracy, macro-F1 and the confusion matrix.

    Macro-F1 is the plain mean of F1 over the labels that occur in `y_true`. A label
    that only predictions use, such as "other" for answers that are no label at all,
    thus costs recall where it was wrong but adds no F1 of 0 of its own.

    Args:
        y_true: The right label of each row.
        y_pred: The predicted label of each row.
        labels: Every label that may occur, in the order of the confusion matrix.

    Returns:
        `accuracy` and `macro_f1` from 0 to 1, and `confusion` as a list of
        shape (labels, labels): rows are the true label, columns the predicted one.

    Raises:
        ValueError: If the lengths differ, there are no rows, `labels` repeats itself,
            or a label is not among `labels`.

    Source: scikit-learn's f1_score and confusion_matrix.

    >>> classification(["a", "a", "b"], ["a", "b", "b"], labels=["a", "b"])["confusion"]
    [[1, 1], [0, 1]]
    """
    _check_lengths(y_true=y_true, y_pred=y_pred)
    _check_labels(labels, y_true=y_true, y_pred=y_pred)
    from sklearn.metrics import confusion_matrix, f1_score

    # Positions instead of labels: scikit-learn refuses None and mixed types.
    position = {label: index for index, label in enumerate(labels)}
    true = [position[label] for label in y_true]
    predicted = [position[label] for label in y_pred]
    macro_f1 = f1_score(
        true, predicted, labels=sorted(set(true)), average="macro", zero_division=0
    )
    confusion = confusion_matrix(true, predicted, labels=range(len(labels))).tolist()
    hits = sum(confusion[index][index] for index in range(len(labels)))
    return {
        "accuracy": hits / len(true),
        "macro_f1": float(macro_f1),
        "confusion": confusion,
    }


def entities(
    true: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Score tagged names as wholes: precision, recall and F1 over entities.

    An entity counts only if its first word, its last word and its type are all right,
    under the strict reading of IOB2: an I- tag that follows no B- or I- of its type is
    no entity. A share with nothing to be a share of is 0.

    Args:
        true: For each row, the tag of each word.
        predicted: The same for what was said; as many rows and words.

    Returns:
        `precision`, `recall` and `f1` over all entities, from 0 to 1; `types`, the
        same with `count` for each type that occurs in `true`; and `rows`, for each row
        the counts (right, said, wanted), from which an interval can be drawn.

    Raises:
        ValueError: If the lengths differ, there are no rows, or a tag is not IOB2.

    Source: Tjong Kim Sang and De Meulder 2003, "Introduction to the CoNLL-2003 shared
    task", section 2.3; the entities are those of the package seqeval 1.2.2.

    >>> entities([["B-HERO", "I-HERO", "O"]], [["B-HERO", "O", "O"]])["f1"]
    0.0
    """
    _check_lengths(true=true, predicted=predicted)
    for row, (wanted, said) in enumerate(zip(true, predicted, strict=True)):
        if len(wanted) != len(said):
            raise ValueError(
                f"row {row} has {len(wanted)} true tags but {len(said)} predicted "
                "ones; give one tag a word"
            )
    wanted, said = _spans_of(true, "true"), _spans_of(predicted, "predicted")
    rows = [
        (len(one & other), len(one), len(other))
        for one, other in zip(said, wanted, strict=True)
    ]
    types = {}
    for kind in sorted({tag for row in wanted for _, tag, _, _ in row}):
        of_kind = [
            [{span for span in row if span[1] == kind} for row in side]
            for side in (said, wanted)
        ]
        counts = [
            (len(one & other), len(one), len(other))
            for one, other in zip(*of_kind, strict=True)
        ]
        types[kind] = _entity_scores(counts) | {"count": sum(c[2] for c in counts)}
    return _entity_scores(rows) | {"types": types, "rows": rows}


def perplexity(nats: float | Iterable[float], tokens: int | Iterable[int]) -> float:
    """Turn a summed loss into perplexity, exp(nats / tokens).

    Given one value per text, texts are weighted by their tokens. The mean of
    their perplexities would be another, larger number.

    Args:
        nats: Negative log-likelihood (natural logarithm), in total or per text.
        tokens: Number of predicted tokens, in total or per text.

    Returns:
        Perplexity, 1 or more; `inf` where the number is too large for a float.

    Raises:
        ValueError: If the lengths differ, there are no tokens, or a value is negative
            or not a number.

    Source: Jurafsky and Martin, "Speech and Language Processing", on perplexity.

    >>> round(perplexity([2.0, 4.0], [1, 2]), 3)
    7.389
    """
    try:
        return math.exp(_ratio(nats, tokens, "tokens"))
    except OverflowError:
        return math.inf


def bits_per_byte(nats: float | Iterable[float], bytes: int | Iterable[int]) -> float:
    """Turn a summed loss into bits per byte, nats / (bytes · ln 2).

    Bytes of UTF-8 do not depend on the tokenizer, so unlike perplexity this compares
    models with different vocabularies. Given one value per text, texts are weighted
    by their bytes.

    Args:
        nats: Negative log-likelihood (natural logarithm), in total or per text.
        bytes: Length of the text as UTF-8, in total or per text.

    Returns:
        Bits that the model needs for one byte of text.

    Raises:
        ValueError: If the lengths differ, there are no bytes, or a value is negative
            or not a number.

    Source: Gao et al. 2020, "The Pile", arXiv 2101.00027, section 3.1.

    >>> round(bits_per_byte(math.log(256), 1), 12)  # uniform over all bytes
    8.0
    """
    return _ratio(nats, bytes, "bytes") / math.log(2)


def majority_baseline(
    train_labels: Sequence[Hashable],
    test_labels: Sequence[Hashable],
    *,
    train_groups: Sequence[Hashable] | None = None,
    test_groups: Sequence[Hashable] | None = None,
    casefold: bool = False,
) -> list[bool]:
    """Score the guess that each answer is the commonest training answer.

    Without groups one answer is guessed everywhere. With groups (say, the task of
    each row) it is the commonest of the row's own group; a group that training never
    saw gets the commonest answer of all. Of equally common answers the first seen wins.

    Args:
        train_labels: Answers or labels of the training rows.
        test_labels: Answers or labels of the test rows.
        train_groups: Group of each training row.
        test_groups: Group of each test row.
        casefold: As in `exact_match`, by which strings are compared.

    Returns:
        One truth value per test row: whether the guess is right.

    Raises:
        ValueError: If one side is empty, groups are given for one side only, or there
            are not as many groups as labels.

    >>> majority_baseline(["yes", "no", "no"], ["no", "yes"])
    [True, False]
    """
    _check_some(train_labels=train_labels, test_labels=test_labels)
    if (train_groups is None) != (test_groups is None):
        missing = "train_groups" if train_groups is None else "test_groups"
        raise ValueError(f"{missing} is missing; give groups for both sides or neither")
    if train_groups is None or test_groups is None:
        train_groups, test_groups = (
            [None] * len(train_labels),
            [None] * len(test_labels),
        )
    _check_lengths(train_labels=train_labels, train_groups=train_groups)
    _check_lengths(test_labels=test_labels, test_groups=test_groups)

    train = [_label_key(label, casefold) for label in train_labels]
    by_group = defaultdict(list)
    for group, label in zip(train_groups, train, strict=True):
        by_group[group].append(label)
    guesses = {group: _commonest(members) for group, members in by_group.items()}
    overall = _commonest(train)
    return [
        guesses.get(group, overall) == _label_key(label, casefold)
        for group, label in zip(test_groups, test_labels, strict=True)
    ]


def copy_baseline(
    inputs: Sequence[str], references: Sequence[str], *, casefold: bool = False
) -> list[bool]:
    """Score the guess that each answer is the row's own input, word for word.

    Tasks that edit their input reward a model for doing nothing; this says how much.
    For a graded score pass the inputs as predictions to `rouge_l` or `token_f1`.

    Args:
        inputs: The input text of each row, without its instruction.
        references: The wanted answers, in the same order.
        casefold: Whether "Ball" and "ball" are the same.

    Returns:
        One truth value per row, by `exact_match`.

    Raises:
        ValueError: If the lengths differ, there are no rows, or a value is no string.

    Source: the heuristic baselines that copy, of Wang et al. 2022,
    "Super-NaturalInstructions", arXiv 2204.07705.

    >>> copy_baseline(["a red ball", "a box"], ["a red ball", "box"])
    [True, False]
    """
    _check_texts(inputs=inputs, references=references)
    return exact_match(inputs, references, casefold=casefold)


def _spans_of(tags: Sequence[Sequence[str]], name: str) -> list[set[tuple]]:
    """The entities of each row as (row, type, first word, word after the last)."""
    from seqeval.scheme import IOB2, Entities

    try:
        found = Entities([list(row) for row in tags], scheme=IOB2).entities
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(
            f"{name} holds a tag that is not IOB2 ({error}); tags are O, B-type and "
            "I-type"
        ) from error
    return [{entity.to_tuple() for entity in row} for row in found]


def _entity_scores(rows: Sequence[tuple[int, int, int]]) -> dict[str, Any]:
    right, said, wanted = (sum(column) for column in zip(*rows, strict=True))
    return {
        "precision": right / said if said else 0.0,
        "recall": right / wanted if wanted else 0.0,
        "f1": 2 * right / (said + wanted) if right else 0.0,
    }


def _normalise(text: str, casefold: bool) -> str:
    text = " ".join(text.split())
    return text.casefold() if casefold else text


def _label_key(label: Hashable, casefold: bool) -> Hashable:
    return _normalise(label, casefold) if isinstance(label, str) else label


def _commonest(labels: Iterable[Hashable]) -> Hashable:
    return Counter(labels).most_common(1)[0][0]


def _squad_words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()


def _overlap_f1(predicted: list[str], wanted: list[str]) -> float:
    if not predicted or not wanted:
        return float(predicted == wanted)
    shared = (Counter(predicted) & Counter(wanted)).total()
    return 2 * shared / (len(predicted) + len(wanted))


def _ratio(
    nats: float | Iterable[float], counts: int | Iterable[int], unit: str
) -> float:
    """Divide the summed loss by the summed counts."""
    losses, lengths = _numbers(nats, "nats"), _numbers(counts, unit)
    _check_lengths(**{"nats": losses, unit: lengths})
    total = math.fsum(lengths)
    if total == 0:
        raise ValueError(f"{unit} is 0, so there was no text to score; check the input")
    return math.fsum(losses) / total


def _numbers(values: float | Iterable[float], name: str) -> list[float]:
    numbers = [values] if isinstance(values, Real) else list(values)
    for index, number in enumerate(numbers):
        if not number >= 0:  # true for nan as well
            raise ValueError(
                f"{name} holds {number} at position {index}; it must be 0 or more"
            )
    return numbers


def _check_texts(**columns: Sequence[str]) -> None:
    _check_lengths(**columns)
    for name, values in columns.items():
        _check_each(
            values, name, lambda value: isinstance(value, str), "which is not a string"
        )


def _check_lengths(**columns: Sequence[Any]) -> None:
    _check_some(**columns)
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        found = " but ".join(f"{count} {name}" for name, count in lengths.items())
        raise ValueError(f"found {found}; give one of each per row")


def _check_some(**columns: Sequence[Any]) -> None:
    for name, values in columns.items():
        if isinstance(values, str):
            raise ValueError(f"{name} is one string; give a list with one per row")
        if len(values) == 0:
            raise ValueError(f"{name} is empty; give at least one row")


def _check_labels(labels: Sequence[Hashable], **columns: Sequence[Hashable]) -> None:
    _check_some(labels=labels)
    repeated = [label for label, count in Counter(labels).items() if count > 1]
    if repeated:
        raise ValueError(f"labels holds {repeated[0]!r} more than once; name each once")
    known = set(labels)
    for name, values in columns.items():
        _check_each(
            values,
            name,
            known.__contains__,
            f"which is none of the labels {list(labels)}; correct it, or add a label "
            "such as 'other' for answers that are no label",
        )


def _check_each(
    values: Sequence[Any], name: str, accept: Callable[[Any], bool], complaint: str
) -> None:
    for row, value in enumerate(values):
        if not accept(value):
            raise ValueError(f"{name}[{row}] is {value!r}, {complaint}")
