"""Power laws y = c x^a through points with known errors and an additional unknown scatter; points may be censored.

On logarithms: log y_i = log c + a log x_i + u_s(i) + e_i, where u_s ~ N(0, discrepancy^2) belongs to the shape s
(points of one shape share it) and e_i ~ N(0, error_i^2) is the sampling error. Fitted by maximum likelihood; a
point known only to lie in an interval, or on one side of a bound, contributes the probability of that.

Intervals treat the errors as known up to a common factor of at most one: if the points scatter less than their errors
suggest, the errors are scaled down. So one parameter describes the scatter from zero upwards, and the intervals are
those of an ordinary regression, exact if errors are equal. With errors fixed at their stated size, and a quantile for
unknown scatter, intervals without discrepancy covered 99-100 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

SMALLEST, LARGEST = 1e-4, 2.0  # discrepancy, on log y
LEAST_SHRINKAGE = 0.02  # of sampling errors
COEFFICIENT, EXPONENT, DISCREPANCY = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Points:
    """Data on log y at each log x; points with equal numbers are equal, so that their fits can be kept.

    Attributes:
        x: (m,) log x.
        y: (m,) log y; NaN where only bounds are known.
        error: (m,) standard errors of y; where y is NaN they are not used.
        low, high: (m,) bounds of log y where y is NaN, infinite where there is none.
        shape: (m,) integers from 0, equal for points of one shape.
    """

    x: np.ndarray
    y: np.ndarray
    error: np.ndarray
    low: np.ndarray
    high: np.ndarray
    shape: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Points) and self._numbers() == other._numbers()

    def __hash__(self) -> int:
        return hash(self._numbers())

    def _numbers(self) -> tuple[bytes, ...]:
        return tuple(values.tobytes() for values in vars(self).values())

    @property
    def shapes(self) -> int:
        """How many shapes there are."""
        return len(np.unique(self.shape))

    @property
    def bounded_shapes(self) -> int:
        """The number of shapes with a point bounded on both sides, which determine the scatter."""
        bounded = ~np.isnan(self.y) | (np.isfinite(self.low) & np.isfinite(self.high))
        return len(np.unique(self.shape[bounded]))

    @property
    def middle(self) -> np.ndarray:
        """A starting value within the bounds of each point, (m,)."""
        low = np.where(np.isfinite(self.low), self.low, self.high)
        high = np.where(np.isfinite(self.high), self.high, self.low)
        return np.asarray(np.where(np.isnan(self.y), 0.5 * (low + high), self.y))

    def select(self, mask: np.ndarray) -> Points:
        """Some of the points."""
        return Points(*(getattr(self, name)[mask] for name in ("x", "y", "error", "low", "high", "shape")))


@dataclass(frozen=True)
class PowerLaw:
    """A fitted law. Logarithms throughout.

    Attributes:
        parameters: log c, a, log discrepancy.
        log_likelihood: at the maximum.
        free: how many parameters were fitted.
    """

    parameters: tuple[float, float, float]
    log_likelihood: float
    free: int

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
    mean = coefficient + exponent * points.x
    known = ~np.isnan(points.y)
    total = 0.0
    if known.any():  # e_i independent, u shared: for each shape a rank-one covariance beside a diagonal
        residual, weight = (points.y - mean)[known], (shrinkage * points.error[known]) ** -2.0
        index = points.shape[known]
        shared = 1.0 + discrepancy**2 * np.bincount(index, weight)
        square = (weight * residual**2).sum() - discrepancy**2 * (
            np.bincount(index, weight * residual) ** 2 / shared
        ).sum()
        total -= 0.5 * float(square + np.log(shared).sum() + np.log(2.0 * np.pi / weight).sum())
    if not known.all():
        upper = (points.high - mean)[~known] / discrepancy
        lower = (points.low - mean)[~known] / discrepancy
        mirrored = lower > 0.0
        upper, lower = np.where(mirrored, -lower, upper), np.where(mirrored, -upper, lower)
        top = special.log_ndtr(upper)
        with np.errstate(divide="ignore"):
            inside = np.log1p(-np.exp(np.minimum(special.log_ndtr(lower) - top, -1e-300)))
        total += float((top + inside).sum())
    return max(total, -1e12)


def fit_power_law(
    points: Points,
    held: Sequence[float | None] = (None, None, None),
    start: PowerLaw | None = None,
    *,
    shrinking: bool = False,
) -> PowerLaw:
    """Maximise the likelihood.

    Args:
        points: at least one whose y is known.
        held: values of (log c, a, log discrepancy) that are not fitted, None for those that are.
        start: a fit to start from.
        shrinking: whether sampling errors may be smaller than stated, by a common factor.
    """
    center = float(points.x.mean())  # the coefficient at the center is nearly independent of the exponent
    typical = _typical_error(points)
    free = [index for index in range(3) if held[index] is None]

    def assemble(values: np.ndarray) -> tuple[float, float, float]:
        full = [0.0 if value is None else value for value in held]
        for index, value in zip(free, values, strict=True):
            full[index] = float(value)
        if held[COEFFICIENT] is None:
            full[COEFFICIENT] -= full[EXPONENT] * center
        return full[0], full[1], full[2]

    def scatter(spread: float) -> tuple[float, float]:
        """Discrepancy and the errors' factor."""
        if held[DISCREPANCY] is not None:
            return math.exp(spread), 1.0
        excess = math.expm1(2.0 * spread)
        return (max(typical * math.sqrt(excess), SMALLEST), 1.0) if excess > 0 else (SMALLEST, math.exp(spread))

    def cost(values: np.ndarray) -> float:
        coefficient, exponent, spread = assemble(values)
        return -log_likelihood(points, coefficient, exponent, *scatter(spread))

    # The spread is the logarithm of the scatter about the law, errors and discrepancy together, over a typical error.
    least = math.log(LEAST_SHRINKAGE) if shrinking else 0.0
    bounds = np.array([(-math.inf, math.inf), (-5.0, 5.0), (least, math.log(LARGEST / typical))])
    level_error = typical / math.sqrt(len(points.x))
    units = np.array([level_error, level_error / max(float(np.std(points.x)), 1e-3), 0.3])

    def scaled_cost(values: np.ndarray) -> float:
        return cost(values * units[free])

    best = None
    for initial in _starts(points, held, start, center, typical):
        # In units of the parameters' own errors, without which the search creeps along the curve's ridge.
        begin = initial[free] / units[free]
        limits = bounds[free] / units[free, None]
        found = optimize.minimize(scaled_cost, begin, method="L-BFGS-B", bounds=limits.tolist())
        if best is None or found.fun < best.fun:
            best = found
    assert best is not None
    coefficient, exponent, spread = assemble(best.x * units[free])
    return PowerLaw((coefficient, exponent, math.log(scatter(spread)[0])), -float(best.fun), len(free))


