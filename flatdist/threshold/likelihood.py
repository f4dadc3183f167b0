"""The likelihood of a success curve on log n, and profile-likelihood intervals from it.

Every replicate has a threshold N: it succeeds at n measurements where n >= N. With problems drawn anew for each n a
replicate says only on which side of n its threshold lies; where one replicate was followed over several n its threshold
lies between the last failure and the first success. Both are interval-censored observations of

    P(N <= n) = F((log n - log n50) / scale),   F logistic (logit) or normal (probit),

and for observations of the first kind this is exactly binomial regression on log n. In the slope 1/scale the
log-likelihood is concave at each n50 (F is log-concave), so profiling the slope out is a one-dimensional search that
cannot fail; an infinite slope, where the data are separated, is approached at the cap and is no special case.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
from scipy import special, stats

GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
SEARCH_STEPS = 21
STEEPEST = 1e3  # largest slope, in units of 1 / the smallest gap between the values of log n
FLATTEST = 0.02  # smallest slope, in units of 1 / their range
LEAST_INFORMATIVE = 5.0  # trials, for the interval's limits
REACH = 3.0  # how far beyond the measured values n50's limits are looked for, in units of their range
LINKS = ("logit", "probit")


@dataclass(frozen=True)
class Observations:
    """Thresholds known to lie between ``low`` (exclusive) and ``high`` (inclusive).

    Attributes:
        low, high: (m,) logarithms of n, infinite where unbounded.
        count: (m,) how many such observations.
    """

    low: np.ndarray
    high: np.ndarray
    count: np.ndarray

    @classmethod
    def of(cls, low: np.ndarray, high: np.ndarray) -> Observations:
        """Collect equal observations; (k,) each."""
        bounds, count = np.unique(np.stack((low, high), axis=1), axis=0, return_counts=True)
        return cls(bounds[:, 0], bounds[:, 1], count.astype(float))

    @classmethod
    def of_trials(cls, log_n: np.ndarray, success: np.ndarray) -> Observations:
        """Independent trials: each says only on which side of log n its threshold lies; (k,) each."""
        return cls.of(np.where(success, -np.inf, log_n), np.where(success, log_n, np.inf))

    @cached_property
    def one_sided(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """Where every threshold is bounded on one side at most: 1 if from above and -1 if from below, the bound, and
        the count, leaving out those that say nothing; None otherwise.
        """
        below, above = np.isneginf(self.low), np.isposinf(self.high)
        if not np.all(below | above):
            return None
        told = ~(below & above)
        return np.where(below, 1.0, -1.0)[told], np.where(below, self.high, self.low)[told], self.count[told]

    @property
    def nearest(self) -> np.ndarray:
        """(m,) the finite bound; the lower one where both are."""
        return np.where(np.isfinite(self.low), self.low, self.high)

    @property
    def separated(self) -> bool:
        """No threshold is known to be above a value that another is known to be at or below."""
        return bool(self.gap[0] < self.gap[1])

    @property
    def gap(self) -> tuple[float, float]:
        """Largest n that some replicate failed at, smallest that some succeeded at, as logarithms."""
        return float(self.low.max()), float(self.high.min())


def log_probability(observations: Observations, link: str, center: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """Log-likelihood at each (center, slope).

    Args:
        observations: m intervals.
        link: ``logit`` or ``probit``.
        center, slope: broadcastable arrays, log n50 and 1 / scale.

    Returns:
        Their broadcast shape.
    """
    center, slope = np.asarray(center)[..., None], np.asarray(slope)[..., None]
    if observations.one_sided is not None:  # plain binomial regression
        sign, bound, count = observations.one_sided
        argument = sign * (slope * (bound - center))
        each = special.log_expit(argument) if link == "logit" else special.log_ndtr(argument)
        return np.asarray(each @ count)
    upper = slope * (observations.high - center)  # (..., m)
    lower = slope * (observations.low - center)
    with np.errstate(invalid="ignore", divide="ignore"):
        if link == "logit":
            each = special.log_expit(upper) + special.log_expit(-lower) + np.log1p(-np.exp(lower - upper))
        else:
            mirrored = lower > 0.0  # differences of normal probabilities are accurate in the lower tail only
            upper, lower = np.where(mirrored, -lower, upper), np.where(mirrored, -upper, lower)
            top = special.log_ndtr(upper)
            each = top + np.log1p(-np.exp(special.log_ndtr(lower) - top))
    return np.asarray(np.where(np.isnan(each), -np.inf, each) @ observations.count)


def maximise(function: Callable[[np.ndarray], np.ndarray], low: float, high: float, count: int) -> np.ndarray:
    """Golden-section search for the maximisers of ``count`` unimodal functions at once, (count,).

    Args:
        function: (count,) arguments to (count,) values.
        low, high: where to look.
        count: how many.
    """
    left, right = np.full(count, low), np.full(count, high)
    inner, outer = right - GOLDEN * (right - left), left + GOLDEN * (right - left)
    at_inner, at_outer = function(inner), function(outer)
    for _ in range(SEARCH_STEPS):
        rightwards = at_outer > at_inner
        left, right = np.where(rightwards, inner, left), np.where(rightwards, right, outer)
        probe = np.where(rightwards, left + GOLDEN * (right - left), right - GOLDEN * (right - left))
        value = function(probe)
        inner, outer = np.where(rightwards, outer, probe), np.where(rightwards, probe, inner)
        at_inner, at_outer = np.where(rightwards, at_outer, value), np.where(rightwards, value, at_inner)
    return np.asarray(np.where(at_inner > at_outer, inner, outer))


@dataclass(frozen=True)
class Profile:
    """The likelihood maximised over the slope, and what follows from it. Logarithms of n throughout.

    Attributes:
        center: log n50 of greatest likelihood.
        slope: 1 / scale there.
        low, high: limits of the profile-likelihood interval; infinite where the data do not bound it.
        slope_low, slope_high: the same for the slope; 0 or infinite where unbounded.
        best: greatest log-likelihood.
        trendless: log-likelihood of a success probability that does not depend on n.
    """

    center: float
    slope: float
    low: float
    high: float
    slope_low: float
    slope_high: float
    best: float
    trendless: float


def likelihood_drop(level: float, units: int) -> float:
    """How far below its maximum the profile log-likelihood may fall inside the interval, where replicates are followed.

    Half the chi-squared quantile would do for very many of them. A few observe their own thresholds almost directly, so
    this is the exact value for a normal location with unknown spread instead, (R / 2) log(1 + F / (R - 1)) with F the
    quantile of F(1, R - 1): 8 replicates covered only 89 % without it.

    Args:
        level: confidence level.
        units: R, how many replicates follow their own threshold over n.
    """
    if units < 2:
        return math.inf
    return 0.5 * units * math.log1p(float(stats.f.ppf(level, 1, units - 1)) / (units - 1))


def trials_drop(level: float, informative: float) -> float:
    """The same for independent trials: (E / 2) log(1 + F / (E - 2)), F the quantile of F(1, E - 2).

    Half the chi-squared quantile takes the slope for known; with few trials inside the transition, and where a search
    stops as soon as an interval is narrow, that covers 90-94 % only. E is the number of informative trials, at least
    ``LEAST_INFORMATIVE``: fewer do not tell the slope at all.

    Args:
        level: confidence level.
        informative: sum of 4 p (1 - p) over the trials, p the fitted chance of success: one with p = 1/2 counts whole.
    """
    informative = max(informative, LEAST_INFORMATIVE)
    spare = informative - 2.0
    return 0.5 * informative * math.log1p(float(stats.f.ppf(level, 1, spare)) / spare)


def profile(
    observations: Observations,
    values: np.ndarray,
    link: str,
    level: float,
    units: int | None = None,
    *,
    slope_limits: bool = True,
) -> Profile:
    """Fit log n50 and the slope, with profile-likelihood intervals.

    Args:
        observations: of at least one success and one failure.
        values: (k,) the measured values of log n, increasing, k >= 2.
        link: ``logit`` or ``probit``.
        level: confidence level of the limits.
        units: how many replicates follow their own threshold over n; None for independent trials.
        slope_limits: whether the slope's limits are wanted; 0 and infinity without.
    """
    span = float(values[-1] - values[0])
    slopes = np.log(FLATTEST / span), np.log(STEEPEST / float(np.diff(values).min()))

    def best_slope(centers: np.ndarray) -> np.ndarray:
        along = partial(log_probability, observations, link, centers)
        return maximise(lambda logs: along(np.exp(logs)), *slopes, len(centers))

    def profiled(centers: np.ndarray) -> np.ndarray:
        return log_probability(observations, link, centers, np.exp(best_slope(centers)))

    middles = 0.5 * (values[1:] + values[:-1])
    beyond = span * np.array([0.02, 0.06, 0.15, 0.4, 1.0, 1.7, REACH])
    grid = np.concatenate(((values[0] - beyond)[::-1], np.sort(np.append(values, middles)), values[-1] + beyond))
    heights = profiled(grid)
    center, best = _summit(profiled, grid, heights)
    if observations.separated and np.all(np.isfinite(observations.gap)):
        center = 0.5 * (observations.gap[0] + observations.gap[1])
        best = max(best, float(profiled(np.array([center]))[0]))
    slope = float(np.exp(best_slope(np.array([center])))[0])
    if units is None:
        informative = float(observations.count @ curve_variance(link, slope * (observations.nearest - center)))
        floor = best - trials_drop(level, informative)
    else:
        floor = best - likelihood_drop(level, units)
    low = -_crossing(lambda points: profiled(-points), -grid[::-1], heights[::-1], -center, floor)
    high = _crossing(profiled, grid, heights, center, floor)
    slope_low, slope_high = 0.0, math.inf
    if slope_limits:
        slope_low, slope_high = _slope_limits(observations, link, grid, slopes, floor)
    return Profile(center, slope, low, high, slope_low, slope_high, best, _trendless(observations))


def _summit(function: Callable[[np.ndarray], np.ndarray], grid: np.ndarray, heights: np.ndarray) -> tuple[float, float]:
    """The highest point near the grid's highest, by zooming in."""
    best = int(np.argmax(heights))
    low, high = grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)]
    for _ in range(3):
        points = np.linspace(low, high, 17)
        values = function(points)
        best = int(np.argmax(values))
        low, high = points[max(best - 1, 0)], points[min(best + 1, 16)]
    return float(points[best]), float(values[best])


