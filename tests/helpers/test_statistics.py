"""Intervals and tests against published examples, simulation and their own laws."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from helpers.statistics import bootstrap, holm, mcnemar, over_seeds, wilson

law = settings(derandomize=True, deadline=None, database=None, max_examples=100)
slow_law = settings(law, max_examples=25)
COUNTS = st.integers(1, 3_000).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)
SCORES = st.lists(st.integers(0, 20).map(lambda k: k / 20), min_size=8, max_size=60)


# wilson


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(successes, n, low, high):
    # Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert wilson(successes, n) == pytest.approx((low, high), abs=5e-5)


@law
@given(COUNTS)
def test_wilson_contains_the_estimate_and_stays_within_0_and_1(counts):
    successes, n = counts
    low, high = wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert high > low


@law
@given(COUNTS)
def test_wilson_mirrors_failures(counts):
    successes, n = counts
    low, high = wilson(successes, n)
    assert wilson(n - successes, n) == pytest.approx((1 - high, 1 - low))


@law
@given(COUNTS, st.integers(2, 5))
def test_wilson_narrows_with_more_rows_and_widens_with_confidence(counts, times):
    successes, n = counts

    def width(*arguments, **options):
        low, high = wilson(*arguments, **options)
        return high - low

    assert width(successes * times, n * times) < width(successes, n)
    assert width(successes, n, confidence=0.99) > width(successes, n)


def test_wilson_covers_about_as_often_as_it_promises():
    generator = np.random.default_rng(2026)
    interval = cache(lambda successes: wilson(successes, 60))
    covered = []
    for p in np.linspace(0.05, 0.95, 19):
        draws = generator.binomial(60, p, size=2_000).tolist()
        hits = [interval(k)[0] <= p <= interval(k)[1] for k in draws]
        covered.append(np.mean(hits))
    assert np.mean(covered) == pytest.approx(0.95, abs=0.01)
    assert min(covered) > 0.90  # the textbook interval falls to 0.81 here


@pytest.mark.parametrize(
    ("successes", "n", "confidence", "message"),
    [
        (3, 2, 0.95, "found 3 successes of 2 rows"),
        (0, 0, 0.95, "found 0 successes of 0 rows"),
        (-1, 2, 0.95, "successes is -1; it must be 0 or more"),
        (0.5, 2, 0.95, "successes is 0.5; give a whole number"),
        (1, 2, 95, "confidence is 95; give a number such as 0.95"),
        (1, 2, 0, "confidence is 0"),
    ],
)
def test_wilson_says_what_it_found(successes, n, confidence, message):
    with pytest.raises(ValueError, match=message):
        wilson(successes, n, confidence=confidence)


# bootstrap


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_repeats_by_its_seed(method):
    values = np.random.default_rng(0).random(50)
    first = bootstrap(values, seed=1, method=method)
    assert first == bootstrap(values, seed=1, method=method)
    assert first != bootstrap(values, seed=2, method=method)
    assert [type(number) for number in first] == [float] * 3


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_bootstrap_agrees_with_the_normal_interval_of_many_rows(method):
    values = np.random.default_rng(3).normal(5, 2, size=1_200)
    mean, low, high = bootstrap(values, seed=0, method=method)
    half = 1.96 * values.std(ddof=1) / math.sqrt(len(values))
    assert mean == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.1 * half)


def test_bca_leans_towards_the_long_tail():
    values = np.random.default_rng(5).exponential(size=40)
    _, plain_low, plain_high = bootstrap(values, seed=0, method="percentile")
    _, low, high = bootstrap(values, seed=0)
    assert low > plain_low
    assert high > plain_high


@slow_law
@given(SCORES, st.sampled_from(["BCa", "percentile"]))
def test_bootstrap_contains_the_mean(values, method):
    mean, low, high = bootstrap(values, seed=0, resamples=999, method=method)
    assert low <= mean <= high
    assert min(values) <= low
    assert high <= max(values)


def test_bootstrap_of_equal_values_has_no_width():
    assert bootstrap([0.1] * 3, seed=0) == pytest.approx((0.1, 0.1, 0.1))


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "found 0 scores of rows; an interval needs at least two"),
        ([1.0], {}, "found 1 scores of rows"),
        ([1.0, math.nan], {}, r"values\[1\] is nan; find out why"),
        ([1.0, 2.0], {"method": "basic"}, "method is 'basic'; choose 'BCa' or"),
        ([1.0, 2.0], {"resamples": 99}, "resamples is 99; draw at least 100"),
        ([1.0, 2.0], {"confidence": 1.0}, "confidence is 1.0"),
    ],
)
def test_bootstrap_says_what_it_found(values, options, message):
    with pytest.raises(ValueError, match=message):
        bootstrap(values, seed=0, **options)


# mcnemar


def paired(only_a: int, only_b: int, both: int = 3, neither: int = 2):
    a = [1] * only_a + [0] * only_b + [1] * both + [0] * neither
    b = [0] * only_a + [1] * only_b + [1] * both + [0] * neither
    return a, b


@pytest.mark.parametrize(("b", "c", "p"), [(1, 7, 0.0703), (6, 16, 0.0525)])
def test_mcnemar_gives_the_published_values(b, c, p):
    # The exact conditional test in Fagerland et al. 2013 on the data of Bentur et al.
    # 2009 and Cavo et al. 2012.
    assert mcnemar(*paired(b, c)) == {"b": b, "c": c, "p": pytest.approx(p, abs=5e-5)}


@law
@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 9), st.integers(0, 9))
def test_mcnemar_is_symmetric_and_blind_to_agreement(b, c, both, neither):
    a_correct, b_correct = paired(b, c, both, neither)
    if not a_correct:
        return
    forward, backward = mcnemar(a_correct, b_correct), mcnemar(b_correct, a_correct)
    assert (forward["b"], forward["c"]) == (backward["c"], backward["b"]) == (b, c)
    assert forward["p"] == pytest.approx(backward["p"])
    assert forward["p"] == mcnemar(*paired(b, c, 1, 1))["p"]
    tail = sum(math.comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert forward["p"] == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_of_models_that_never_disagree():
    assert mcnemar([True, False], [True, False]) == {"b": 0, "c": 0, "p": 1.0}


def test_mcnemar_takes_arrays():
    result = mcnemar(np.array([True, True]), np.array([False, True]))
    assert result == {"b": 1, "c": 0, "p": 1.0}
    assert type(result["p"]) is float


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([True], [True, False], "found 1 rows of A but 2 of B"),
        ([], [], "found no rows"),
        ([True], [0.5], r"b_correct\[0\] is 0.5; give True or False"),
        (["yes"], [True], r"a_correct\[0\] is 'yes'"),
    ],
)
def test_mcnemar_says_what_it_found(a, b, message):
    with pytest.raises(ValueError, match=message):
        mcnemar(a, b)


# over_seeds


def test_over_seeds_gives_students_own_example():
    # Student 1908, the additional sleep; R's t.test prints 0.7001142 and 2.4598858.
    sleep = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
    assert over_seeds(sleep) == pytest.approx((1.58, 0.7001142, 2.4598858), abs=1e-7)


@law
@given(st.lists(st.floats(-100, 100), min_size=2, max_size=10), st.floats(0.5, 0.999))
def test_over_seeds_agrees_with_scipy(values, confidence):
    mean, low, high = over_seeds(values, confidence=confidence)
    assert low <= mean <= high
    if max(values) - min(values) > 1e-6:  # scipy warns of lost precision below
        interval = stats.ttest_1samp(values, 0).confidence_interval(confidence)
        assert (low, high) == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_over_seeds_of_equal_results_has_no_width():
    assert over_seeds([0.5, 0.5]) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([0.8], {}, "found 1 results of seeds; an interval needs at least two"),
        ([0.8, math.inf], {}, r"values\[1\] is inf"),
        ([0.8, 0.9], {"confidence": -1}, "confidence is -1"),
    ],
)
def test_over_seeds_says_what_it_found(values, options, message):
    with pytest.raises(ValueError, match=message):
        over_seeds(values, **options)


# holm


@pytest.mark.parametrize(
    ("p_values", "adjusted"),
    [
        # R: p.adjust(p, "holm")
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.2], [0.2]),
    ],
)
def test_holm_gives_the_known_values(p_values, adjusted):
    assert holm(p_values) == pytest.approx(adjusted)


@law
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_keeps_the_order_between_p_and_bonferroni(p_values):
    adjusted = holm(p_values)
    bonferroni = [min(1.0, p * len(p_values)) for p in p_values]
    smallest = min(range(len(p_values)), key=p_values.__getitem__)
    assert all(p <= a for p, a in zip(p_values, adjusted, strict=True))
    assert adjusted[smallest] == bonferroni[smallest]
    assert max(adjusted) <= 1
    ranked = sorted(zip(p_values, adjusted, strict=True))
    assert [a for _, a in ranked] == sorted(adjusted)


@pytest.mark.parametrize(
    ("p_values", "message"),
    [
        ([], "found no p-values"),
        ([0.1, 1.2], r"p_values\[1\] is 1.2; it must be from 0 to 1"),
        ([math.nan], r"p_values\[0\] is nan"),
    ],
)
def test_holm_says_what_it_found(p_values, message):
    with pytest.raises(ValueError, match=message):
        holm(p_values)
