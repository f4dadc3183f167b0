"""The limit of the flattest interpolator's transition at rank 1 for large matrices, without fitted parameters.

M* = u v^T is a sharp local minimum of the induced regularizer F among the interpolators if and only if nu < 1
(:mod:`flatdist.factorization.local_flatness`). For Gaussian measurements of a square matrix, d -> infinity and
n = alpha d, the condition becomes an equation for alpha (docs/mathematics.md):

    alpha = 2 + s^2(alpha) (1 + ((L - 1)^2 - 1) (alpha - 2) / alpha),          n50 -> alpha d,

    s^2 = max over kappa > 0, min over 0 < w < a(x_-) of (1 / w) int dmu(x) / (a(x) - w),
    a(x) = (kappa + L - 3) x + 1 / kappa,      mu = the Marchenko-Pastur law of ratio c = 1 / alpha,

x_- = (1 - sqrt c)^2 its lower edge. At infinite depth a(x) = x and alpha = 2 + s^2 (alpha - 2) / alpha. The statistical
dimension is 6 d in the same limit (alpha = 6, s^2 = 4, where a = 1 in each of L - 1 = 1 terms).

That page tells what of this is proved from what only agrees with simulation. The approach is slow, of order d^{-2/3}:
at d = 8 to 48 the ratio at depth 3 is 0.88 to 0.90.
"""

from __future__ import annotations

import functools
import math

NUCLEAR = 6.0  # the statistical dimension over d in the same limit

DOMAIN = (
    "rank 1, square matrices, Gaussian measurements, d to infinity; depth a whole number of at least 2, or math.inf"
)


@functools.lru_cache
def flattest_limit(depth: float) -> float:
    """Limit of n50 over the statistical dimension for the flattest interpolator, rank 1, square, Gaussian.

    Args:
        depth: number of layers L, at least 2, or ``math.inf``. Two layers follow the nuclear norm.

    Raises:
        ValueError: the depth is outside the domain.

    Example:
        >>> from flatdist import theory
        >>> [round(theory.flattest_limit(depth), 3) for depth in (2, 3, 4, 5)]
        [1.0, 0.927, 0.971, 1.009]
    """
    if not (depth == math.inf or (depth >= 2 and depth == int(depth))):
        raise ValueError(f"depth={depth!r} is outside the limit's domain: {DOMAIN}")
    if depth == 2:
        return 1.0
    from scipy.optimize import brentq

    def excess(alpha: float) -> float:
        gain = 1.0 - 2.0 / alpha
        if depth < math.inf:
            gain = 1.0 + ((depth - 1.0) ** 2 - 1.0) * gain
        return 2.0 + edge(1.0 / alpha, depth)[0] * gain - alpha

    return float(brentq(excess, 2.5, 20.0, xtol=1e-10)) / NUCLEAR


def edge(c: float, depth: float) -> tuple[float, float]:
    """s^2, the limit of the squared dual norm of a standard normal matrix over its size, and kappa at it.

    For c = d / n and depths from 3 on; at infinite depth kappa plays no part.
    """
    from scipy.optimize import minimize_scalar

    lower = (1.0 - math.sqrt(c)) ** 2

    def largest(slope: float, level: float) -> float:
        """The squared edge for a(x) = slope x + level."""
        top = slope * lower + level

        def bound(w: float) -> float:
            return _inverse_moment(c, (w - level) / slope) / slope / w

        return float(minimize_scalar(bound, bounds=(1e-9 * top, top * (1 - 1e-12)), method="bounded").fun)

    if depth == math.inf:
        return largest(1.0, 0.0), 1.0
    found = minimize_scalar(
        lambda t: -largest(math.exp(t) + depth - 3.0, math.exp(-t)), bounds=(-3.0, 3.0), method="bounded"
    )
    return -float(found.fun), math.exp(found.x)


def _inverse_moment(c: float, y: float) -> float:
    """The integral of 1 / (x - y) over Marchenko and Pastur's law of ratio c, for y below its support."""
    if abs(y) < 1e-12:
        return 1.0 / (1.0 - c)
    b = y + c - 1.0
    return (-b - math.sqrt(max(b * b - 4.0 * c * y, 0.0))) / (2.0 * c * y)
