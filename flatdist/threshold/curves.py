"""Success curves: P(success at n) = (1 - lapse) F((log n - center) / scale), and the likelihood of what was observed.

F is one of four links. ``logit`` and ``probit`` are symmetric; ``cloglog`` (thresholds with a Weibull law) approaches
its upper end fast and its lower end slowly, ``loglog`` the other way round. A *lapse* is a failure however large n is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np

LINKS = ("logit", "probit", "cloglog", "loglog")
CHOICES = ("auto", *LINKS)  # of a fit: by evidence, or one of them
_LEAST = 1e-300  # probabilities below it count as this


def probabilities(link: str, argument: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F and 1 - F, each accurate in its own tail; shapes of the argument."""
    from scipy import special

    if link == "logit":
        return special.expit(argument), special.expit(-argument)
    if link == "probit":
        return special.ndtr(argument), special.ndtr(-argument)
    if link == "cloglog":
        rate = np.exp(np.minimum(argument, 30.0))
        return -np.expm1(-rate), np.exp(-rate)
    rate = np.exp(np.minimum(-argument, 30.0))
    return np.exp(-rate), -np.expm1(-rate)


def quantile(link: str, probability: float) -> float:
    """Inverse of F."""
    if link == "logit":
        return math.log(probability / (1.0 - probability))
    if link == "probit":
        return NormalDist().inv_cdf(probability)
    if link == "cloglog":
        return float(np.log(-np.log1p(-probability)))
    return float(-np.log(-np.log(probability)))


def rise(link: str) -> float:
    """From 10 to 90 % of F, in scales."""
    return quantile(link, 0.9) - quantile(link, 0.1)


def crossing(link: str, lapse: float) -> float:
    """Where the curve is one half, in scales from its center; a lapse of one half or more has no such place."""
    return quantile(link, 0.5 / (1.0 - lapse)) if lapse < 0.5 else float("inf")


def curve(link: str, n: np.ndarray, n50: float, scale: float, lapse: float = 0.0) -> np.ndarray:
    """P(success) at n measurements, in the shape of n; one half at n50.

    >>> round(float(curve("logit", np.array([40.0]), n50=40.0, scale=0.1, lapse=0.05)[0]), 12)
    0.5
    """
    argument = (np.log(n) - np.log(n50)) / scale + crossing(link, lapse)
    return np.asarray((1.0 - lapse) * probabilities(link, argument)[0])


@dataclass(frozen=True)
class Observations:
    """Thresholds known to lie above one measured n and at or below another.

    A trial by itself says only on which side of its n its threshold lies. A replicate followed over several n has its
    threshold between its last failure and its first success.

    Attributes:
        values: (v,) the different log n, increasing.
        won: (v,) how many thresholds are known to lie at or below each value, and nothing else of them: successes.
        lost: (v,) how many are known to lie above each value: failures.
        above, until: (m,) indices of the values that thresholds known from both sides lie between.
        count: (m,) how many such thresholds.
    """

    values: np.ndarray
    won: np.ndarray
    lost: np.ndarray
    above: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    until: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    count: np.ndarray = field(default_factory=lambda: np.zeros(0))

    @classmethod
    def of_replicates(cls, values: np.ndarray, above: np.ndarray, until: np.ndarray) -> Observations:
        """Replicates with their last failure (-1 without one) and first success (v without one), as indices; (k,)."""
        size, low, high = len(values), above >= 0, until < len(values)
        bounds, count = np.unique(np.stack((above, until))[:, low & high], axis=1, return_counts=True)
        won = np.bincount(until[high & ~low], minlength=size).astype(float)
        lost = np.bincount(above[low & ~high], minlength=size).astype(float)
        return cls(values, won, lost, bounds[0], bounds[1], count.astype(float))

    @property
    def all_failed(self) -> bool:
        """No success anywhere."""
        return not self.won.any() and not len(self.count)

    @property
    def all_succeeded(self) -> bool:
        """No failure anywhere."""
        return not self.lost.any() and not len(self.count)

    @property
    def gap(self) -> tuple[float, float] | None:
        """The two log n between which every threshold may lie, where all fail up to one and succeed from the other."""
        above = np.concatenate((np.flatnonzero(self.lost), self.above))
        until = np.concatenate((np.flatnonzero(self.won), self.until))
        if not len(above) or not len(until) or above.max() >= until.min():
            return None
        return float(self.values[above.max()]), float(self.values[until.min()])

    def outcomes(self, *, trials: bool) -> np.ndarray | None:
        """(columns,) how often each outcome of :meth:`chances` was observed; None where values were left out."""
        if trials:
            return np.concatenate((self.won, self.lost))
        if self.won[1:].any() or self.lost[:-1].any() or np.any(self.until != self.above + 1):
            return None
        bins = np.bincount(self.until, self.count, len(self.values) + 1)
        bins[0], bins[-1] = self.won[0], self.lost[-1]
        return np.asarray(bins)

    def chances(
        self, link: str, center: np.ndarray, scale: np.ndarray, lapse: np.ndarray, *, trials: bool
    ) -> np.ndarray:
        """Probability of each outcome on each curve: the broadcast shape of the parameters, then (columns,).

        Of trials the success at each value, then the failure at each; of replicates that are followed the number of
        values that their threshold lies above.
        """
        lapse = np.asarray(lapse)[..., None]
        below, beyond = self._tails(link, center, scale)
        succeed, fail = (1.0 - lapse) * below, beyond + lapse * below
        if trials:
            return np.concatenate((succeed, fail), axis=-1)
        place = np.arange(len(self.values) - 1)
        inside = (1.0 - lapse) * _between(below, beyond, place, place + 1)
        return np.concatenate((succeed[..., :1], inside, fail[..., -1:]), axis=-1)

    def heights(self, link: str, center: np.ndarray, scale: np.ndarray, lapses: np.ndarray) -> np.ndarray:
        """Log-likelihood at each curve and each lapse rate: (l,), then the broadcast shape of center and scale."""
        below, beyond = self._tails(link, center, scale)  # (..., v)
        won, lost = self.won > 0, self.lost > 0
        total = np.log(np.maximum(below[..., won], _LEAST)) @ self.won[won]
        if len(self.count):
            inside = _between(below, beyond, self.above, self.until)
            total = total + np.log(np.maximum(inside, _LEAST)) @ self.count
        rates = lapses.reshape(-1, *(1,) * total.ndim)
        chance = beyond[..., lost] + rates[..., None] * below[..., lost]
        np.log(np.maximum(chance, _LEAST, out=chance), out=chance)
        succeeded = float(self.won.sum() + self.count.sum())
        return np.asarray(chance @ self.lost[lost] + total + succeeded * np.log1p(-rates))

    def most_below(self, most: float) -> float:
        """An upper bound of the log-likelihood of curves that stay below a success probability everywhere."""
        total = self.won + self.lost
        chance = np.minimum(self.won / np.maximum(total, 1.0), most)
        from scipy.special import xlogy

        return float(
            (xlogy(self.won, chance) + xlogy(self.lost, 1.0 - chance)).sum() + self.count.sum() * math.log(most)
        )

    def _tails(self, link: str, center: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return probabilities(link, (self.values - np.asarray(center)[..., None]) / np.asarray(scale)[..., None])


def _between(below: np.ndarray, beyond: np.ndarray, above: np.ndarray, until: np.ndarray) -> np.ndarray:
    """P(threshold between two values), from whichever tail is accurate; (..., m)."""
    left = below[..., until] - below[..., above]
    right = beyond[..., above] - beyond[..., until]
    return np.asarray(np.where(below[..., above] > 0.5, right, left))
