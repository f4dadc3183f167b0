"""The statistical dimension of the nuclear norm's descent cone at a rank-r matrix: where exact recovery starts.

With Gaussian measurements, nuclear-norm minimisation passes from failure to success around n = delta, over a width of
order sqrt(d_in d_out) (Amelunxen, Lotz, McCoy, Tropp 2014, "Living on the edge"). Three forms are offered, each by its
own name: the exact one (:func:`statistical_dimension`, the prediction that sweep files call ``statdim``), the upper
bound that is usually quoted, and its large-size limit. Only numpy is needed, and scipy nowhere.

The exact form is an expectation of a minimum, by Monte Carlo:

    delta = E min over tau >= 0 of  || P_T(G) - tau U V^T ||_F^2 + sum_i max(sigma_i - tau, 0)^2

with sigma_i the singular values of the normal part. Three steps take nearly all the noise out of it:
``|| P_T(G) ||_F^2`` does not depend on tau and has mean r (d_out + d_in - r); what remains of the tangent part is one
normal variable z = <U V^T, G> / sqrt(r), integrated by Gauss-Hermite quadrature; and the mean over sigma is taken with
exactly known trace moments as control variates.

``python -m flatdist.theory.statdim`` computes the table of common shapes anew (about ten minutes).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from flatdist.errors import CellError
from flatdist.sensing.draws import Stream

VERSION = 1  # raised when any value changes: sweep files set n by these values
LARGEST_SAMPLED = 400_000  # entries of the normal part
_TIE = 1e-7  # far below the rounding, far above the difference between processors: ties round alike on all of them
_TABLE = Path(__file__).with_suffix(".txt")  # smaller size, larger size: value/variance of N at ranks 1, 2, ...
_WORDS = 2**21  # normals drawn per shape, where the two bounds below allow: about 0.2 s
_FEWEST, _MOST = 64, 8192  # matrices drawn per shape
_CHUNK_ENTRIES = 2**20
_NODES = 24
_QUADRATURE_POINTS = 400


def statistical_dimension(d_out: int, d_in: int, rank: int) -> float:
    """The exact statistical dimension of the nuclear norm's descent cone at a matrix of this shape and rank.

    Accurate to 0.03 % before rounding to 0.1. Deterministic: the same value on every machine and in every session of
    this ``VERSION``. Symmetric in ``d_out`` and ``d_in``. Beyond 400,000 entries it returns the large-size limit, which
    differs from the exact form by less than 0.15 % there. ``statdim.txt`` holds values of common shapes; any other
    shape takes about 0.2 s, once per process.

    >>> statistical_dimension(20, 20, 2)
    141.1

    Args:
        d_out, d_in: shape of the matrix.
        rank: rank of the ground truth.

    Returns:
        A number of measurements, not necessarily whole.

    Raises:
        CellError: sizes that are not whole numbers, or rank > min(d_out, d_in).
    """
    return _law(Shape.of(d_out, d_in, rank))[0]


class FirstSuccess(NamedTuple):
    """The law of N, the first number of Gaussian measurements at which the nuclear norm recovers the ground truth.

    Attributes:
        mean: E N, in measurements.
        variance: Var N, in squared measurements.
    """

    mean: float
    variance: float

    def success(self, n: ArrayLike) -> np.ndarray:
        """Approximately P(N <= n) = Phi((n + 1/2 - E N) / sigma) = Phi((n - delta) / sigma); has the shape of n."""
        away = (np.asarray(n, dtype=float) + 0.5 - self.mean) / math.sqrt(2.0 * max(self.variance, 1e-12))
        return np.asarray(0.5 * np.vectorize(math.erfc, otypes=[float])(-away))


def first_success(d_out: int, d_in: int, rank: int) -> FirstSuccess:
    """Mean and variance of the first n at which nuclear-norm minimisation recovers a matrix of this shape and rank.

    One problem is given more and more Gaussian measurements. By the kinematic formula P(N > n) = 2 (v_(n+1) + v_(n+3) +
    ...) with the intrinsic volumes v_k of the descent cone, so with V of law v_k

        E N = delta + 1/2,    Var N = Var V - 1/4,    Var V = Var || Pi_C(g) ||^2 - 2 delta  (McCoy, Tropp 2014),

    and V is asymptotically normal (Goldstein, Nourdin, Peccati 2017): the whole success curve follows without a fit.
    The variance is accurate to 1 %, mostly far better.

    >>> law = first_success(8, 8, 1)
    >>> round(law.mean, 1), round(law.variance, 1)
    (26.9, 13.5)

    Args:
        d_out, d_in: shape of the matrix.
        rank: rank of the ground truth.

    Raises:
        CellError: impossible sizes, or more than 400,000 entries, for which the variance is not known.
    """
    shape = Shape.of(d_out, d_in, rank)
    rows, columns = shape.normal
    if rows * columns > LARGEST_SAMPLED:
        raise CellError(
            f"first success of d_out={d_out}, d_in={d_in}, rank={rank}: the variance is sampled for up to "
            f"{LARGEST_SAMPLED:,} entries; choose smaller sizes"
        )
    delta, variance = _law(shape)
    return FirstSuccess(delta + 0.5, variance)


@lru_cache(maxsize=4096)
def _law(shape: Shape) -> tuple[float, float]:
    """The statistical dimension and the variance of the first success."""
    return tabulated().get(shape) or computed(shape)


@cache
def tabulated() -> dict[Shape, tuple[float, float]]:
    """Value and variance of common shapes, so that sweep files over them resolve, and curves are drawn, at once."""
    table = {}
    for line in _TABLE.read_text(encoding="ascii").splitlines():
        sizes, entries = line.split(":")
        small, large = map(int, sizes.split())
        for rank, entry in enumerate(entries.split(), start=1):
            value, variance = map(float, entry.split("/"))
            table[Shape(small, large, rank)] = value, variance
    return table


def computed(shape: Shape) -> tuple[float, float]:
    """The value to a tenth, and the variance to five digits; NaN where it is not sampled."""
    if math.prod(shape.normal) > LARGEST_SAMPLED:
        value, spread = statistical_dimension_asymptotic(shape.small, shape.large, shape.rank), math.nan
    else:
        value, _, spread = exact_form(shape, VERSION)
    return round(value + _TIE, 1), float(f"{max(spread - 0.25, 0.0):.5g}")


@dataclass(frozen=True)
class Shape:
    """A ground truth of rank ``rank`` among matrices of ``small`` by ``large`` entries (every form is symmetric)."""

    small: int
    large: int
    rank: int

    @classmethod
    def of(cls, d_out: int, d_in: int, rank: int) -> Shape:
        """Check and order the sizes.

        Raises:
            CellError: a size is not a whole number of at least 1, or the rank exceeds the smaller one.
        """
        try:
            sizes = tuple(operator.index(value) for value in (d_out, d_in, rank))
        except TypeError:
            sizes = (0, 0, 0)
        if min(sizes) < 1 or sizes[2] > min(sizes[:2]):
            raise CellError(
                f"statistical dimension of d_out={d_out!r}, d_in={d_in!r}, rank={rank!r}: all three must be whole "
                "numbers of at least 1, and rank at most min(d_out, d_in)"
            )
        return cls(min(sizes[:2]), max(sizes[:2]), sizes[2])

    @property
    def degrees_of_freedom(self) -> int:
        """r (d_out + d_in - r), the dimension of the tangent space T."""
        return self.rank * (self.small + self.large - self.rank)

    @property
    def normal(self) -> tuple[int, int]:
        """Rows and columns of the component normal to T, rows <= columns; (0, ...) at full rank."""
        return self.small - self.rank, self.large - self.rank


def statistical_dimension_upper_bound(d_out: int, d_in: int, rank: int) -> float:
    """Upper bound: min over tau of r (d_out + d_in - r) + r tau^2 + E sum_i max(sigma_i - tau, 0)^2.

    Exceeds the exact form by 2.2 % at (8, 8, 1), 0.6 % at (20, 20, 1) and 0.1 % at (60, 60, 3).

    Raises:
        CellError: sizes that are not whole numbers, or rank > min(d_out, d_in).

    Example:
        >>> round(statistical_dimension_upper_bound(20, 20, 2), 1)
        141.7
    """
    shape = Shape.of(d_out, d_in, rank)
    rows, columns = shape.normal
    if rows == 0:
        return float(shape.degrees_of_freedom)
    values = sampled_singular_values(rows, columns, 1)
    tau = _threshold(rank, values, np.ones(rows), len(values))
    mean, _ = controlled_mean((np.maximum(values - tau, 0.0) ** 2).sum(axis=1), values, columns)
    return round(shape.degrees_of_freedom + rank * tau**2 + mean, 2)


def _threshold(rank: int, values: np.ndarray, weights: np.ndarray, count: int = 1) -> float:
    """The tau at which r tau is the mean of the weighted sums of max(sigma - tau, 0), by bisection."""
    lower, upper = 0.0, float(values.max())
    for _ in range(60):
        middle = 0.5 * (lower + upper)
        if rank * middle < float((np.maximum(values - middle, 0.0) @ weights).sum()) / count:
            lower = middle
        else:
            upper = middle
    return 0.5 * (lower + upper)


def statistical_dimension_asymptotic(d_out: int, d_in: int, rank: int) -> float:
    """The upper bound with the Marchenko-Pastur law for the singular values, its limit for large matrices.

    Below the upper bound by 1.9 % at (8, 8, 1) and 1.0 % at (30, 30, 1); its limit, 0.6 % below the exact form there.

    Raises:
        CellError: sizes that are not whole numbers, or rank > min(d_out, d_in).

    Example:
        >>> round(statistical_dimension_asymptotic(20, 20, 2), 1)
        140.5
    """
    shape = Shape.of(d_out, d_in, rank)
    rows, columns = shape.normal
    if rows == 0:
        return float(shape.degrees_of_freedom)
    values, weights = _marchenko_pastur(rows, columns)
    tau = _threshold(rank, values, weights)
    beyond = float(weights @ np.maximum(values - tau, 0.0) ** 2)
    return round(shape.degrees_of_freedom + rank * tau**2 + beyond, 2)


def _marchenko_pastur(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and weights (summing to ``rows``) of a quadrature for sums over the singular values, (points,).

    With lambda = center + radius cos(angle) the square-root edges of the density become sin(angle)^2 / lambda.
    """
    angle = (np.arange(_QUADRATURE_POINTS) + 0.5) * (np.pi / _QUADRATURE_POINTS)
    center, radius = float(rows + columns), 2.0 * np.sqrt(rows * columns)
    squares = center + radius * np.cos(angle)
    weights = np.sin(angle) ** 2 / squares
    return np.sqrt(squares), weights * (rows / weights.sum())


