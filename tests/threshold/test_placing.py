"""Where runs are placed: inside the range, around n50 and on both sides of it, and the same every time."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from flatdist.threshold import Runs, interval, place, round_size
from flatdist.threshold.curves import probabilities, rise
from flatdist.threshold.placing import ASIDE, _flattened, _spread
from flatdist.threshold.posterior import search_posterior

NOTHING = Runs(np.array([]), np.array([]))


def simulated(n50, scale, count, seed=0, low=22, high=144):
    """Runs at random n."""
    generator = np.random.default_rng(seed)
    n = generator.integers(low, high + 1, size=count)
    return Runs(n, generator.random(count) < special.expit(np.log(n / n50) / scale))


def test_the_first_round_spreads_over_the_range():
    first = place(NOTHING, np.arange(22, 145), 8)
    assert len(np.unique(first)) >= 6
    assert first.min() < 45 < 55 < first.max()


def test_later_rounds_gather_on_both_sides_of_the_threshold():
    runs = simulated(60.0, 0.05, 200)
    n, estimate = place(runs, np.arange(22, 145), 40), interval(runs).n50
    assert np.all((n > 60 * np.exp(-6 * 0.05)) & (n < 60 * np.exp(6 * 0.05)))
    assert (n < estimate).sum() >= 8
    assert (n > estimate).sum() >= 8


def test_placing_leaves_less_variance_than_runs_elsewhere():
    """Against the exact expectation over both outcomes of one run, at every n of the range."""
    runs, within = simulated(60.0, 0.1, 60), np.arange(22, 145)
    believed = search_posterior(runs, 22.0, 144.0)
    shape, log_n = believed.weight.shape, np.log(within)
    width = np.broadcast_to(believed.width[:, None], shape)
    center = np.broadcast_to(believed.center, shape)
    chance = np.stack(
        [
            (1.0 - believed.lapses[:, None, None, None])
            * probabilities(link, (log_n - center[k][..., None]) / (width[k][..., None] / rise(link)))[0]
            for k, link in enumerate(believed.links)
        ]
    ).reshape(-1, len(log_n))
    weight, points = believed.weight.ravel(), (believed.log_n50.ravel(), width.ravel() / rise("logit"))

    def spread(weight):
        weight = weight / weight.sum()
        return sum(weight @ v**2 - (weight @ v) ** 2 for v in points)

    expected = [sum((weight @ p) * spread(weight * p) for p in (column, 1.0 - column)) for column in chance.T]
    chosen = place(runs, within, 1)[0]
    assert expected[chosen - 22] <= min(expected) + 1e-3 * (max(expected) - min(expected))


def test_moments_are_those_of_two_points_of_each_curve():
    """log n50 - scale and log n50 + scale: their mean square is that of log n50 and of the scale together."""
    believed = search_posterior(simulated(60.0, 0.1, 40), 22.0, 144.0)
    success, moments, log_weight = _flattened(believed, np.log([40.0, 60.0]))
    one, center, aside, square = moments.T
    weight = np.exp(log_weight) / np.exp(log_weight).sum()
    assert success.shape == (len(weight), 2)
    np.testing.assert_array_equal(one, 1.0)
    assert weight @ center == pytest.approx(0.0, abs=1e-9)
    assert set(np.round(aside, 12)) <= set(np.round(ASIDE * believed.width, 12))
    np.testing.assert_allclose(square, 0.5 * ((center - aside) ** 2 + (center + aside) ** 2))
    variance = sum(weight @ v**2 - (weight @ v) ** 2 for v in (center, aside))
    assert _spread((weight[:, None] * moments).sum(axis=0)[None])[0] == pytest.approx(variance)


@pytest.mark.parametrize(("success", "end"), [(True, 22), (False, 144)])
def test_one_outcome_everywhere_sends_runs_to_the_end_of_the_range(success, end):
    n = place(Runs(np.array([30, 60, 90, 120]), np.full(4, success)), np.arange(22, 145), 8)
    assert (n == end).sum() >= 2


def test_the_order_of_runs_does_not_matter():
    runs = simulated(60.0, 0.1, 50)
    shuffled = np.random.default_rng(1).permutation(50)
    np.testing.assert_array_equal(
        place(runs, np.arange(22, 145), 20),
        place(Runs(runs.n[shuffled], runs.success[shuffled]), np.arange(22, 145), 20),
    )


def test_allowed_values_and_their_room_are_kept():
    within = np.array([30, 45, 60, 75, 144])
    room = np.array([5, 1, 2, 1, 0])
    n = place(simulated(60.0, 0.1, 50), within, 6, room=room)
    assert len(n) == 6
    assert all((n == value).sum() <= most for value, most in zip(within, room, strict=True))
    assert len(place(NOTHING, within, 30, room=room)) == 9
    assert len(place(NOTHING, within, 30, room=np.zeros(5, dtype=int))) == 0


def test_a_range_of_one_value_can_be_asked_for():
    np.testing.assert_array_equal(place(NOTHING, np.arange(5, 6), 3), [5, 5, 5])


def test_a_transition_sharper_than_a_measurement_is_not_missed():
    n = np.repeat([60, 61], 10)
    believed = search_posterior(Runs(n, n == 61), 22.0, 144.0)
    low, high = np.exp(believed.quantiles((0.025, 0.975)))
    assert 59.5 < low < high < 61.5


def test_rounds_grow_with_what_is_done():
    assert [round_size(done) for done in (0, 8, 40, 41, 200)] == [8, 8, 10, 11, 50]


def test_room_must_fit_the_range():
    with pytest.raises(ValueError, match="room has shape"):
        place(NOTHING, np.arange(3, 6), 2, room=np.array([1, 1]))


def test_without_room_around_n50_the_nearest_n_are_taken():
    within, known = np.arange(1, 401), simulated(200.0, 0.02, 300, low=150, high=260)
    room = np.where((within < 150) | (within > 260), 1, 0)
    chosen = place(known, within, 4, room=room)
    assert len(chosen) == 4
    assert np.all((chosen > 100) & (chosen < 330))
