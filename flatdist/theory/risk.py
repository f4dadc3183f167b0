"""Predictions of the relative error where recovery is not exact: noisy labels, ground truths with a tail.

Labels are b_i = <A_i, M*> + s ||M*||_F eps_i, A_i and eps_i standard Gaussian; D = d_out d_in. Everything is relative
to ||M*||_F: errors are ||M - M*||_F^2 / ||M*||_F^2, and ``noise`` is s. With noise no more than D measurements can be
interpolated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from flatdist.sensing.draws import Stream
from flatdist.theory.predictions import degrees_of_freedom, minimum_norm_law
from flatdist.types import Array

if TYPE_CHECKING:
    from scipy.stats.distributions import rv_frozen

PURPOSE = "risk"
VERSION = 1  # of the draws behind the expectations
_WORDS = 2**17  # entries drawn per shape, where the two bounds below allow
_FEWEST, _MOST = 64, 2048
_RATIO = 1.15  # of neighbouring noise levels on the grid


def interpolation_law(d_out: int, d_in: int, n: int, noise: float) -> rv_frozen:
    """The law of the least error of any interpolator of noisy labels, s^2 chi^2_n / chi^2_{D-n+1}.

    M - M* of an interpolator satisfies <A_i, M - M*> = s eps_i, and the least of these matrices has squared norm
    s^2 eps^T (A A^T)^-1 eps, a ratio of independent chi-squares. Its mean s^2 n / (D - n - 1) is infinite from
    n = D - 1 on; its median at n = D is about 2.2 s^2 D.

    Args:
        d_out, d_in: shape of the ground truth.
        n: number of measurements, 0 < n <= D.
        noise: standard deviation of the labels' noise over ||M*||_F.

    Raises:
        ValueError: n is outside 0 < n <= D.
    """
    from scipy.stats import f

    size = d_out * d_in
    if not 0 < n <= size:
        raise ValueError(f"nothing interpolates noisy labels at n={n!r}; allowed: 0 < n <= {size}")
    return f(n, size - n + 1, scale=noise**2 * n / (size - n + 1))


@dataclass(frozen=True)
class MinimumNormLaw:
    """The law of the minimum-Frobenius-norm interpolator's error: Theorem 4's Beta law plus the least error of all.

    The part of M* that it misses lies in the kernel of the measurements, its response to the noise lies in their span,
    and the two are independent. The mean is (1 - n/D) + s^2 n / (D - n - 1).
    """

    d_out: int
    d_in: int
    n: int
    noise: float

    def mean(self) -> float:
        """Infinite with noise from n = D - 1 on."""
        size = self.d_out * self.d_in
        spread = self.noise**2 * self.n
        if spread and self.n >= size - 1:
            return math.inf
        return 1.0 - self.n / size + (spread / (size - self.n - 1) if spread else 0.0)

    def cdf(self, error: float) -> float:
        """Probability of an error of at most this, to about 1e-4; without noise, for n < D only."""
        if not self.noise:
            return float(minimum_norm_law(self.d_out, self.d_in, self.n).cdf(error))
        return float(np.mean(interpolation_law(self.d_out, self.d_in, self.n, self.noise).cdf(error - self._missed)))

    @cached_property
    def _missed(self) -> Array:
        """Quantiles of what is missed of M*."""
        if self.n == self.d_out * self.d_in:
            return np.zeros(1)
        quantiles = (np.arange(400) + 0.5) / 400
        return np.asarray(minimum_norm_law(self.d_out, self.d_in, self.n).ppf(quantiles))

    def median(self) -> float:
        """The error that half of the problems exceed."""
        from scipy.optimize import brentq

        if not self.noise:
            size = self.d_out * self.d_in
            return 0.0 if self.n >= size else float(minimum_norm_law(self.d_out, self.d_in, self.n).median())
        high = 1.0
        while self.cdf(high) < 0.5:
            high *= 2.0
        return float(brentq(lambda error: self.cdf(error) - 0.5, 0.0, high, xtol=1e-12, rtol=1e-6))


def tangent_fit_error(d_out: int, d_in: int, rank: int, n: int, noise: float, tail: float = 0.0) -> float:
    """Mean error of least squares on the tangent space of rank-r matrices at M_r: t^2 + (s^2 + t^2) p / (n - p - 1).

    p = r (d_out + d_in - r). This is a yardstick, not a method: it knows M_r's row and column spaces and does not
    interpolate. To first order in the noise it is the error of fitting a matrix of rank r. A tail t acts as Gaussian
    noise.

    Returns:
        The error; infinite for n <= p + 1.
    """
    unknowns = degrees_of_freedom(d_out, d_in, rank)
    if n <= unknowns + 1:
        return math.inf
    return tail**2 + (noise**2 + tail**2) * unknowns / (n - unknowns - 1)


def minimum_nuclear_errors(spectra: Array, d_out: int, d_in: int, n: Array, noise: float) -> Array:
    """Error of the minimum-nuclear-norm interpolator by Gordon's comparison, sharp in large dimensions.

    Interpolating n Gaussian measurements does what soft-thresholding the singular values of X = M* + tau G at lambda
    does, G an i.i.d. N(0, 1) matrix, where tau and lambda solve

        n tau^2 = s^2 + E ||S(X) - M*||_F^2    the noise is the labels' and the error's own,
        n = E div S(X)                         the thresholding has n degrees of freedom,

    and the error is E ||S(X) - M*||_F^2 (Thrampoulidis, Oymak, Hassibi 2015 for penalised fits). By Stein's identity
    (Candes, Sing-Long, Trzasko 2013) the first says (D - n) tau^2 = s^2 + E sum_i min(sigma_i(X), lambda)^2. Shrinking
    by a factor instead of thresholding gives the minimum Frobenius norm's mean up to the 1 in D - n - 1. The
    expectations are means over a fixed set of draws, which leaves about 2 % of uncertainty.

    Args:
        spectra: (k, min(d_out, d_in)), singular values of one or several typical ground truths of norm 1.
        d_out, d_in: their shape.
        n: (m,), numbers of measurements below D.
        noise: s.

    Returns:
        (m,), 0 where recovery is exact.

    Raises:
        ValueError: an n is not between 0 and D.
    """
    wanted = np.asarray(n, dtype=float)
    size = d_out * d_in
    if not np.all((wanted > 0) & (wanted < size)):
        raise ValueError(f"no prediction at n={n!r}; allowed: 0 < n < {size}")
    draws = _draws(d_out, d_in)
    least = max(noise, 1e-4) / math.sqrt(size)
    most = 2.0 * math.sqrt(float(np.max((1.0 + noise**2) / (size - wanted) + (1.0 + noise**2) / wanted)))
    levels = np.geomspace(least, most, math.ceil(math.log(most / least) / math.log(_RATIO)))  # of tau
    clipped = np.stack([_clipped_energy(spectra, draws, tau, wanted) for tau in levels])  # (levels, m)
    excess = np.log((size - wanted) * levels[:, None] ** 2) - np.log(noise**2 + clipped)
    squares = np.array([_largest_root(2.0 * np.log(levels), column) for column in excess.T])
    errors: Array = np.maximum(wanted * np.exp(squares) - noise**2, 0.0)
    return errors


@lru_cache(maxsize=4)
def _draws(d_out: int, d_in: int) -> Array:
    """Gaussian matrices, signs balanced and second moment exact, which takes most noise out of the means."""
    stream = Stream.named(f"{PURPOSE}/{VERSION}/{d_out}x{d_in}", 0, PURPOSE)
    count = min(max(_WORDS // (d_out * d_in), _FEWEST), _MOST) // 2
    half = stream.normals(np.arange(count), d_out * d_in).reshape(count, d_out, d_in)
    half /= math.sqrt(float(np.mean(half**2)))
    return np.concatenate((half, -half))


def _clipped_energy(spectra: Array, draws: Array, tau: float, freedoms: Array) -> Array:
    """E sum_i min(sigma_i(M* + tau G), lambda)^2, lambda such that thresholding has these degrees of freedom, (m,)."""
    count, d_out, d_in = draws.shape
    small = min(d_out, d_in)
    observed = tau * draws
    observed[:, range(small), range(small)] += np.resize(spectra, (count, small))
    singular = np.linalg.svd(observed, compute_uv=False)  # (count, small)
    gaps = singular[:, :, None] ** 2 - singular[:, None, :] ** 2
    gaps[:, range(small), range(small)] = np.inf
    repulsion = 2.0 * singular * (1.0 / gaps).sum(axis=2) + abs(d_out - d_in) / singular
    bulk = 1.2 * tau * (math.sqrt(d_out) + math.sqrt(d_in))
    beyond = np.geomspace(bulk, max(float(singular.max()), 1.01 * bulk), 30)[1:]
    thresholds = np.concatenate((bulk * np.linspace(0.0, 1.0, 90) ** 2, beyond))
    order = np.argsort(singular, axis=None)
    values, pushes = singular.ravel()[order], repulsion.ravel()[order]
    below = np.searchsorted(values, thresholds, side="right")  # so many singular values are set to zero
    above = [np.append(np.cumsum(terms[::-1])[::-1], 0.0)[below] for terms in (1.0 + values * pushes, pushes)]
    freedom = (above[0] - thresholds * above[1]) / count
    energy = (np.append(0.0, np.cumsum(values**2))[below] + (values.size - below) * thresholds**2) / count
    found: Array = np.interp(freedoms, np.minimum.accumulate(freedom)[::-1], energy[::-1])
    return found


def _largest_root(places: Array, excess: Array) -> float:
    """Where the excess last turns from negative to positive; minus infinity where it never does."""
    turns = np.flatnonzero((excess[:-1] < 0.0) & (excess[1:] >= 0.0))
    if not len(turns):
        return -math.inf
    last = int(turns[-1])
    share = -excess[last] / (excess[last + 1] - excess[last])
    return float((1.0 - share) * places[last] + share * places[last + 1])