def exact_form(shape: Shape, version: int) -> tuple[float, float, float]:
    """The statistical dimension, the standard error of its computation, and the variance of the intrinsic volumes V.

    Var V = Var || Pi_C(g) ||^2 - 2 delta. By Moreau's decomposition || Pi_C(g) ||^2 is the squared distance to the
    polar cone, whose mean is delta: a chi-squared variable with r (d_out + d_in - r) - 1 degrees of freedom plus
    Q = z^2 + the minimum over tau. E Q^2 is averaged like E Q, with the trace moments times powers of the trace as
    control variates: the trace of a Wishart matrix is independent of its shape, so their means are known.
    """
    rows, columns = shape.normal
    if rows == 0:  # a half-space, V is D or D - 1: min over tau of r tau^2 - 2 tau sqrt(r) z is -max(z, 0)^2
        return shape.degrees_of_freedom - 0.5, 0.0, 0.25
    singular_values = sampled_singular_values(rows, columns, version)
    least, first, second = np.zeros((3, len(singular_values)))
    for weight, z, minimum in minima(singular_values, shape.rank):
        least += weight * minimum
        first += weight * (z * z + minimum)
        second += weight * (z * z + minimum) ** 2
    value, error = controlled_mean(least, singular_values, columns)
    mean, _ = controlled_mean(first, singular_values, columns, powers=2)
    excess, _ = controlled_mean(second - 2.0 * mean * first, singular_values, columns, powers=2)
    freedom = shape.degrees_of_freedom - 1
    variance = 2.0 * freedom + excess + mean**2 - 2.0 * (freedom + mean)
    return shape.degrees_of_freedom + value, error, variance


