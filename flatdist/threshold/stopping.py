"""When a search has found its n50."""

from __future__ import annotations

import math

import numpy as np

from flatdist.threshold.interval import Runs, interval
from flatdist.threshold.placing import Range
from flatdist.threshold.posterior import posterior

LEAST_RUNS = 24
ENOUGH = 6  # equal outcomes at one n that settle on which side of it n50 lies: chance 1/64 at n50 itself


def finished(runs: Runs, within: Range, precision: float) -> bool:
    """Whether n50 is known as precisely as it is wanted, or as it can be.

    Either the 95 % interval has a half-width of ``precision`` or less on log n, or no value of n that may be asked for
    lies inside of it, or n50 is decided to lie outside the range.

    The interval is that of the profile likelihood AND that of the posterior: a search looks at it after every round,
    and the first alone would stop when the scale happens to look small.

    Args:
        runs: of one group so far.
        within: where to search.
        precision: wanted half-width of the interval of log n50.
    """
    if len(runs) < ENOUGH:
        return False
    values = within.values
    if _outside(runs, values) or _gap_closed(runs, values):
        return True
    if len(runs) < LEAST_RUNS:
        return False
    low, high = posterior(runs, float(values[0]), float(values[-1])).quantiles((0.025, 0.975))
    if 0.5 * float(high - low) > precision and math.exp(high) - math.exp(low) > 1.0:
        return False
    found = interval(runs)
    return found.half_width <= precision or found.high - found.low <= 1.0


def _outside(runs: Runs, values: np.ndarray) -> bool:
    """All runs at the lowest n succeed, or all at the highest fail, and there are enough of them."""
    n, won, lost = runs.counts()
    at_low, at_high = n == values[0], n == values[-1]
    below = won[at_low].sum() >= ENOUGH and lost.sum() == 0
    above = lost[at_high].sum() >= ENOUGH and won.sum() == 0
    return bool(below or above)


def _gap_closed(runs: Runs, values: np.ndarray) -> bool:
    """All fail up to one n and all succeed from the next that may be asked for, with enough runs at both."""
    if runs.success.all() or not runs.success.any():
        return False
    low, high = runs.n[~runs.success].max(), runs.n[runs.success].min()
    enough = min((runs.n == low).sum(), (runs.n == high).sum()) >= ENOUGH
    return bool(enough and low < high and not np.any((values > low) & (values < high)))
