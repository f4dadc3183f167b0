"""When a search stops, and whether what it reports then is true."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
from scipy import special

from flatdist.threshold import Runs, finished, interval, place, round_size

WITHIN = np.arange(22, 145)
SEARCHES = 40
PRECISION = 0.03


def runs(counts):
    """From {n: (successes, failures)}."""
    n = [value for value, (won, lost) in counts.items() for _ in range(won + lost)]
    return Runs(np.array(n), np.array([one for won, lost in counts.values() for one in [True] * won + [False] * lost]))


def search(n50, scale, seed, within=WITHIN, precision=PRECISION, budget=400):
    """One search to its end."""
    generator = np.random.default_rng(seed)
    found = Runs(np.array([]), np.array([]))
    while not finished(found, within, precision) and len(found) < budget:
        n = place(found, within, min(round_size(len(found)), budget - len(found)))
        success = generator.random(len(n)) < special.expit(np.log(n / n50) / scale)
        found = Runs(np.append(found.n, n), np.append(found.success, success))
    return found


@functools.cache
def searches():
    return [(44.1 + 0.01 * seed, search(44.1 + 0.01 * seed, 0.066, seed)) for seed in range(SEARCHES)]


def test_the_final_interval_covers():
    covered = 0
    for n50, found in searches():
        ends = interval(found)
        covered += ends.low <= n50 <= ends.high
    # 38 of 40 are expected; fewer than 34 have a chance of 1 in 70 at 95 %, and of 6 in 10 at 80 %.
    assert covered >= 34


def test_the_final_estimate_is_unbiased():
    assert abs(np.median([interval(found).n50 / n50 for n50, found in searches()]) - 1.0) < 0.01


def test_every_search_ends_with_the_precision_asked_for():
    assert all(interval(found).half_width <= PRECISION for _, found in searches())


def test_a_search_needs_a_quarter_of_the_runs_of_a_uniform_grid():
    widths, taken = zip(*((interval(found).half_width, len(found)) for _, found in searches()), strict=True)
    values = np.unique(np.rint(np.geomspace(22, 144, 24)))
    replicates = math.ceil(4.0 * np.mean(taken) / len(values))
    grid = []
    for n50, _ in searches()[:25]:
        won = np.random.default_rng(int(100 * n50)).binomial(replicates, special.expit(np.log(values / n50) / 0.066))
        grid.append(interval(runs({n: (w, replicates - w) for n, w in zip(values, won, strict=True)})).half_width)
    assert np.median(widths) <= np.median(grid)


def test_a_search_is_the_same_every_time():
    again = search(44.1, 0.066, 0)
    np.testing.assert_array_equal(again.n, searches()[0][1].n)


@pytest.mark.parametrize(("n50", "censored"), [(12.0, "left"), (300.0, "right")])
def test_a_transition_outside_the_range_is_found_to_be_so(n50, censored):
    found = search(n50, 0.066, 0)
    assert len(found) < 60
    assert interval(found).censored == censored


def test_a_transition_sharper_than_a_measurement_ends_the_search_sensibly():
    found = search(60.4, 1e-4, 0, precision=1e-3)
    ends = interval(found)
    assert len(found) < 60
    assert ends.censored == "interval"
    assert 59.9 < ends.low <= 60.4 <= ends.high < 61.1


def test_allowed_values_on_either_side_of_the_transition_are_as_far_as_a_search_gets():
    within = np.array([22, 40, 60, 90, 144])
    found = search(50.0, 1e-3, 0, within, precision=0.01)
    assert len(found) < 100
    assert interval(found).low < 50.0 < interval(found).high


@pytest.mark.parametrize(
    "counts",
    [
        {},
        {44: (1, 0)},
        {44: (0, 4), 45: (4, 0)},  # 4 equal outcomes are no proof: at n50 itself they come by chance in 1 of 16
        {22: (5, 0), 60: (9, 0)},
        {22: (8, 4), 60: (9, 0)},
        {30: (0, 20), 60: (20, 0)},
        {40: (10, 10), 50: (10, 10)},
    ],
)
def test_a_search_goes_on_where_little_is_known(counts):
    assert not finished(runs(counts), WITHIN, 0.03)


@pytest.mark.parametrize(
    "counts",
    [
        {22: (8, 0)},
        {22: (6, 0)},
        {144: (0, 6)},
        {22: (30, 1), 60: (9, 0)},
        {60: (0, 5), 144: (0, 8)},
        {44: (0, 10), 45: (10, 0)},
    ],
)
def test_a_search_ends_where_no_run_can_say_more(counts):
    assert finished(runs(counts), WITHIN, 0.0001)


def test_an_interval_within_one_measurement_is_as_far_as_a_search_gets():
    counts = runs({2: (10, 30), 3: (30, 10)})
    assert interval(counts).half_width > 0.1
    assert finished(counts, np.arange(1, 31), 0.0001)


def test_a_search_is_not_believed_before_it_has_24_runs():
    """Whatever precision is asked for: so few outcomes are precise by luck."""
    few = {30: (0, 5), 40: (3, 3), 44: (2, 1), 60: (9, 0)}
    assert len(runs(few)) == 23
    assert not finished(runs(few), WITHIN, 0.9)
    assert finished(runs(few | {60: (10, 0)}), WITHIN, 0.9)


@pytest.mark.parametrize("counts", [{36: (1, 11), 44: (9, 11), 54: (12, 1)}, {40: (3, 15), 48: (14, 4), 60: (10, 0)}])
def test_the_reported_interval_has_the_last_word(counts):
    """A coarse posterior says when to look; the search ends by the interval that is reported."""
    half_width = interval(runs(counts)).half_width
    assert not finished(runs(counts), WITHIN, 0.98 * half_width)
    assert finished(runs(counts), WITHIN, 1.02 * half_width)
