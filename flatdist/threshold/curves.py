"""Success curves: P(success at n) = (1 - lapse) F((log n - center) / scale), and the likelihood of what was observed.

F is one of four links. ``logit`` and ``probit`` are symmetric; ``cloglog`` (thresholds with a Weibull law) approaches
its upper end fast and its lower end slowly, ``loglog`` the other way round. A *lapse* is a failure however large n is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
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
        above: (m,) index of the value that the threshold exceeds; -1 where none is known.
        until: (m,) index of the value that it does not exceed; v where none is known.
        count: (m,) how many such observations.
    """

    values: np.ndarray
    above: np.ndarray
    until: np.ndarray
    count: np.ndarray

    @classmethod
    def of_counts(cls, values: np.ndarray, won: np.ndarray, lost: np.ndarray) -> Observations:
        """Independent trials: successes and failures at each of the values of log n, (v,) each."""
        places = np.arange(len(values))
        above = np.concatenate((np.full(len(values), -1), places))
        until = np.concatenate((places, np.full(len(values), len(values))))
        return cls(values, above, until, np.concatenate((won, lost)).astype(float))._compact()

    @classmethod
    def of_replicates(cls, values: np.ndarray, above: np.ndarray, until: np.ndarray) -> Observations:
        """Replicates with their last failure and first success, as indices of the values; (k,) each."""
        bounds, count = np.unique(np.stack((above, until)), axis=1, return_counts=True)
        return cls(values, bounds[0], bounds[1], count.astype(float))._compact()

    def _compact(self) -> Observations:
        informative = (self.count > 0) & ~((self.above < 0) & (self.until >= len(self.values)))
        return Observations(self.values, self.above[informative], self.until[informative], self.count[informative])

    @cached_property
    def kinds(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(m,) masks: thresholds known from above alone (successes), from below alone (failures), from both sides."""
        open_below, open_above = self.above < 0, self.until >= len(self.values)
        return open_below, open_above, ~open_below & ~open_above

    @property
    def all_failed(self) -> bool:
        """No success anywhere."""
        return bool(np.all(self.kinds[1]))

    @property
    def all_succeeded(self) -> bool:
        """No failure anywhere."""
        return bool(np.all(self.kinds[0]))

    @property
    def gap(self) -> tuple[float, float] | None:
        """The two log n between which every threshold may lie, where all fail up to one and succeed from the other."""
        if self.all_failed or self.all_succeeded or self.above.max() >= self.until.min():
            return None
        return float(self.values[self.above.max()]), float(self.values[self.until.min()])

    def table(self, link: str, center: np.ndarray, scale: np.ndarray, lapse: np.ndarray) -> np.ndarray:
        """Log-probability of each observation at each curve: the broadcast shape of the parameters, then (m,)."""
        argument = (self.values - np.asarray(center)[..., None]) / np.asarray(scale)[..., None]
        below, beyond = probabilities(link, argument)
        lapse = np.asarray(lapse)[..., None]
        won, lost, between = self.kinds
        table = np.empty((*np.broadcast_shapes(below.shape[:-1], lapse.shape[:-1]), len(self.count)))
        table[..., won] = (1.0 - lapse) * below[..., self.until[won]]
        table[..., lost] = beyond[..., self.above[lost]] + lapse * below[..., self.above[lost]]
        if between.any():
            table[..., between] = (1.0 - lapse) * _between(below, beyond, self.above[between], self.until[between])
        return np.log(np.maximum(table, _LEAST))

    def heights(self, link: str, center: np.ndarray, scale: np.ndarray, lapses: np.ndarray) -> np.ndarray:
        """Log-likelihood at each curve and each lapse rate: (l,), then the broadcast shape of center and scale.

        The same as ``table @ count``; successes need their logarithm once for all lapse rates.
        """
        argument = (self.values - np.asarray(center)[..., None]) / np.asarray(scale)[..., None]
        below, beyond = probabilities(link, argument)  # (..., v)
        won, lost, between = self.kinds
        total = np.log(np.maximum(below[..., self.until[won]], _LEAST)) @ self.count[won]
        if between.any():
            inside = _between(below, beyond, self.above[between], self.until[between])
            total = total + np.log(np.maximum(inside, _LEAST)) @ self.count[between]
        succeeded = self.count[won].sum() + self.count[between].sum()
        places = self.above[lost]
        failed, escaped = beyond[..., places], below[..., places]
        found = np.empty((len(lapses), *total.shape))
        for place, lapse in enumerate(lapses):
            chance = failed + lapse * escaped if lapse > 0 else failed
            found[place] = total + succeeded * np.log1p(-lapse) + np.log(np.maximum(chance, _LEAST)) @ self.count[lost]
        return found


def _between(below: np.ndarray, beyond: np.ndarray, above: np.ndarray, until: np.ndarray) -> np.ndarray:
    """P(threshold between two values), from whichever tail is accurate; (..., m)."""
    left = below[..., until] - below[..., above]
    right = beyond[..., above] - beyond[..., until]
    return np.asarray(np.where(below[..., above] > 0.5, right, left))
