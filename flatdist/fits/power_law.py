"""Power laws y = c x^a through points with known errors and an additional unknown scatter; points may be censored.

On logarithms: log y_i = log c + a log x_i + u_s(i) + e_i, where u_s ~ N(0, discrepancy^2) belongs to the shape s
(points of one shape share it) and e_i ~ N(0, error_i^2) is the sampling error. Fitted by maximum likelihood; a
point known only to lie in an interval, or on one side of a bound, contributes the probability of that.

Intervals treat the errors as known up to a common factor of at most one: if the points scatter less than their errors
suggest, the errors are scaled down. So one parameter describes the scatter from zero upwards, and the intervals are
those of an ordinary regression, exact if errors are equal. With errors fixed at their stated size, and a quantile for
unknown scatter, intervals without discrepancy covered 99-100 %.

At a given scatter the likelihood is log-concave in log c and a, and quadratic if no point is censored. So Newton's
method maximises it for many values of the scatter and for many laws (values of a profile, shapes left out) at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from flatdist.threshold.curves import ByContent

SMALLEST, LARGEST = 1e-4, 2.0  # discrepancy, on log y
LEAST_SHRINKAGE = 0.02  # of sampling errors
STEEPEST = 5.0  # exponent, in size
COEFFICIENT, EXPONENT = 0, 1
_STEPS = 40  # of Newton's method; it takes one or two where no point is censored
_HOPELESS = 30.0  # log-likelihood below the best scatter's at which one need not be settled


@dataclass(frozen=True, eq=False)
class Points(ByContent):
    """Data, (m,) each."""

    x: np.ndarray  # on logarithms, as y, low and high are
    y: np.ndarray  # NaN where only bounds are known
    error: np.ndarray  # standard errors of y; where y is NaN they are not used
    low: np.ndarray  # bounds of y where it is NaN, infinite where there is none
    high: np.ndarray
    shape: np.ndarray  # integers from 0, equal for points of one shape

    @property
    def shapes(self) -> int:
        """How many shapes there are."""
        return len(np.unique(self.shape))

    @property
    def bounded_shapes(self) -> int:
        """The number of shapes with a point bounded on both sides, which determine the scatter."""
        return self.select(~np.isnan(self.y) | (np.isfinite(self.low) & np.isfinite(self.high))).shapes

    def select(self, mask: np.ndarray) -> Points:
        """Some of the points."""
        return Points(*(values[mask] for values in vars(self).values()))


class PowerLaw(NamedTuple):
    """A fitted law."""

    parameters: tuple[float, float, float]  # log c, a, log discrepancy
    log_likelihood: float
    free: int  # how many parameters were fitted

    def aicc(self, shapes: int) -> float:
        """Akaike's criterion for small samples; infinite with too few shapes."""
        spare = shapes - self.free - 1
        if spare <= 0:
            return math.inf
        return -2.0 * self.log_likelihood + 2.0 * self.free * (1.0 + (self.free + 1.0) / spare)


def log_likelihood(
    points: Points, coefficient: float, exponent: float, discrepancy: float, shrinkage: float = 1.0
) -> float:
    """Of log c, a, the discrepancy's standard deviation, and a common factor of all sampling errors."""
    laws = _Laws(points, coefficient, exponent)
    height = laws.height(np.zeros((1, 1, 0)), np.array([[discrepancy]]), np.array([[shrinkage]]))[0]
    return max(float(height[0, 0]), -1e12)


def fit_power_law(points: Points, exponent: float | None = None) -> PowerLaw:
    """The likeliest law through points, at least one of which has a bounded y; its exponent is fitted by default."""
    return _Laws(points, exponent=exponent).fitted()[0]


