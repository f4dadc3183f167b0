"""What theory predicts, as objects with a name, a formula, a reference and a domain; figures draw them by name.

Two kinds: ``SAMPLE_COMPLEXITIES`` say at how many measurements recovery starts, ``RISK_CURVES`` how large the relative
error ||M - M*||_F^2 / ||M*||_F^2 is at n measurements. "The paper" is Gatmiry, Li, Ma, Reddi, Jegelka and
Chuang, NeurIPS 2023 (arXiv 2306.13239). Only numpy is loaded; scipy when the Beta law is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flatdist.theory.flattest import DOMAIN, flattest_limit
from flatdist.theory.statdim import (
    Shape,
    statistical_dimension,
    statistical_dimension_asymptotic,
    statistical_dimension_upper_bound,
)

if TYPE_CHECKING:
    from scipy.stats import rv_discrete
    from scipy.stats.distributions import rv_frozen

PAPER = "Gatmiry et al. 2023"
LIVING_ON_THE_EDGE = "Amelunxen, Lotz, McCoy, Tropp 2014"


@dataclass(frozen=True)
class Prediction:
    """A predicted number of measurements, or a predicted or bounded relative error.

    Attributes:
        name: its name in code and sweep files.
        label: its name in figures, in mathtext.
        formula: in plain text.
        reference: where it is derived.
        domain: what it applies to.
        exact: the constant is part of the prediction; False where the theorem holds up to a constant.
        value: (d_out, d_in, rank) -> number of measurements, or (d_out, d_in, rank, n) -> relative error.
    """

    name: str
    label: str
    formula: str
    reference: str
    domain: str
    exact: bool
    value: Callable[..., float]


SampleComplexity = RiskCurve = Prediction


def rank_times_sizes(d_out: int, d_in: int, rank: int) -> float:
    """r (d_out + d_in), the paper's sample complexity up to a constant (Theorem 3).

    Example:
        >>> rank_times_sizes(20, 30, 2)
        100.0
    """
    shape = Shape.of(d_out, d_in, rank)
    return float(shape.rank * (shape.small + shape.large))


def degrees_of_freedom(d_out: int, d_in: int, rank: int) -> float:
    """r (d_out + d_in - r), the dimension of the rank-r matrices: no method can need fewer for generic recovery.

    Example:
        >>> degrees_of_freedom(20, 20, 2)
        76.0
    """
    return float(Shape.of(d_out, d_in, rank).degrees_of_freedom)


def entries(d_out: int, d_in: int, rank: int) -> float:
    """d_out d_in, the number of measurements that determine every matrix.

    Example:
        >>> entries(20, 30, 2)
        600.0
    """
    shape = Shape.of(d_out, d_in, rank)
    return float(shape.small * shape.large)


def minimum_norm_relative_error(d_out: int, d_in: int, rank: int, n: int) -> float:
    """Theorem 4: the minimum-Frobenius-norm interpolator's mean relative error, 1 - n / (d_out d_in).

    Example:
        >>> minimum_norm_relative_error(20, 20, 2, n=100)
        0.75
    """
    return max(1.0 - n / entries(d_out, d_in, rank), 0.0)


def minimum_norm_law(d_out: int, d_in: int, n: int) -> rv_frozen:
    """The exact law behind Theorem 4: the relative error is Beta((D - n) / 2, n / 2) distributed, D = d_out d_in.

    Args:
        d_out, d_in: shape of the ground truth, whatever its rank.
        n: number of Gaussian measurements, 0 < n < D.

    Raises:
        ValueError: n is outside 0 < n < D, where the error is the constant 1 or 0.

    Example:
        >>> round(float(minimum_norm_law(20, 20, n=100).mean()), 6)
        0.75
    """
    from scipy.stats import beta

    size = d_out * d_in
    if not 0 < n < size:
        raise ValueError(f"the relative error at n={n!r} is a constant, not Beta distributed; allowed: 0 < n < {size}")
    return beta((size - n) / 2.0, n / 2.0)


def minimum_norm_first_success(d_out: int, d_in: int, tolerance: float) -> rv_discrete:
    """The exact law of N, the first n at which the minimum Frobenius norm's relative error is below a tolerance.

    Every further Gaussian measurement of one stream lowers the error, so N is at most n with the probability that
    :func:`minimum_norm_law` gives an error below the tolerance.

    Args:
        d_out, d_in: shape of the ground truth, whatever its rank.
        tolerance: relative error of a success, between 0 and 1.

    Raises:
        ValueError: the tolerance is not between 0 and 1.

    Example:
        >>> round(float(minimum_norm_first_success(8, 8, 1e-2).mean()), 2)
        63.0
    """
    from scipy.stats import rv_discrete

    if not 0.0 < tolerance < 1.0:
        raise ValueError(f"tolerance={tolerance!r} is outside of the law's domain: a relative error between 0 and 1")
    size = d_out * d_in
    below = [0.0, *(float(minimum_norm_law(d_out, d_in, n).cdf(tolerance)) for n in range(1, size)), 1.0]
    return rv_discrete(values=(range(1, size + 1), np.diff(below)))


def flattest_risk_shape(d_out: int, d_in: int, rank: int, n: int) -> float:
    """Theorem 3 without its constant: r (d_out + d_in) / n * log(n)^3, by ||M*||_*^2 <= r ||M*||_F^2.

    The constant is not known, so only its dependence on the sizes can be compared with measurements.

    Example:
        >>> round(flattest_risk_shape(20, 20, 2, n=100) / flattest_risk_shape(20, 20, 1, n=100), 6)
        2.0
    """
    return rank_times_sizes(d_out, d_in, rank) / n * math.log(max(n, 1)) ** 3


def flattest_risk_bound(delta: float, nuclear_norm: float, depth: int = 2) -> float:
    """Theorem 2: under (2, delta)-RIP the flattest interpolator's ||M - M*||_F^2 is at most this.

    For two layers it is 4 delta / (1 - delta)^2 ||M*||_*^2; for more layers the sharper
    delta (1 + ((1 + delta) / (1 - delta))^{L / (2 (L - 1))})^2 ||M*||_*^2, which the former also bounds. The constants
    are our own, from Lemma 5 and Theorem 1.

    Args:
        delta: the RIP constant; no bound holds from 1 on.
        nuclear_norm: ||M*||_*.
        depth: number of layers L.

    Returns:
        A squared Frobenius norm; infinite where delta >= 1.

    Example:
        >>> round(flattest_risk_bound(0.1, nuclear_norm=1.0, depth=2), 3)
        0.494
    """
    if delta >= 1.0:
        return math.inf
    if depth == 2:
        return 4.0 * delta / (1.0 - delta) ** 2 * nuclear_norm**2
    return delta * (1.0 + nuclear_norm_ratio_bound(delta, depth)) ** 2 * nuclear_norm**2


def nuclear_norm_ratio_bound(delta: float, depth: int) -> float:
    """Theorem 1: the flattest interpolator's nuclear norm over the least one is at most this under (1, delta)-RIP.

    ((1 + delta) / (1 - delta))^{L / (2 (L - 1))}; infinite where delta >= 1.

    Example:
        >>> round(nuclear_norm_ratio_bound(0.1, depth=3), 3)
        1.162
    """
    if not delta >= 0.0 or depth < 2:
        raise ValueError(f"delta={delta!r}, depth={depth!r}; allowed: delta at least 0, depth at least 2")
    if delta >= 1.0:
        return math.inf
    return float(((1.0 + delta) / (1.0 - delta)) ** (depth / (2.0 * (depth - 1.0))))


def flattest_trace(nuclear_norm: float, d_out: int, d_in: int, depth: int) -> float:
    """Lemma 4: the trace of the Hessian of the flattest factorization, for isotropic measurements.

    2 L (d_in d_out)^{1/L} ||M||_*^{2 (L - 1) / L}, Theorem 1's G(M); under (1, delta)-RIP the true trace
    lies within (1 -+ delta) of it.

    Args:
        nuclear_norm: ||M||_* of the end-to-end matrix.
        d_out: its rows.
        d_in: its columns.
        depth: number of layers L.

    Example:
        >>> round(flattest_trace(1.0, 20, 20, depth=2), 3)
        80.0
    """
    return float(2.0 * depth * (d_in * d_out) ** (1.0 / depth) * nuclear_norm ** (2.0 * (depth - 1.0) / depth))


def _flattest(depth: float) -> Prediction:
    def value(d_out: int, d_in: int, rank: int) -> float:
        if rank != 1 or d_out != d_in:
            shape = f"d_out={d_out}, d_in={d_in}, rank={rank}"
            raise ValueError(f"{shape} is outside the limit's domain: {DOMAIN}")
        return flattest_limit(depth) * statistical_dimension(d_out, d_in, rank)

    return Prediction(
        f"flattest_limit_{depth}",
        f"flattest, depth {'infinite' if depth == math.inf else depth} (limit)",
        "alpha / 6 times the statistical dimension, alpha = 2 + s^2 (1 + ((L - 1)^2 - 1) (alpha - 2) / alpha)",
        "docs/mathematics.md",
        DOMAIN,
        True,
        value,
    )


_GAUSSIAN_NUCLEAR = "minimum nuclear norm, Gaussian measurements, exact recovery; transition width O(sqrt(d_out d_in))"


def _named(*rows: tuple[str, str, str, str, str, bool, Callable[..., float]]) -> Mapping[str, Prediction]:
    return {row[0]: Prediction(*row) for row in rows}


SAMPLE_COMPLEXITIES: Mapping[str, Prediction] = _named(
    (
        "statdim", "statistical dimension", "E min_tau ||P_T(G) - tau U V^T||_F^2 + sum_i max(sigma_i - tau, 0)^2",
        LIVING_ON_THE_EDGE, _GAUSSIAN_NUCLEAR, True, statistical_dimension,
    ), (
        "statdim_upper", "statistical dimension (upper bound)",
        "min_tau r (d_out + d_in - r) + r tau^2 + E sum_i max(sigma_i - tau, 0)^2",
        LIVING_ON_THE_EDGE, _GAUSSIAN_NUCLEAR, True, statistical_dimension_upper_bound,
    ), (
        "statdim_asymptotic", "statistical dimension (asymptotic)",
        "the upper bound with the Marchenko-Pastur law for sigma",
        LIVING_ON_THE_EDGE, f"{_GAUSSIAN_NUCLEAR}; large matrices", True, statistical_dimension_asymptotic,
    ), (
        "rsum", "$r(d+d')$", "rank * (d_out + d_in)", f"{PAPER}, Theorem 3 and Corollary 1",
        "flattest interpolator, Gaussian or sign measurements, up to a constant and logarithms",
        False, rank_times_sizes,
    ), (
        "dof", "$r(d+d'-r)$", "rank * (d_out + d_in - rank)", "dimension of the manifold of rank-r matrices",
        "any method: fewer measurements cannot determine a generic rank-r matrix locally", True, degrees_of_freedom,
    ), (
        "entries", "$d\\,d'$", "d_out * d_in", f"{PAPER}, Theorem 4",
        "minimum Frobenius norm, Gaussian measurements: relative error eps needs (1 - eps) d_out d_in", True, entries,
    ),
)  # fmt: skip

LIMITS: Mapping[str, Prediction] = {limit.name: limit for limit in map(_flattest, (3, 4, 5, math.inf))}
"""Limits for large matrices, which raise a ValueError outside of their domain."""

RISK_CURVES: Mapping[str, Prediction] = _named(
    (
        "minimum_norm", "$1 - n/(d\\,d')$",
        "1 - n / (d_out d_in); the error itself is Beta((D - n)/2, n/2) distributed, D = d_out d_in",
        f"{PAPER}, Theorem 4", "minimum Frobenius norm, Gaussian measurements, n <= d_out d_in",
        True, minimum_norm_relative_error,
    ), (
        "flattest_bound", "$r(d+d')\\,\\log^3 n / n$",
        "C r (d_out + d_in) / n * log(n)^3 with C = 1; the constant is not known",
        f"{PAPER}, Theorem 3", "flattest interpolator, Gaussian measurements, up to a constant",
        False, flattest_risk_shape,
    ),
)  # fmt: skip


def prediction(name: str) -> Prediction:
    """The predicted number of measurements with this name.

    Raises:
        KeyError: no prediction has this name; the message lists those that exist.

    Example:
        >>> prediction("dof").name
        'dof'
    """
    known = {**SAMPLE_COMPLEXITIES, **LIMITS}
    if name not in known:
        raise KeyError(f"no prediction is named {name!r}; allowed: {', '.join(known)}")
    return known[name]
