"""n50 of one group: the same as tables of thresholds report, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from flatdist.fits.threshold import fit_thresholds
from flatdist.threshold import Runs, interval


def runs(counts):
    """From {n: (successes, failures)}."""
    n = [value for value, (won, lost) in counts.items() for _ in range(won + lost)]
    success = [one for won, lost in counts.values() for one in [True] * won + [False] * lost]
    return Runs(np.array(n), np.array(success))


@pytest.mark.parametrize(
    "counts",
    [
        {30: (1, 7), 40: (4, 4), 55: (7, 1)},
        {30: (0, 5), 40: (5, 0)},
        {30: (0, 5), 40: (0, 5)},
        {30: (5, 0), 40: (5, 0)},
        {30: (8, 0)},
        {30: (0, 8)},
        {30: (1, 1)},
        {30: (7, 1), 40: (1, 7)},
        {40: (1, 5), 50: (3, 3), 51: (2, 4), 70: (6, 0)},
    ],
)
def test_an_interval_is_that_of_the_table_of_thresholds(counts):
    given = runs(counts)
    table = fit_thresholds(
        pd.DataFrame(
            {"n": given.n, "replicate": range(len(given)), "relative_error": np.where(given.success, 1e-9, 1.0), "g": 0}
        ),
        by="g",
        tolerance=1e-2,
    ).iloc[0]
    found = interval(given)
    assert found.censored == table["censored"]
    np.testing.assert_allclose([found.n50, found.low, found.high], table[["n50", "n50_low", "n50_high"]].astype(float))


def test_half_width_is_on_the_logarithm_of_n():
    found = interval(runs({30: (1, 7), 40: (4, 4), 55: (7, 1)}))
    assert found.half_width == pytest.approx(0.5 * (math.log(found.high) - math.log(found.low)))
    assert interval(runs({30: (8, 0)})).half_width == math.inf


def test_no_runs_say_nothing():
    found = interval(Runs(np.array([]), np.array([])))
    assert (found.low, found.high, found.censored) == (0.0, math.inf, "unresolved")
    assert math.isnan(found.n50)


@pytest.mark.parametrize(
    ("n", "success", "message"),
    [([1, 2], [True], "one entry per run"), ([0, 2], [True, False], "positive"), ([1, 2], [0.5, 1], "true or false")],
)
def test_bad_runs_are_refused(n, success, message):
    with pytest.raises(ValueError, match=message):
        Runs(np.array(n), np.array(success))
