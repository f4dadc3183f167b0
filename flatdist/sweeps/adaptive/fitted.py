"""What the runs of a group say of its n50, and how many more they call for."""

from __future__ import annotations

import math

import numpy as np

from flatdist.sweeps.adaptive.rules import Known, Span
from flatdist.threshold import Range, Runs, finished
from flatdist.threshold.posterior import search_posterior

TYPICAL_SCALE = 0.05  # of the success curve on log n, where nothing is known yet: for forecasts alone
FIRST_RUNS = 16  # that a boundary search spends on finding the transition: for forecasts alone


def runs_of(known: Known) -> Runs:
    """The runs that have a result, in the order in which they were asked for."""
    ended = [run for run in known.asked if run in known.success]
    return Runs(
        np.array([run.n for run in ended], dtype=float), np.array([known.success[run] for run in ended], dtype=bool)
    )


def range_of(span: Span) -> Range:
    """The numbers of measurements as the statistics take them."""
    return Range(span.low, span.high, None if span.allowed is None else np.array(span.allowed))


def half_width(span: Span, known: Known) -> float:
    """Half-width of the interval that holds n50 with probability 95 %, on log n, within the range searched."""
    ends = float(span.values[0]), float(span.values[-1])
    low, high = search_posterior(runs_of(known), *ends).quantiles((0.025, 0.975))
    return 0.5 * float(high - low)


def expected_runs(span: Span, known: Known, precision: float) -> int:
    """About how many more runs n50 needs: its interval narrows as one over the root of their number.

    Runs at n50 of a logistic curve of known scale s on log n leave a half-width of 3.92 s / sqrt(runs); those that
    have to find n50 and s as well leave about 1.5 times that.
    """
    done = len(known.success)
    if done >= FIRST_RUNS:
        return max(1, math.ceil(done * ((half_width(span, known) / precision) ** 2 - 1)))
    return max(1, FIRST_RUNS + math.ceil((6.0 * TYPICAL_SCALE / precision) ** 2) - done)


def is_known(span: Span, known: Known, precision: float) -> bool:
    """Whether n50 is known as precisely as it is wanted, or as it can be."""
    return finished(runs_of(known), range_of(span), precision)
