"""Success curves P(success at n) = (1 - lapse) F((log n - center) / scale), and the likelihood of what was observed.

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
    rate = np.exp(np.minimum(argument if link == "cloglog" else -argument, 30.0))
    reached, missed = -np.expm1(-rate), np.exp(-rate)
    return (reached, missed) if link == "cloglog" else (missed, reached)


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
    return quantile(link, 0.5 / (1.0 - lapse)) if lapse < 0.5 else math.inf


def curve(link: str, n: np.ndarray, n50: float, scale: float, lapse: float = 0.0) -> np.ndarray:
    """P(success) at n measurements, in the shape of n; one half at n50.

    >>> round(float(curve("logit", np.array([40.0]), n50=40.0, scale=0.1, lapse=0.05)[0]), 12)
    0.5
    """
    argument = (np.log(n) - np.log(n50)) / scale + crossing(link, lapse)
    return np.asarray((1.0 - lapse) * probabilities(link, argument)[0])


class ByContent:
    """Equal, and equally hashed, where all arrays hold the same bytes, so that what follows from them can be cached."""

    def _content(self) -> tuple[bytes, ...]:
        return tuple(np.asarray(values).tobytes() for values in vars(self).values())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByContent) and self._content() == other._content()

    def __hash__(self) -> int:
        return hash(self._content())


@dataclass(frozen=True, eq=False)
class Runs(ByContent):
    """The runs of one group, (k,) each."""

    n: np.ndarray  # measurements, positive; in increasing order where runs are independent
    success: np.ndarray  # booleans
    replicate: np.ndarray | None = (
        None  # whose runs depend on each other, as on nested problems, from 0; None: no runs do
    )

    def __post_init__(self) -> None:
        n, success = np.asarray(self.n), np.asarray(self.success)
        if n.ndim != 1 or n.shape != success.shape:
            raise ValueError(f"n and success need one entry per run; got shapes {n.shape} and {success.shape}")
        if n.size and not np.all(np.isfinite(n) & (n > 0)):
            raise ValueError(f"n must be positive numbers of measurements; got {n[~(np.isfinite(n) & (n > 0))][:5]}")
        if success.size and not np.all((success == 0) | (success == 1)):
            raise ValueError("success must be true or false for every run")
        if self.replicate is None:
            order = np.lexsort((success, n))
            n, success = n[order], success[order]
        else:
            object.__setattr__(self, "replicate", np.unique(self.replicate, return_inverse=True)[1])
        object.__setattr__(self, "n", n.astype(float))
        object.__setattr__(self, "success", success.astype(bool))

    def __len__(self) -> int:
        return len(self.n)

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The different n, increasing, with the successes and failures at each, (v,) each."""
        values, index = np.unique(self.n, return_inverse=True)
        won = np.bincount(index, self.success, minlength=len(values))
        return values, won, np.bincount(index, minlength=len(values)) - won

    def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Each replicate's last failure and first success, as indices of the different n: -1 and v where it has none.

        None where the runs are independent, or where some replicate fails after it succeeded.
        """
        if self.replicate is None:
            return None
        values, index = np.unique(self.n, return_inverse=True)
        above, until = np.full((2, self.replicate.max() + 1), [[-1], [len(values)]])
        np.maximum.at(above, self.replicate[~self.success], index[~self.success])
        np.minimum.at(until, self.replicate[self.success], index[self.success])
        return (above, until) if np.all(above < until) else None

    def observations(self) -> Observations:
        """What is known of thresholds: of one for each replicate, or for each run."""
        values, won, lost = self.counts()
        bounds = self.bounds()
        if bounds is None:
            return Observations(np.log(values), won, lost)
        (above, until), size = bounds, len(values)
        low, high = above >= 0, until < size
        both, count = np.unique(np.stack(bounds)[:, low & high], axis=1, return_counts=True)
        won = np.bincount(until[high & ~low], minlength=size).astype(float)
        lost = np.bincount(above[low & ~high], minlength=size).astype(float)
        return Observations(np.log(values), won, lost, both[0], both[1], count.astype(float))


@dataclass(frozen=True)
class Observations:
    """Thresholds known to lie above one measured n and at or below another.

    A trial by itself says only on which side of its n its threshold lies. A replicate followed over several n has its
    threshold between its last failure and its first success.
    """

    values: np.ndarray  # (v,) the different log n, increasing
    won: np.ndarray  # (v,) thresholds known to lie at or below each value, and nothing else of them: successes
    lost: np.ndarray  # (v,) those known to lie above each value: failures
    above: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))  # (m,) indices of the values that
    until: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))  # thresholds known from both sides
    count: np.ndarray = field(default_factory=lambda: np.zeros(0))  # lie between, and how many do

    @property
    def one_sided(self) -> bool:
        """Nothing but failures, or nothing but successes."""
        return not len(self.count) and not (self.won.any() and self.lost.any())

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

    def _tails(self, link: str, center: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return probabilities(link, (self.values - np.asarray(center)[..., None]) / np.asarray(scale)[..., None])


def _between(below: np.ndarray, beyond: np.ndarray, above: np.ndarray, until: np.ndarray) -> np.ndarray:
    """P(threshold between two values), from whichever tail is accurate; (..., m)."""
    left = below[..., until] - below[..., above]
    right = beyond[..., above] - beyond[..., until]
    return np.asarray(np.where(below[..., above] > 0.5, right, left))