def _typical_error(points: Points) -> float:
    known = points.error[~np.isnan(points.y)]
    return float(np.median(known)) if len(known) else 0.01


def _starts(
    points: Points, held: Sequence[float | None], start: PowerLaw | None, center: float, typical: float
) -> list[np.ndarray]:
    """Where to start: from another fit, or from a line through the points with all or little of its scatter."""
    given = held[EXPONENT]
    if start is not None:
        coefficient, exponent, discrepancy = start.parameters
        slope = exponent if given is None else given
        return [
            np.array([coefficient + exponent * center, slope, 0.5 * math.log1p((math.exp(discrepancy) / typical) ** 2)])
        ]
    slope = 1.0 if given is None else given
    residual = points.middle - slope * points.x
    scale = max(float(np.std(residual)), 0.01)
    level = float(residual.mean()) + slope * center
    return [np.array([level, slope, 0.5 * math.log1p((share * scale / typical) ** 2)]) for share in (1.0, 0.2)]


def profile_limits(
    points: Points, best: PowerLaw, parameter: int, level: float, held: Sequence[float | None] = (None, None, None)
) -> tuple[float, float]:
    """Profile-likelihood interval of one parameter, widened for few shapes as in a regression with unknown scatter.

    Args:
        points: of the law.
        best: the law fitted to them.
        parameter: ``COEFFICIENT`` or ``EXPONENT``.
        level: confidence level.
        held: as they were in the fit.

    Returns:
        Its limits; infinite with too few shapes bounded on both sides.
    """
    regressors = sum(held[index] is None for index in (COEFFICIENT, EXPONENT))
    shapes = points.bounded_shapes
    spare = shapes - regressors
    if spare < 1:
        return -math.inf, math.inf
    quantile = float(special.fdtri(1, spare, level))
    drop = 0.5 * shapes * math.log1p(quantile / spare)
    top = fit_power_law(points, held, best, shrinking=True)

    def excess(value: float) -> float:
        fixed = [value if index == parameter else held[index] for index in range(3)]
        return top.log_likelihood - fit_power_law(points, fixed, top, shrinking=True).log_likelihood - drop

    estimate = top.parameters[parameter]

    def limit(direction: float) -> float:
        inner, step = estimate, 0.02
        while step < 200.0:
            outer = estimate + direction * step
            if excess(outer) > 0:
                if excess(inner) >= 0:  # a fit that fails to come back to the best one bounds nothing
                    break
                return float(optimize.brentq(excess, inner, outer, xtol=1e-4))
            inner, step = outer, 2.0 * step
        return direction * math.inf

    return limit(-1.0), limit(1.0)


def held_out_score(points: Points, held: Sequence[float | None] = (None, None, None)) -> float:
    """Log predictive density of each shape's points from a fit to the others, summed; -inf with fewer than 4 shapes."""
    if points.shapes < 4:
        return -math.inf
    score = 0.0
    everything = fit_power_law(points, held)
    for shape in np.unique(points.shape):
        mine = points.shape == shape
        fitted = fit_power_law(points.select(~mine), held, everything)
        coefficient, exponent, discrepancy = fitted.parameters
        score += log_likelihood(points.select(mine), coefficient, exponent, math.exp(discrepancy))
    return score
