"""When a search has found its n50."""

from __future__ import annotations

import math

import numpy as np

from flatdist.threshold.interval import Interval, interval
from flatdist.threshold.placing import Range
from flatdist.threshold.posterior import search_posterior
from flatdist.threshold.runs import Runs

LEAST_RUNS = 24
ENOUGH = 6  # equal outcomes at one n that settle on which side of it n50 lies: chance 1/64 at n50 itself


def finished(runs: Runs, within: Range, precision: float) -> bool:
    """Whether n50 is known as precisely as requested, or as it can be.

    Either the 95 % interval has a half-width of ``precision`` or less on log n, or it is narrower than one measurement
    or than the gap between two n that may be asked for, or n50 is decided to lie outside the range. The interval
    averages over lapse rates and links, so that neither a lucky streak at large n nor a lapse ends a search early.

    Args:
        runs: of one group so far.
        within: where to search.
        precision: wanted half-width of the interval of log n50.
    """
    if len(runs) < ENOUGH:
        return False
    values = within.values
    if _gap_closed(runs, values):
        return True
    low, high = search_posterior(runs, float(values[0]), float(values[-1])).quantiles((0.025, 0.975))
    decided = runs.success.all() or not runs.success.any() or math.exp(low) > values[-1] or math.exp(high) < values[0]
    if 0.5 * (high - low) > 1.2 * precision and math.exp(high) - math.exp(low) > 1.2 and not decided:
        return False  # the same on a coarser grid, which costs less
    found = interval(runs)
    if found.censored in ("left", "right"):
        return _outside(found, runs, values)
    if len(runs) < LEAST_RUNS:
        return False
    return found.half_width <= precision or found.high - found.low <= 1.0


def _outside(found: Interval, runs: Runs, values: np.ndarray) -> bool:
    """n50 is beyond an end of the range, by enough runs there."""
    end = values[0] if found.censored == "left" else values[-1]
    rounding = 1e-9 * end  # of limits that were logarithms
    beyond = found.high <= end + rounding if found.censored == "left" else found.low >= end - rounding
    return bool(beyond and (runs.n == end).sum() >= ENOUGH)


def _gap_closed(runs: Runs, values: np.ndarray) -> bool:
    """All fail up to one n and all succeed from the next allowed n, with enough runs at both."""
    if runs.success.all() or not runs.success.any():
        return False
    low, high = runs.n[~runs.success].max(), runs.n[runs.success].min()
    enough = min((runs.n == low).sum(), (runs.n == high).sum()) >= ENOUGH
    return bool(enough and low < high and not np.any((values > low) & (values < high)))
