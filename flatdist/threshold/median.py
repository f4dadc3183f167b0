"""The median of a few values and its distribution-free interval: the one rule of searches, tables and figures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from typing import NamedTuple

LEAST = 6  # values; even the extremes of fewer enclose the median less often than 95 %


class Median(NamedTuple):
    """A median with its interval."""

    median: float  # infinite values are sorted as such; NaN without values
    low: float  # an order statistic; infinite if there are too few values at this level
    high: float
    coverage: float  # probability that the limits enclose the median, whatever the distribution; 1 if infinite


def median_interval(values: Iterable[float], level: float = 0.95) -> Median:
    """The median, and the narrowest pair of order statistics that encloses it with this confidence; NaN are left out.

    The k-th smallest and k-th largest of m values do so with probability 1 - 2 P(Binomial(m, 1/2) < k).

    >>> median_interval([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    Median(median=3.5, low=1.0, high=6.0, coverage=0.96875)
    >>> median_interval([3.0, 1.0, 2.0]).high
    inf
    """
    ordered = sorted(value for value in values if not math.isnan(value))
    count = len(ordered)
    if not count:
        return Median(math.nan, -math.inf, math.inf, 1.0)
    lower, upper = ordered[(count - 1) // 2], ordered[count // 2]
    middle = lower if lower == upper else 0.5 * (lower + upper)
    # The chances that the median is beyond the smallest value, the two smallest, ...
    tails = itertools.accumulate(math.comb(count, beyond) * 0.5**count for beyond in range((count + 1) // 2))
    allowed = [tail for tail in tails if 2.0 * tail <= 1.0 - level]
    if not allowed:
        return Median(middle, -math.inf, math.inf, 1.0)
    return Median(middle, ordered[len(allowed) - 1], ordered[-len(allowed)], 1.0 - 2.0 * allowed[-1])


def few_words(counts: Iterable[int], level: float = 0.95) -> list[str]:
    """A remark if some medians have too few values for an interval; none if all have enough."""
    text = f"fewer than {LEAST} replicates cannot bound a median at {100 * level:.0f} %: their intervals are infinite"
    return [text] if any(count < LEAST for count in counts) else []
