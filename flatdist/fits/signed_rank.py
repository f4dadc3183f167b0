"""Paired differences without a distribution: Wilcoxon's signed-rank test, exact with ties, and its interval.

If two distributions are the same, exchanging a pair changes nothing, so each difference is as likely positive as
negative; given the sizes of the differences, the test is then exact, whatever the distribution. (scipy's is not exact
with ties, which shares of success always have; beyond the sizes where that matters it is scipy's.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

_MOST_EXACT = 150  # differences; beyond, the normal approximation is as good
_MOST_AVERAGED = 3000  # differences; beyond, their averages take too much memory


@dataclass(frozen=True)
class SignedRank:
    """The test's outcome.

    Attributes:
        p_value: two-sided.
        smallest: the smallest p-value that differences of these sizes could have had, 2^(1-k) with k of them not 0.
    """

    p_value: float
    smallest: float


def signed_rank_test(differences: np.ndarray) -> SignedRank:
    """Test that differences are symmetric around 0; zeros carry no information and are left out.

    Args:
        differences: finite, (k,).
    """
    from scipy import stats

    nonzero = differences[differences != 0.0]
    count = len(nonzero)
    if count == 0:
        return SignedRank(1.0, 1.0)
    ranks = stats.rankdata(np.abs(nonzero))
    positive = float(ranks[nonzero > 0].sum())
    smallest = 2.0 ** (1 - count) if count < 1000 else 0.0
    if count <= _MOST_EXACT:
        chance = _sum_chances(np.round(2.0 * ranks).astype(int))
        at = round(2.0 * positive)
        tail = min(float(chance[: at + 1].sum()), float(chance[at:].sum()))
        return SignedRank(min(2.0 * tail, 1.0), smallest)
    return SignedRank(float(stats.wilcoxon(nonzero, correction=True, method="approx").pvalue), smallest)


def shift_interval(differences: np.ndarray, level: float) -> tuple[float, float, float]:
    """The typical difference and its interval: the median of the averages of every two (Hodges and Lehmann 1963).

    Args:
        differences: finite, (k,), k at least 1.
        level: confidence level.

    Returns:
        Estimate, low, high; the limits are infinite where so few differences bound nothing at this level.
    """
    count = len(differences)
    if count > _MOST_AVERAGED:
        mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(count)
        reach = float(special.ndtri(0.5 + level / 2.0)) * error
        return mean, mean - reach, mean + reach
    first, second = np.triu_indices(count)
    averages = np.sort(0.5 * (differences[first] + differences[second]))
    estimate = float(np.median(averages))
    if count <= _MOST_EXACT:
        below = np.cumsum(_sum_chances(2 * np.arange(1, count + 1)))[::2]  # P(rank sum <= 0, 1, 2, ...)
        outside = int(np.searchsorted(below, 0.5 * (1.0 - level), side="right"))
    else:
        spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24.0)
        outside = math.floor(0.25 * count * (count + 1) - float(special.ndtri(0.5 + level / 2.0)) * spread)
    if outside < 1:
        return estimate, -math.inf, math.inf
    return estimate, float(averages[outside - 1]), float(averages[-outside])


def _sum_chances(parts: np.ndarray) -> np.ndarray:
    """Chance of every sum of whole numbers, each of which is in it with probability one half, (sum + 1,)."""
    chance = np.zeros(int(parts.sum()) + 1)
    chance[0] = 1.0
    reached = 0
    for part in parts:
        moved = chance[: reached + 1].copy()
        chance[: reached + 1] *= 0.5
        chance[part : part + reached + 1] += 0.5 * moved
        reached += int(part)
    return chance