def minima(singular_values: np.ndarray, rank: int) -> Iterator[tuple[float, float, np.ndarray]]:
    """Min over tau >= 0 of r tau^2 - 2 tau sqrt(r) z + sum_i max(sigma_i - tau, 0)^2 for singular values (count, rows).

    The minimiser is max over k of (sqrt(r) z + sigma_1 + ... + sigma_k) / (r + k), or 0 where that is negative.

    Yields:
        Each node z of a quadrature over N(0, 1): its weight, z, and the minima, (count,).
    """
    count, rows = singular_values.shape
    sums = np.concatenate((np.zeros((count, 1)), np.cumsum(singular_values, axis=1)), axis=1)  # (count, rows + 1)
    weights_below = rank + np.arange(rows + 1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    for node, weight in zip(nodes, weights / weights.sum(), strict=True):
        pull = np.sqrt(rank) * node
        tau = np.maximum(((pull + sums) / weights_below).max(axis=1), 0.0)  # (count,)
        beyond = np.maximum(singular_values - tau[:, None], 0.0)
        yield weight, node, rank * tau**2 - 2.0 * pull * tau + (beyond**2).sum(axis=1)


@lru_cache(maxsize=4)
def sampled_singular_values(rows: int, columns: int, version: int) -> np.ndarray:
    """Singular values of i.i.d. N(0, 1) matrices, rows <= columns, decreasing: (count, rows), read-only.

    The same draws for every rank with this normal part; the version is part of the stream's name.
    """
    entries = rows * columns
    count = min(max(_WORDS // entries, _FEWEST), _MOST)
    stream = Stream.named(f"statistical_dimension/{version}/{rows}x{columns}", 0, "statistical_dimension")
    squares = []
    step = max(_CHUNK_ENTRIES // entries, 1)
    for start in range(0, count, step):
        draws = stream.normals(np.arange(start, min(start + step, count)), entries)
        matrices = draws.reshape(-1, rows, columns)  # (chunk, rows, columns)
        squares.append(np.linalg.eigvalsh(matrices @ matrices.transpose(0, 2, 1)))
    values: np.ndarray = np.sqrt(np.maximum(np.concatenate(squares)[:, ::-1], 0.0))
    values.setflags(write=False)
    return values


def trace_moments(rows: int, columns: int) -> np.ndarray:
    """E tr W, E tr W^2, E tr W^3, E tr W^4 of the real Wishart matrix W = G G^T, exact, (4,)."""
    p, n = float(rows), float(columns)
    return (p * n) * np.array(
        [
            1.0,
            p + n + 1.0,
            p * p + n * n + 3.0 * (p * n + p + n) + 4.0,
            p**3 + n**3 + 6.0 * (p * p * n + p * n * n + p * p + n * n) + 17.0 * p * n + 21.0 * (p + n) + 20.0,
        ]
    )


def controlled_mean(
    values: np.ndarray, singular_values: np.ndarray, columns: int, powers: int = 0
) -> tuple[float, float]:
    """Mean of ``values``, (count,), functions of the rows of ``singular_values``, and its standard error.

    The first four trace moments, and their products with ``powers`` of the trace, are control variates: their
    expectations are known, so their share of the noise is regressed out. For the smooth spectral functions used here
    that leaves a few per cent of the standard deviation.
    """
    count, rows = singular_values.shape
    moments = np.stack([(singular_values ** (2 * power)).sum(axis=1) for power in (1, 2, 3, 4)], axis=1)
    trace, entries = moments[:, :1], rows * columns
    controls = moments / trace_moments(rows, columns) - 1.0  # (count, 4), mean 0
    for power in range(1, powers + 1):
        # The trace is chi-squared and independent of W / tr W, of which tr W^j / (tr W)^j is a function.
        growth = [math.prod(entries + 2 * (j + i) for i in range(power)) for j in (1, 2, 3, 4)]
        more = moments * trace**power / (trace_moments(rows, columns) * np.array(growth, dtype=float)) - 1.0
        controls = np.concatenate((controls, more), axis=1)
    design = np.concatenate((np.ones((count, 1)), controls), axis=1)
    coefficients = np.linalg.lstsq(design, values, rcond=None)[0]
    residual = values - design @ coefficients
    return float(coefficients[0]), float(residual.std() / np.sqrt(count))


if __name__ == "__main__":
    lines: dict[tuple[int, int], str] = {}
    for shape in tabulated():
        value, variance = computed(shape)
        sizes = shape.small, shape.large
        lines[sizes] = lines.get(sizes, f"{shape.small} {shape.large}:") + f" {value:.1f}/{variance:.5g}"
    _TABLE.write_text("".join(f"{line}\n" for line in lines.values()), encoding="ascii")
