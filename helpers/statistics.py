"""Intervals and paired tests, so that a number never stands alone.

| question | function |
|---|---|
| how sure is this accuracy? | `wilson` |
| how sure is this mean of per-row scores (F1, ROUGE, differences)? | `bootstrap` |
| is model A better than B on the same rows? | `mcnemar` |
| would another seed tell the same? | `over_seeds` |
| several tests at once | `holm` |

`wilson`, `bootstrap` and `mcnemar` speak about other test rows for the same trained
model; only `over_seeds` speaks about training again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import index
from typing import Any, Literal


def wilson(successes: int, n: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Give the Wilson score interval of a proportion, such as an accuracy.

    Unlike the textbook p ± 1.96·sqrt(p(1−p)/n) it stays within 0 and 1 and keeps
    about its promised coverage for small n and for p near 0 or 1.

    Args:
        successes: Number of rows that are right.
        n: Number of rows.
        confidence: Coverage wanted, between 0 and 1.

    Returns:
        The bounds (low, high), from 0 to 1.

    Raises:
        ValueError: If the counts are no whole numbers with 0 ≤ successes ≤ n and
            n ≥ 1, or the confidence is not between 0 and 1.

    Source: Wilson 1927; Newcombe 1998, "Two-sided confidence intervals for the single
    proportion", Statistics in Medicine 17:857, method 3; scipy's BinomTestResult.

    >>> low, high = wilson(81, 263)
    >>> f"{low:.4f} {high:.4f}"
    '0.2553 0.3662'
    """
    _check_confidence(confidence)
    successes, n = _count(successes, "successes"), _count(n, "n")
    if n == 0 or successes > n:
        raise ValueError(
            f"found {successes} successes of {n} rows; there must be at least one row "
            "and no more successes than rows"
        )
    from scipy.stats import binomtest

    interval = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def bootstrap(
    values: Sequence[float],
    *,
    seed: int,
    confidence: float = 0.95,
    resamples: int = 9_999,
    method: Literal["BCa", "percentile"] = "BCa",
) -> tuple[float, float, float]:
    """Give the mean of per-row scores with its bootstrap interval.

    To compare two models on the same rows, pass the differences of their scores row
    by row: the interval then says whether 0 is a plausible difference. Where all
    values are equal the interval has no width, however few they are; for right or
    wrong answers use `wilson`, which does not fall into that trap.

    Args:
        values: One score per row, at least two.
        seed: Seed of the resampling; the same seed gives the same interval.
        confidence: Coverage wanted, between 0 and 1.
        resamples: How often to draw as many rows again, with replacement; at
            least 100.
        method: "BCa" (bias-corrected and accelerated) or the plain "percentile".

    Returns:
        (mean, low, high), in the unit of the values.

    Raises:
        ValueError: If there are fewer than two values, one is not finite, or the
            confidence, resamples or method is not as above.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 13
    and 14; scipy.stats.bootstrap.

    >>> mean, low, high = bootstrap([0.2, 0.4, 0.9, 1.0, 0.5], seed=0)
    >>> low < mean < high
    True
    """
    numbers = _sample(values, "scores of rows")
    _check_confidence(confidence)
    if method not in ("BCa", "percentile"):
        raise ValueError(f"method is {method!r}; choose 'BCa' or 'percentile'")
    if resamples < 100:
        raise ValueError(
            f"resamples is {resamples}; draw at least 100 times, better 9,999"
        )
    mean = math.fsum(numbers) / len(numbers)
    if min(numbers) == max(numbers):
        return mean, mean, mean  # BCa has no answer here

    import numpy
    from scipy import stats

    interval = stats.bootstrap(
        (numbers,),
        numpy.mean,
        n_resamples=resamples,
        batch=max(1, 1_000_000 // len(numbers)),  # bounds memory at some 8 MB
        confidence_level=confidence,
        method=method,
        rng=numpy.random.default_rng(seed),
    ).confidence_interval
    return mean, float(interval.low), float(interval.high)


def mcnemar(
    a_correct: Sequence[bool], b_correct: Sequence[bool]
) -> dict[str, int | float]:
    """Test whether two models that answered the same rows are equally often right.

    Only rows on which they disagree count: were the models equally good, each such
    row would be a fair coin. The test is exact and two-sided.

    Args:
        a_correct: For each row, whether model A is right.
        b_correct: For each row, in the same order, whether model B is right.

    Returns:
        `b`, rows that only A has right; `c`, rows that only B has right; and `p`,
        which is 1 where they never disagree.

    Raises:
        ValueError: If the lengths differ, there are no rows, or a value is neither
            true nor false (0 and 1 count as such).

    Source: McNemar 1947; Fagerland, Lydersen and Laake 2013, "The McNemar test for
    binary matched-pairs data", https://doi.org/10.1186/1471-2288-13-91

    >>> mcnemar([True] * 9 + [False], [False] * 9 + [True])
    {'b': 9, 'c': 1, 'p': 0.021484375}
    """
    if len(a_correct) != len(b_correct):
        raise ValueError(
            f"found {len(a_correct)} rows of A but {len(b_correct)} of B; a paired "
            "test needs both models on the same rows"
        )
    if len(a_correct) == 0:
        raise ValueError("found no rows; give at least one")
    _check_binary(a_correct, "a_correct")
    _check_binary(b_correct, "b_correct")
    pairs = list(zip(a_correct, b_correct, strict=True))
    only_a = sum(bool(a) and not b for a, b in pairs)
    only_b = sum(bool(b) and not a for a, b in pairs)
    if only_a + only_b == 0:
        return {"b": 0, "c": 0, "p": 1.0}
    from scipy.stats import binomtest

    p = binomtest(only_a, only_a + only_b, 0.5).pvalue
    return {"b": only_a, "c": only_b, "p": float(p)}


def over_seeds(
    values: Sequence[float], *, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Give the mean over training runs with its interval by Student's t.

    Made for a handful of runs that differ in their seed. With two of them t is 12.7
    instead of 1.96, which is the honest price of two runs.

    Args:
        values: One result per seed, at least two.
        confidence: Coverage wanted, between 0 and 1.

    Returns:
        (mean, low, high), in the unit of the values. Nothing is clipped: the bounds
        of accuracies may fall outside 0 and 1.

    Raises:
        ValueError: If there are fewer than two values, one is not finite, or the
            confidence is not between 0 and 1.

    Source: Student 1908, "The Probable Error of a Mean"; scipy.stats.t.

    >>> [round(x, 3) for x in over_seeds([0.80, 0.82, 0.84])]
    [0.82, 0.77, 0.87]
    """
    numbers = _sample(values, "results of seeds")
    _check_confidence(confidence)
    from statistics import fmean, stdev

    from scipy.stats import t

    mean, n = fmean(numbers), len(numbers)
    half = float(t.ppf((1 + confidence) / 2, n - 1)) * stdev(numbers) / math.sqrt(n)
    return mean, mean - half, mean + half


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for having run several tests, by Holm's step-down method.

    Calling those at or below 0.05 significant keeps the chance of even one false
    alarm among all the tests at 5%, whatever their dependence.

    Args:
        p_values: One p-value per test.

    Returns:
        The adjusted p-values in the same order, at most 1.

    Raises:
        ValueError: If there is none, or one is not from 0 to 1.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".

    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    if len(p_values) == 0:
        raise ValueError("found no p-values; give at least one")
    for position, p in enumerate(p_values):
        if not 0 <= p <= 1:  # true for nan as well
            raise ValueError(f"p_values[{position}] is {p}; it must be from 0 to 1")
    tests = len(p_values)
    adjusted, floor = [0.0] * tests, 0.0
    for rank, position in enumerate(sorted(range(tests), key=p_values.__getitem__)):
        floor = max(floor, min(1.0, (tests - rank) * float(p_values[position])))
        adjusted[position] = floor
    return adjusted


def _sample(values: Sequence[float], what: str) -> list[float]:
    """Check that values can have a spread, and make them plain floats."""
    numbers = [float(value) for value in values]
    if len(numbers) < 2:
        raise ValueError(
            f"found {len(numbers)} {what}; an interval needs at least two values"
        )
    for position, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(
                f"values[{position}] is {number}; find out why before averaging"
            )
    return numbers


def _count(value: int, name: str) -> int:
    try:
        count = index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}; give a whole number") from None
    if count < 0:
        raise ValueError(f"{name} is {count}; it must be 0 or more")
    return count


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a number such as 0.95")


def _check_binary(values: Sequence[Any], name: str) -> None:
    for row, value in enumerate(values):
        if value not in (0, 1):
            raise ValueError(
                f"{name}[{row}] is {value!r}; give True or False for right or wrong"
            )