def profile_limits(points: Points, parameter: int, level: float, exponent: float | None = None) -> tuple[float, float]:
    """Profile-likelihood interval of ``COEFFICIENT`` or ``EXPONENT``, widened for few shapes as in a regression.

    Its limits are infinite with too few shapes bounded on both sides.
    """
    shapes = points.bounded_shapes
    spare = shapes - (2 if exponent is None else 1)
    if spare < 1:
        return -math.inf, math.inf
    drop = 0.5 * shapes * math.log1p(float(special.fdtri(1, spare, level)) / spare)
    top = _Laws(points, exponent=exponent).fitted(shrinking=True)[0]

    def excess(values: np.ndarray) -> np.ndarray:
        """By how much more than the drop the profile is below its maximum; (v,)."""
        laws = _Laws(points, values, exponent) if parameter == COEFFICIENT else _Laws(points, exponent=values)
        return top.log_likelihood - drop - np.array([law.log_likelihood for law in laws.fitted(shrinking=True)])

    sides = np.array([[-1.0], [1.0]])
    doubled, estimate = np.append(0.0, 0.02 * 2.0 ** np.arange(14)), top.parameters[parameter]
    places = estimate + sides * doubled[:8]
    for stage in range(3):  # brackets that grow outwards, and then are divided twice
        beyond = excess(places.ravel()).reshape(places.shape)
        outside = np.any(beyond > 0, axis=1)
        if stage == 0 and not outside.all():
            places = estimate + sides * doubled
            beyond = excess(places.ravel()).reshape(places.shape)
            outside = np.any(beyond > 0, axis=1)
        last = np.maximum(np.argmax(beyond > 0, axis=1), 1)
        ends = np.stack((last - 1, last), axis=1)
        (low, high), (below, above) = (np.take_along_axis(table, ends, axis=1).T for table in (places, beyond))
        places = np.linspace(low, high, 13, axis=1)
    first, second = np.where(outside, low + (high - low) * below / (below - above), sides[:, 0] * math.inf)
    return float(first), float(second)


def held_out_score(points: Points, exponent: float | None = None) -> float:
    """Log predictive density of each shape's points from a fit to the others, summed; -inf with fewer than 4 shapes."""
    if points.shapes < 4:
        return -math.inf
    mine = np.equal.outer(np.unique(points.shape), points.shape)
    laws = _Laws(points, exponent=exponent, used=~mine).fitted()
    return sum(
        log_likelihood(points.select(left_out), *law.parameters[:2], math.exp(law.parameters[2]))
        for left_out, law in zip(mine, laws, strict=True)
    )


