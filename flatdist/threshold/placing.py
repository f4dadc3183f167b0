"""Searching n50: where the next runs narrow it most, and when it is found."""

from __future__ import annotations

import math

import numpy as np

from flatdist.threshold.curves import Runs, probabilities, rise
from flatdist.threshold.interval import interval
from flatdist.threshold.posterior import Posterior, search_posterior

FIRST_ROUND = 8
GROWTH = 0.25
CANDIDATES = 48
CHOICES = 10  # different decisions a round; larger rounds put several runs where one was decided on
ASIDE = 1.0 / rise("logit")  # the curve's points at n50 and this many widths to either side are to be known
LEAST_RUNS = 24  # of a search that is believed
ENOUGH = 6  # equal outcomes at one n that settle on which side of it n50 lies: chance 1/64 at n50 itself
LIKELY = 1e-4  # curves of less weight, relative to the likeliest, are left out


def round_size(done: int) -> int:
    """How many runs to request next, given how many there are: a few at first, then a quarter of them."""
    return max(FIRST_ROUND, math.ceil(GROWTH * done))


def place(runs: Runs, values: np.ndarray, count: int, *, room: np.ndarray | None = None) -> np.ndarray:
    """The n of the next runs, which minimise the expected posterior variance of the curve around n50.

    They are chosen one after another, each with its predicted shares of success and failure as the outcome before the
    next is chosen. What is minimised is the mean variance of two points of the curve, log n50 +- scale, which is
    Var(log n50) + Var(scale): n50 is not identifiable without the scale.

    Args:
        runs: of one group so far; there may be none.
        values: (v,) the n that may be measured, increasing; the search is between its ends.
        count: how many runs.
        room: (v,) how many more runs each of them may get; None for any number.

    Returns:
        (count,) increasing; fewer where there is no more room. The same for the same arguments.
    """
    left = np.full(len(values), count) if room is None else np.asarray(room, dtype=np.int64).copy()
    if left.shape != values.shape:
        raise ValueError(f"room has shape {left.shape}, but there are {len(values)} values of n")
    count = min(count, int(np.maximum(left, 0).sum()))
    believed = search_posterior(runs, float(values[0]), float(values[-1]))
    chosen: list[int] = []
    while len(chosen) < count:
        candidates = _candidates(believed, values, left)
        chosen += _greedy(believed, values, candidates, left, count - len(chosen), max(1, count // CHOICES))
    return np.sort(np.array(chosen, dtype=np.int64))


def _candidates(believed: Posterior, values: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Indices of values with an uncertain outcome, thinned; the nearest ones if there is no room among those."""
    low, high = believed.quantiles((0.005, 0.995))
    width = float(believed.weight.sum(axis=(0, 1, 3)) @ believed.width)
    reach = 0.7 * width
    log_n = np.log(values)
    free = np.flatnonzero(left > 0)
    inside = free[(log_n[free] >= low - reach) & (log_n[free] <= high + reach)]
    if len(inside) == 0:
        distance = np.maximum(low - log_n[free], log_n[free] - high)
        return np.asarray(free[np.argsort(distance, kind="stable")[:CANDIDATES]])
    if len(inside) <= CANDIDATES:
        return np.asarray(inside)
    wanted = np.linspace(log_n[inside[0]], log_n[inside[-1]], CANDIDATES)
    return np.unique(inside[np.abs(log_n[inside] - wanted[:, None]).argmin(axis=1)])


def _greedy(
    believed: Posterior, values: np.ndarray, candidates: np.ndarray, left: np.ndarray, count: int, at_once: int
) -> list[int]:
    """Up to ``count`` choices among the candidates; ``left`` is reduced by what is chosen."""
    success, moments, log_weight = _flattened(believed, np.log(values[candidates]))
    chosen: list[int] = []
    while len(chosen) < count and np.any(left[candidates] > 0):
        weight = np.exp(log_weight - log_weight.max())
        weighted = (weight / weight.sum())[:, None] * moments
        total = weighted.sum(axis=0)  # (4,)
        won = success.T @ weighted  # (c, 4)
        expected = _spread(won) + _spread(total - won)
        expected[left[candidates] <= 0] = np.inf
        best = int(np.argmin(expected))
        times = min(at_once, count - len(chosen), int(left[candidates[best]]))
        likely = won[best, 0]
        chance = np.clip(success[:, best], 1e-12, 1.0 - 1e-12)
        log_weight += times * (likely * np.log(chance) + (1.0 - likely) * np.log1p(-chance))
        left[candidates[best]] -= times
        chosen += [int(values[candidates[best]])] * times
    return chosen


def _flattened(believed: Posterior, log_n: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The likely curves: chance of success at each candidate (g, c), moments (g, 4), and log-weights (g,)."""
    weight = believed.weight
    kept = weight > LIKELY * weight.max()
    success = []
    for place, link in enumerate(believed.links):
        lapse, width, center = np.nonzero(kept[place])
        scale = believed.width[width] / rise(link)
        argument = (log_n - believed.center[center][:, None]) / scale[:, None]
        success.append((1.0 - believed.lapses[lapse][:, None]) * probabilities(link, argument)[0])
    center = believed.log_n50[kept]
    center = center - float(np.average(center, weights=weight[kept]))
    aside = ASIDE * np.broadcast_to(believed.width[:, None], weight.shape)[kept]
    moments = np.stack((np.ones_like(center), center, aside, center**2 + aside**2), axis=1)
    return np.concatenate(success), moments, np.log(weight[kept])


def _spread(moments: np.ndarray) -> np.ndarray:
    """Probability of an outcome times the variance after it, (c,), from moments weighted by it, (c, 4)."""
    mass = np.maximum(moments[:, 0], 1e-300)
    return np.asarray(moments[:, 3] - (moments[:, 1] ** 2 + moments[:, 2] ** 2) / mass)


def finished(runs: Runs, values: np.ndarray, precision: float) -> bool:
    """Whether n50 is known as precisely as requested, or as it can be, where these n, (v,) increasing, may be measured.

    Either the 95 % interval has a half-width of ``precision`` or less on log n, or it is narrower than one measurement
    or than the gap between two n that may be asked for, or n50 is decided to lie outside the range. The interval
    averages over lapse rates and links, so that neither a lucky streak at large n nor a lapse ends a search early.
    """
    if len(runs) < ENOUGH:
        return False
    one_sided = runs.success.all() or not runs.success.any()
    if not one_sided and _gap_closed(runs, values):
        return True
    low, high = np.exp(search_posterior(runs, float(values[0]), float(values[-1])).quantiles((0.025, 0.975)))
    decided = one_sided or low > values[-1] or high < values[0]
    if 0.5 * math.log(high / low) > 1.2 * precision and high - low > 1.2 and not decided:
        return False  # the same on a coarser grid, which costs less
    found = interval(runs)
    if found.censored in ("left", "right"):  # beyond an end of the range, by enough runs there
        end = values[0] if found.censored == "left" else values[-1]
        rounding = 1e-9 * end  # of limits that were logarithms
        beyond = found.high <= end + rounding if found.censored == "left" else found.low >= end - rounding
        return bool(beyond and (runs.n == end).sum() >= ENOUGH)
    return len(runs) >= LEAST_RUNS and (found.half_width <= precision or found.high - found.low <= 1.0)


def _gap_closed(runs: Runs, values: np.ndarray) -> bool:
    """All fail up to one n and all succeed from the next allowed n, with enough runs at both."""
    low, high = runs.n[~runs.success].max(), runs.n[runs.success].min()
    enough = min((runs.n == low).sum(), (runs.n == high).sum()) >= ENOUGH
    return bool(enough and low < high and not np.any((values > low) & (values < high)))
