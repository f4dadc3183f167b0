"""Success curves and the likelihood of what was observed, against sums over single outcomes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from flatdist.methods import METHODS
from flatdist.threshold.curves import LINKS, Observations, Runs, crossing, curve, probabilities, quantile, rise
from flatdist.threshold.median import LEAST, few_words, median_interval
from flatdist.threshold.posterior import FINE, Posterior, _peak, posterior
from flatdist.threshold.recovery import default_tolerance, recovered

VALUES = np.log([20.0, 30.0, 45.0, 60.0])


@pytest.mark.parametrize("link", LINKS)
def test_a_link_and_its_inverse(link):
    for chance in (0.01, 0.1, 0.5, 0.9, 0.99):
        below, beyond = probabilities(link, np.array([quantile(link, chance)]))
        assert below[0] == pytest.approx(chance, rel=1e-9)
        assert beyond[0] == pytest.approx(1.0 - chance, rel=1e-9)
    assert rise(link) == pytest.approx(quantile(link, 0.9) - quantile(link, 0.1))


@pytest.mark.parametrize(("link", "side"), [("logit", -1), ("logit", 1), ("cloglog", -1), ("loglog", 1)])
def test_tails_are_not_rounded_away(link, side):
    tails = probabilities(link, np.array([side * 400.0]))
    assert tails[side > 0][0] == pytest.approx(math.exp(-400.0), rel=1e-9, abs=0.0)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_gap_far_out_in_a_tail_keeps_its_likelihood(side):
    """exp(-50) - exp(-60), which 1 - exp(-50) is too close to 1 for."""
    values = np.array([50.0, 60.0]) if side > 0 else np.array([-60.0, -50.0])
    seen = Observations(values, np.zeros(2), np.zeros(2), np.array([0]), np.array([1]), np.array([1.0]))
    height = seen.heights("logit", np.zeros(1), np.ones(1), np.zeros(1))
    assert height.item() == pytest.approx(math.log(math.exp(-50) - math.exp(-60)), rel=1e-9)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("lapse", [0.0, 0.2, 0.45])
def test_a_curve_is_one_half_at_n50_whatever_the_lapse(link, lapse):
    n = np.array([30.0, 40.0, 50.0])
    heights = curve(link, n, 40.0, 0.1, lapse)
    assert heights[1] == pytest.approx(0.5, abs=1e-12)
    assert heights[0] < 0.5 < heights[2] < 1.0 - lapse + 1e-12
    assert curve(link, np.array([1e9]), 40.0, 0.1, lapse)[0] == pytest.approx(1.0 - lapse)


def test_a_lapse_of_one_half_or_more_has_no_crossing():
    assert crossing("logit", 0.0) == 0.0
    for lapse in (0.5, 0.7, 1.0):
        assert crossing("logit", lapse) == math.inf


@pytest.mark.parametrize("link", LINKS)
def test_the_likelihood_is_the_sum_over_outcomes(link):
    """Successes, failures, and thresholds known from both sides."""
    center, scale = np.array([3.3, 3.6]), np.array([0.2, 0.3])
    won, lost = np.array([0.0, 1.0, 3.0, 5.0]), np.array([4.0, 2.0, 1.0, 0.0])
    seen = Observations(VALUES, won, lost, np.array([0, 1]), np.array([1, 3]), np.array([2.0, 1.0]))
    lapses = np.array([0.0, 0.1])
    heights = seen.heights(link, center, scale, lapses)
    for i, lapse in enumerate(lapses):
        for j in range(2):
            below = probabilities(link, (VALUES - center[j]) / scale[j])[0]
            expected = won @ np.log((1 - lapse) * below) + lost[:3] @ np.log(1 - (1 - lapse) * below[:3])
            for above, until, count in ((0, 1, 2), (1, 3, 1)):
                expected += count * math.log((1 - lapse) * (below[until] - below[above]))
            assert heights[i, j] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("trials", [True, False])
def test_chances_of_all_outcomes_add_up(trials):
    seen = Observations(VALUES, np.ones(4), np.ones(4))
    chances = seen.chances("cloglog", np.array([3.5]), np.array([0.2]), np.array([0.1]), trials=trials)
    if trials:
        assert chances.shape == (1, 8)
        np.testing.assert_allclose(chances[0, :4] + chances[0, 4:], 1.0)
        np.testing.assert_allclose(chances[0, :4], curve("cloglog", np.exp(VALUES), math.exp(3.5 + 0.2 * crossing(
            "cloglog", 0.1)), 0.2, 0.1))  # fmt: skip
    else:
        assert chances.shape == (1, 5)
        assert chances.sum() == pytest.approx(1.0)


def test_outcomes_are_counted_only_where_chances_are_of_them():
    seen = Observations(VALUES, np.array([1.0, 0, 0, 0]), np.array([0, 0, 0, 2.0]), np.array([0, 2]), np.array([1, 3]),
                        np.array([3.0, 4.0]))  # fmt: skip
    assert seen.outcomes(trials=False).tolist() == [1, 3, 0, 4, 2]
    assert seen.outcomes(trials=True).tolist() == [1, 0, 0, 0, 0, 0, 0, 2]
    for holes in (
        Observations(VALUES, np.array([0, 1.0, 0, 0]), np.zeros(4)),
        Observations(VALUES, np.zeros(4), np.array([0, 0, 1.0, 0])),
        Observations(VALUES, np.zeros(4), np.zeros(4), np.array([0]), np.array([2]), np.array([1.0])),
    ):
        assert holes.outcomes(trials=False) is None


def test_the_posterior_knows_the_likelihood_at_the_ends_of_its_range():
    seen = Observations(VALUES, np.array([0.0, 1, 3, 9]), np.array([8.0, 7, 5, 1]))
    ends, widths = (2.5, 4.6), (0.5, 2.0)
    curves = np.array(ends), np.geomspace(*widths, 9)[:, None] / rise("logit")
    heights = seen.heights("logit", *curves, np.array(FINE.lapses[::2]))  # (l, w, 2)
    found = posterior(seen, ends, widths, links=("logit",))
    np.testing.assert_allclose(found.edges, heights.max(axis=(0, 1)), rtol=1e-12)


def test_quantiles_over_a_wide_range_are_as_fine_as_its_thousandth():
    center = np.linspace(0.0, 1.0, 5001)
    heights, prior = np.zeros((1, 1, 1, 5001)), np.zeros((1, 1, 1, 1))
    flat = Posterior(("logit",), center, np.ones(1), np.zeros(1), heights, prior, (0.0, 0.0))
    shares = (0.001, 0.5, 0.999)
    np.testing.assert_allclose(flat.quantiles_of(flat.log_n50, 1e-5, shares), shares, atol=1e-3)


def test_a_peak_is_the_parabolas_or_the_end():
    place, height = _peak(np.array([[1.0, 4.0, 3.0], [0.0, 0.9, 1.0], [1.0, 0.9, 0.0]]))
    np.testing.assert_allclose(place, [1.25, 2.0, 0.0])
    assert height[0] == pytest.approx(4.125)


def test_runs_say_between_which_n_thresholds_lie():
    first = Runs(np.array([20, 30, 20]), np.array([0, 1, 0]), np.array([7, 7, 8])).observations()
    assert (first.above.tolist(), first.until.tolist(), first.lost.tolist()) == ([0], [1], [1, 0])
    n, success = [20, 30, 45, 20, 30, 45, 20, 30], [0, 0, 1, 1, 1, 1, 0, 0]
    runs = Runs(np.array(n), np.array(success), np.array([7, 7, 7, 8, 8, 8, 9, 9]))
    above, until = runs.bounds()
    assert above.tolist() == [1, -1, 1]
    assert until.tolist() == [2, 0, 3]
    seen = runs.observations()
    assert (seen.won.tolist(), seen.lost.tolist(), seen.count.tolist()) == ([1, 0, 0], [0, 1, 0], [1])
    assert (seen.above.tolist(), seen.until.tolist()) == ([1], [2])
    assert not seen.one_sided
    assert seen.gap is None  # one fails at 30 and another succeeds at 20
    single = Runs(np.array([30, 20, 45, 20]), np.array([0, 0, 1, 0])).observations()
    assert single.gap == pytest.approx((math.log(30), math.log(45)))
    assert Runs(np.array([20, 30]), np.array([1, 0]), np.array([1, 1])).bounds() is None  # fails after a success
    assert Runs(np.array([30, 20]), np.array([0, 0])).observations().one_sided
    assert Runs(np.array([30, 20]), np.array([1, 1])).observations().one_sided


@pytest.mark.parametrize("count", [1, 5, 6, 7, 12, 20, 33])
def test_the_interval_of_a_median_is_the_narrowest_that_is_sure_enough(count):
    values = [float(v) for v in range(1, count + 1)]
    found = median_interval([*reversed(values), math.nan])
    assert found.median == (count + 1) / 2
    sure = [
        k for k in range(1, count // 2 + 1) if 1 - 2 * sum(math.comb(count, i) for i in range(k)) / 2**count >= 0.95
    ]
    assert bool(sure) == (count >= LEAST)
    if sure:
        k = max(sure)
        assert (found.low, found.high) == (values[k - 1], values[count - k])
        assert found.coverage == pytest.approx(1 - 2 * sum(math.comb(count, i) for i in range(k)) / 2**count)
    else:
        assert (found.low, found.high, found.coverage) == (-math.inf, math.inf, 1.0)


def test_medians_of_infinite_and_of_no_values():
    assert median_interval([math.inf] * 7 + [1.0]).median == math.inf
    nothing = median_interval([])
    assert math.isnan(nothing.median)
    assert nothing[1:] == (-math.inf, math.inf, 1.0)
    assert few_words([6, 7]) == []
    assert "at 90 %" in few_words([6, 5], 0.9)[0]


def test_what_counts_as_recovered():
    assert recovered(0.0099, "converged", 0.01)
    assert recovered(0.0099, None, 0.01)
    for error, status in (
        (0.01, "converged"),
        (0.001, "diverged"),
        (None, "converged"),
        (math.nan, None),
        (-math.inf, None),
    ):
        assert not recovered(error, status, 0.01)
    assert default_tolerance("min_nuclear_norm") == METHODS["min_nuclear_norm"].tolerance
    assert default_tolerance("somebody's") == METHODS["label_noise_sgd"].tolerance