class _Laws:
    """Laws through the same points, fitted together.

    Args:
        points: of all laws.
        coefficient, exponent: values of log c and a that are held, one or (b,); None where they are fitted.
        used: (b, m) which points count for each law; all by default.
    """

    def __init__(
        self,
        points: Points,
        coefficient: float | np.ndarray | None = None,
        exponent: float | np.ndarray | None = None,
        used: np.ndarray | None = None,
    ) -> None:
        self.coefficient = coefficient = None if coefficient is None else np.atleast_1d(coefficient)
        self.exponent = exponent = None if exponent is None else np.atleast_1d(exponent)
        known = ~np.isnan(points.y)
        self.known, self.y, self.error = known, points.y[known], points.error[known]
        self.low, self.high = points.low[~known], points.high[~known]
        self.typical = float(np.median(self.error)) if len(self.error) else 0.01
        self.member = np.equal.outer(points.shape[known], np.unique(points.shape[known])).astype(float)  # (m, shapes)
        # The coefficient at the center is nearly independent of the exponent.
        self.center = float(points.x.mean()) if coefficient is None and exponent is None else 0.0
        free = [np.ones(len(points.x))] if coefficient is None else []
        free += [points.x - self.center] if exponent is None else []
        self.design = np.array(free).reshape(len(free), len(points.x)).T  # (m, k)
        held = [np.zeros((1, len(points.x)))]
        held += [] if coefficient is None else [coefficient[:, None]]
        held += [] if exponent is None else [exponent[:, None] * points.x]
        count = max(*(len(part) for part in held), 1 if used is None else len(used))
        self.offset = sum(held) + np.zeros((count, 1))  # (b, m)
        self.used = np.ones((count, 1, len(points.x))) if used is None else used[:, None].astype(float)
        low, high = (np.where(np.isfinite(a), a, b) for a, b in ((points.low, points.high), (points.high, points.low)))
        self.middle = np.where(known, points.y, 0.5 * (low + high))

    def fitted(self, *, shrinking: bool = False) -> list[PowerLaw]:
        """The most likely laws; with shrinking, sampling errors may be smaller than stated, by a common factor."""
        # The spread is the logarithm of the scatter about the law, errors and discrepancy together, over a typical
        # error: below 0 the errors are smaller than stated, above it there is a discrepancy.
        least, most = math.log(LEAST_SHRINKAGE) if shrinking else 0.0, math.log(LARGEST / self.typical)
        spreads = np.unique(np.append(np.linspace(least, most, 33), 0.0))[None].repeat(len(self.offset), axis=0)
        row, values = np.arange(len(spreads)), self._line()
        for _ in range(5):
            values, heights = self._maximised(values, *self._scatter(spreads))
            best = heights.argmax(axis=1)
            values, height, spread = values[row, best][:, None], heights[row, best], spreads[row, best]
            before, after = spreads[row, best - (best > 0)], spreads[row, best + (best < spreads.shape[1] - 1)]
            spreads = np.concatenate((np.linspace(before, spread, 5), np.linspace(spread, after, 5)[1:])).T
        fitted = list(values[:, 0].T)
        coefficient = fitted.pop(0) if self.coefficient is None else self.coefficient
        exponent = fitted.pop(0) if self.exponent is None else self.exponent
        level, slope = np.broadcast_arrays(coefficient - exponent * self.center, exponent)
        scatter = np.log(self._scatter(spread)[0])
        laws = zip(level.tolist(), slope.tolist(), scatter.tolist(), height.tolist(), strict=True)
        return [PowerLaw(law[:3], law[3], self.design.shape[1] + 1) for law in laws]

    def _scatter(self, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Discrepancy and the errors' factor, in the spread's shape."""
        discrepancy = self.typical * np.sqrt(np.expm1(2.0 * np.maximum(spread, 0.0)))
        return np.maximum(discrepancy, SMALLEST), np.exp(np.minimum(spread, 0.0))

    def _line(self) -> np.ndarray:
        """Where to start: the least squares through the middles of all points, (b, 1, k)."""
        weight = self.used * self.design.T  # (b, k, m)
        normal = weight @ self.design + 1e-9 * np.eye(self.design.shape[1])
        line = np.linalg.solve(normal, weight @ (self.middle - self.offset)[..., None])
        return np.asarray(self._bounded(line[:, None, :, 0]))

    def _bounded(self, values: np.ndarray) -> np.ndarray:
        """Parameters (..., k) with an exponent that is not too steep."""
        if self.exponent is None:
            values[..., -1] = np.clip(values[..., -1], -STEEPEST, STEEPEST)
        return values

    def _maximised(
        self, values: np.ndarray, discrepancy: np.ndarray, shrinkage: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Parameters (b, s, k) of greatest likelihood at each scatter (b, s), from a start (b, 1, k); their heights."""
        values = np.repeat(values, discrepancy.shape[1], axis=1)
        height, gradient, bend = self.height(values, discrepancy, shrinkage)
        share = np.ones(height.shape)
        for _ in range(_STEPS if values.shape[-1] else 0):
            if self.exponent is None:  # at its bound and pushed against it, it is held there
                pushed = (np.abs(values[..., -1]) >= STEEPEST) & (values[..., -1] * gradient[..., -1] > 0)
                gradient[..., -1] = np.where(pushed, 0.0, gradient[..., -1])
                bend[..., -1] = np.where(pushed[..., None], 0.0, bend[..., -1])
            step = np.linalg.solve(bend + 1e-9 * np.eye(values.shape[-1]), gradient[..., None])[..., 0]
            gain = (step * gradient).sum(axis=-1)  # twice as much as expected
            if not np.any((gain > 1e-6) & (height + gain > height.max(axis=1, keepdims=True) - _HOPELESS)):
                break
            step *= (share / np.maximum(1.0, 1e-3 * np.abs(step).max(axis=-1)))[..., None]
            tried = self._bounded(values + step)
            found = self.height(tried, discrepancy, shrinkage)
            better = found[0] >= height - 1e-9 + 1e-12 * height
            share = np.where(better, np.minimum(2.0 * share, 1.0), 0.25 * share)
            values = np.where(better[..., None], tried, values)
            height, gradient = np.where(better, found[0], height), np.where(better[..., None], found[1], gradient)
            bend = np.where(better[..., None, None], found[2], bend)
        return values, height

    def height(
        self, values: np.ndarray, discrepancy: np.ndarray, shrinkage: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Log-likelihood (b, s) at parameters (b, s, k), its gradient (b, s, k) and negative Hessian (b, s, k, k)."""
        mean = self.offset[:, None] + values @ self.design.T  # (b, s, m)
        size, total = self.design.shape[1], np.zeros(discrepancy.shape)
        gradient, bend = np.zeros((*total.shape, size)), np.zeros((*total.shape, size, size))
        spread = discrepancy[..., None]
        if len(self.y):  # errors are independent, the discrepancy is shared: for each shape a rank-one covariance
            design, used = self.design[self.known], self.used[..., self.known]
            variance = (shrinkage[..., None] * self.error) ** 2
            weight, residual = used / variance, self.y - mean[..., self.known]
            shared = spread**2 / (1.0 + spread**2 * (weight @ self.member))  # (b, s, shapes)
            pull = (weight * residual) @ self.member
            total -= 0.5 * ((weight * residual**2).sum(axis=-1) - (shared * pull**2).sum(axis=-1))
            total -= 0.5 * np.log1p(spread**2 * (weight @ self.member)).sum(axis=-1)
            total -= 0.5 * (used * np.log(2.0 * np.pi * variance)).sum(axis=-1)
            gradient += (weight * (residual - (shared * pull) @ self.member.T)) @ design
            sides = [weight @ (column[:, None] * self.member) for column in design.T]  # k of (b, s, shapes)
            for row, column in np.ndindex(size, size):
                bend[..., row, column] += weight @ (design[:, row] * design[:, column])
                bend[..., row, column] -= (shared * sides[row] * sides[column]).sum(axis=-1)
        if len(self.low):
            design, used = self.design[~self.known], self.used[..., ~self.known]
            upper, lower = ((end - mean[..., ~self.known]) / spread for end in (self.high, self.low))
            chance = _log_chance(lower, upper)
            total += (used * chance).sum(axis=-1)
            first, last = (_density_ratio(end, chance) for end in (lower, upper))
            slope = (first - last) / spread
            lower, upper = (np.where(np.isfinite(end), end, 0.0) for end in (lower, upper))
            curvature = slope**2 + (upper * last - lower * first) / spread**2
            gradient += (used * slope) @ design
            bend += np.swapaxes(design.T * (used * curvature)[..., None, :] @ design, -1, -2)
        return total, gradient, bend


def _log_chance(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Logarithm of a standard normal's chance between two values, accurate in both tails; their shape."""
    mirrored = lower > 0.0
    upper, lower = np.where(mirrored, -lower, upper), np.where(mirrored, -upper, lower)
    top = special.log_ndtr(upper)
    with np.errstate(divide="ignore"):
        return np.asarray(top + np.log1p(-np.exp(np.minimum(special.log_ndtr(lower) - top, -1e-300))))


def _density_ratio(value: np.ndarray, log_chance: np.ndarray) -> np.ndarray:
    """The standard normal's density over a chance, in the shape of both."""
    return np.asarray(np.exp(np.minimum(-0.5 * value**2 - 0.5 * math.log(2.0 * math.pi) - log_chance, 700.0)))
