"""n50 of one group: the same as tables of thresholds report, and what is refused."""

from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest

from flatdist.fits.threshold import fit_thresholds
from flatdist.threshold import Runs, interval
from flatdist.threshold.curves import LINKS
from flatdist.threshold.interval import Fit, _isotonic_deviance, clustering


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


def test_an_n50_beyond_the_measured_n_is_a_bound():
    """The curve crosses one half outside, on whichever side."""
    below = interval(runs({30: (14, 6), 40: (18, 2), 60: (20, 0)}))
    above = interval(runs({30: (0, 20), 40: (2, 18), 60: (6, 14)}))
    assert (below.censored, above.censored) == ("left", "right")
    assert math.isnan(below.n50)
    assert math.isnan(above.n50)
    assert (below.low, above.high) == (0.0, math.inf)
    assert 25 < below.high < 40
    assert 40 < above.low < 75
    assert (below.reason, above.reason) == ("", "success may level off below one half")


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # the few runs at the far end alone would not exclude any n50
        ({20: (0, 30), 40: (0, 1), 80: (0, 1)}, 20, math.inf),
        ({20: (1, 0), 40: (1, 0), 80: (30, 0)}, 0, 80),
    ],
)
def test_one_outcome_bounds_n50_by_the_runs_beyond_it(counts, low, high):
    found = interval(runs(counts))
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_success_that_falls_again_is_said_with_its_place():
    again = interval(runs({20: (0, 20), 30: (20, 0), 40: (20, 0), 60: (0, 20)}))
    assert (again.censored, again.reason) == ("unresolved", "success falls below one half again at n = 60")
    dip = interval(runs({20: (0, 20), 30: (20, 0), 40: (12, 8), 60: (20, 0)}))
    assert (dip.censored, dip.reason) == ("interval", "success falls again from n = 40")
    assert interval(runs({20: (0, 20), 30: (19, 1), 40: (17, 3), 60: (20, 0)})).reason == "", "within chance"
    ties = interval(runs({30: (3, 2), 40: (1, 9)})).reason  # 4 of 199 samples fall as much as these, and 2 more
    assert ties == "the runs do not show that success rises with n"


def test_a_plateau_below_one_half_is_said_with_its_height():
    found = interval(runs({20: (0, 40), 25: (0, 40), 30: (12, 28), 60: (12, 28), 90: (12, 28)}))
    height = re.fullmatch(r"success levels off at (0\.\d+), below one half", found.reason)[1]
    assert (found.censored, float(height)) == ("unresolved", pytest.approx(0.3, abs=0.05))
    sudden = interval(runs({20: (0, 40), 25: (0, 40), 30: (16, 24), 60: (16, 24), 90: (16, 24)}))
    assert sudden.reason == "success levels off at 0.40, below one half"


def test_a_transition_between_two_n_is_no_sharper_than_their_gap():
    """Although a lapse or a lucky run denies that all fail below it and all succeed above."""
    for counts in ({30: (1, 39), 60: (40, 0)}, {20: (0, 40), 30: (1, 39), 60: (34, 6), 80: (34, 6), 100: (34, 6)}):
        found = interval(runs(counts))
        assert (found.censored, found.low, found.high) == ("interval", pytest.approx(30), pytest.approx(60))


def test_the_best_rising_curve_pools_what_falls():
    """Against the likelihoods of pooled shares, by hand."""
    won, total = np.array([[1, 5, 9], [6, 2, 9]]), np.array([10, 10, 10])
    deviance, rising = _isotonic_deviance(won, total)
    np.testing.assert_allclose(rising, [[0.1, 0.5, 0.9], [0.4, 0.4, 0.9]])

    def likelihood(shares):
        return sum(w * math.log(p) + (10 - w) * math.log(1 - p) for w, p in zip((6, 2, 9), shares, strict=True))

    wanted = 2 * (likelihood((0.6, 0.2, 0.9)) - likelihood((0.4, 0.4, 0.9)))
    np.testing.assert_allclose(deviance, [0.0, wanted], atol=1e-12)


def test_a_curve_that_fits_is_told_from_one_that_does_not():
    counts = {30: (1, 39), 36: (8, 32), 43: (25, 15), 52: (36, 4), 62: (40, 0)}
    good = interval(runs(counts), details=True)
    poor = interval(runs(counts | {30: (0, 40), 36: (20, 20), 43: (20, 20), 52: (20, 20)}), details=True)
    assert good.fit_p > 0.3 > 0.02 > poor.fit_p


def test_the_widths_limits_narrow_with_their_level():
    counts = runs({30: (1, 39), 36: (8, 32), 43: (25, 15), 52: (36, 4), 62: (40, 0)})
    wide, half = (interval(counts, details=True, level=level) for level in (0.95, 0.5))
    assert wide.width_low < half.width_low <= half.width <= half.width_high < wide.width_high
    ratio = math.log(half.width_high / half.width_low) / math.log(wide.width_high / wide.width_low)
    assert 0.25 < ratio < 0.5, "of a normal 0.344"


def test_independent_runs_are_not_found_to_be_clustered():
    """One run a replicate: the scores' variance is the information, and Student's quantile remains."""
    given = runs({30: (2, 38), 36: (8, 32), 43: (25, 15), 52: (36, 4), 62: (38, 2)})
    labelled = Runs(given.n, given.success, np.arange(len(given)))
    assert clustering(labelled, Fit(given.observations(), LINKS, 0.95), 0.95) == pytest.approx(1.0, abs=0.2)
    twice = Runs(np.tile(given.n, 2), np.tile(given.success, 2), np.tile(np.arange(len(given)), 2))
    factor = clustering(twice, Fit(twice.observations(), LINKS, 0.95), 0.95)
    assert factor == pytest.approx(2.0, abs=0.4), "every run counted twice"


@pytest.mark.parametrize("lapse", [False, True])
def test_the_other_n50_is_that_of_the_next_likeliest_link(lapse):
    counts = {30: (1, 39), 36: (8, 32), 43: (25, 15), 52: (36, 4), 62: (40, 0), 75: (40, 0)}
    if lapse:
        counts |= {62: (34, 6), 75: (34, 6), 90: (34, 6), 110: (34, 6)}
    given = runs(counts)
    found = interval(given, details=True)
    alone = {link: interval(given, link=link).n50 for link in LINKS if link != found.link}
    nearest = min(abs(math.log(found.other / n50)) for n50 in alone.values())
    assert nearest < 0.02  # a point of the posterior's grid beside the mean over the same link's curves
    assert (found.lapse > 0.1) == lapse
    assert math.isnan(interval(given, link="logit", details=True).other)