def _crossing(
    function: Callable[[np.ndarray], np.ndarray], grid: np.ndarray, heights: np.ndarray, start: float, level: float
) -> float:
    """Where the function, known on a grid, falls through ``level`` for the first time right of ``start``."""
    below = np.flatnonzero((grid > start) & (heights < level))
    if len(below) == 0:
        return float("inf")
    high = grid[below[0]]
    low = max(start, grid[below[0] - 1]) if below[0] > 0 else start
    for _ in range(2):
        points = np.linspace(low, high, 17)
        values = function(points)
        under = values < level
        first = max(int(np.argmax(under)), 1) if under.any() else 16
        low, high = points[first - 1], points[first]
    fall = values[first - 1] - values[first]
    share = (values[first - 1] - level) / fall if np.isfinite(fall) and fall > 0 else 0.5
    return float(low + min(max(share, 0.0), 1.0) * (high - low))


def _slope_limits(
    observations: Observations, link: str, grid: np.ndarray, slopes: tuple[float, float], level: float
) -> tuple[float, float]:
    """Limits of the slope by profiling the center out on a grid, interpolated; 0 and infinity at the search's ends."""
    logs = np.linspace(*slopes, 60)
    best = maximise(lambda centers: log_probability(observations, link, centers, np.exp(logs)), grid[0], grid[-1], 60)
    heights = log_probability(observations, link, best, np.exp(logs))  # (60,)
    inside = np.flatnonzero(heights >= level)
    if len(inside) == 0:
        return 0.0, float("inf")
    first, last = inside[0], inside[-1]

    def between(outer: int, within: int) -> float:
        share = (level - heights[outer]) / (heights[within] - heights[outer])
        return float(np.exp(logs[outer] + share * (logs[within] - logs[outer])))

    low = 0.0 if first == 0 else between(first - 1, first)
    high = float("inf") if last == len(logs) - 1 else between(last + 1, last)
    return low, high


def _trendless(observations: Observations) -> float:
    """Log-likelihood where successes have one probability at every n; -inf where an observation contradicts it.

    Only one-sided observations have such a limit: as the slope falls and the center moves away, every finite n has the
    same probability of success, and thresholds between two of them have none.
    """
    if np.any(np.isfinite(observations.low) & np.isfinite(observations.high)):
        return float("-inf")
    succeeded = float(observations.count[np.isneginf(observations.low)].sum())
    failed = float(observations.count.sum()) - succeeded
    total = succeeded + failed
    return float(special.xlogy(succeeded, succeeded / total) + special.xlogy(failed, failed / total))


def curve(link: str, n: np.ndarray, n50: float, slope: float) -> np.ndarray:
    """P(success) at n measurements, in the shape of n."""
    argument = slope * (np.log(n) - np.log(n50))
    return np.asarray(special.expit(argument) if link == "logit" else special.ndtr(argument))


def curve_variance(link: str, argument: np.ndarray) -> np.ndarray:
    """4 p (1 - p) for p = F(argument)."""
    function = special.expit if link == "logit" else special.ndtr
    return np.asarray(4.0 * function(argument) * function(-argument))


def quantile(link: str, probability: float) -> float:
    """Inverse of F."""
    return float(special.logit(probability) if link == "logit" else special.ndtri(probability))
