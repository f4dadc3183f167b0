"""n50 of one group of runs and its interval: the one way in which searches, tables and figures state it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from flatdist.threshold.likelihood import Observations, Profile, profile, trials_drop


@dataclass(frozen=True)
class Runs:
    """What is known of one group: independent runs, in any order.

    Attributes:
        n: (k,) measurements of each run, whole and positive.
        success: (k,) booleans.
    """

    n: np.ndarray
    success: np.ndarray

    def __post_init__(self) -> None:
        n, success = np.asarray(self.n), np.asarray(self.success)
        if n.ndim != 1 or n.shape != success.shape:
            raise ValueError(
                f"n and success must be as long as each other, one entry a run; got {n.shape}, {success.shape}"
            )
        if n.size and not np.all(np.isfinite(n) & (n > 0)):
            raise ValueError(f"n must be positive numbers of measurements; got {n[~(np.isfinite(n) & (n > 0))][:5]}")
        if success.size and not np.all((success == 0) | (success == 1)):
            raise ValueError("success must be true or false for every run")
        object.__setattr__(self, "n", n.astype(float))
        object.__setattr__(self, "success", success.astype(bool))

    def __len__(self) -> int:
        return len(self.n)

    def counts(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The different n, increasing, with the successes and failures at each, (v,) each."""
        values, index = np.unique(self.n, return_inverse=True)
        won = np.bincount(index, self.success, minlength=len(values))
        return values, won, np.bincount(index, minlength=len(values)) - won


@dataclass(frozen=True)
class Interval:
    """n50, the number of measurements at which half of the runs succeed.

    Attributes:
        n50: estimate; NaN where censored left, right or unresolved.
        low, high: limits; 0 or infinite where the runs do not bound n50.
        censored: ``none``; ``interval`` (all fail up to one n and all succeed from the next: n50 lies between them, and
            the estimate is their geometric middle); ``left`` (n50 is below the smallest n); ``right`` (above the
            largest); ``unresolved`` (success does not rise with n, or there are no runs).
    """

    n50: float
    low: float
    high: float
    censored: str

    @property
    def half_width(self) -> float:
        """Half of the interval's width on log n, about the relative error of n50; infinite where it is unbounded."""
        return 0.5 * math.log(self.high / self.low) if self.low > 0 and math.isfinite(self.high) else math.inf


def interval(runs: Runs, *, level: float = 0.95, link: str = "logit") -> Interval:
    """n50 of independent runs with its profile-likelihood interval, as tables of thresholds report it.

    Args:
        runs: of one group.
        level: confidence level.
        link: ``logit`` or ``probit``.
    """
    values = np.unique(np.log(runs.n))
    if len(values) == 0:
        return Interval(math.nan, 0.0, math.inf, "unresolved")
    if len(values) == 1:
        return one_value(values[0], runs.success, level)
    observations = Observations.of_trials(np.log(runs.n), runs.success)
    fitted = profile(observations, values, link, level, slope_limits=False)
    return judge(fitted, values, observations)


def one_value(value: float, success: np.ndarray, level: float) -> Interval:
    """A single n says at most on which side of it n50 is.

    Args:
        value: log n.
        success: (k,) booleans.
        level: confidence level.
    """
    share = float(np.mean(success))
    # Likelihood of the observed share against one half, the only thing that n50 = n would predict.
    entropy = sum(part * math.log(2.0 * part) for part in (share, 1.0 - share) if part > 0)
    if len(success) * entropy <= trials_drop(level, float(len(success))):
        return Interval(math.nan, 0.0, math.inf, "unresolved")
    n = math.exp(value)
    return Interval(math.nan, 0.0, n, "left") if share > 0.5 else Interval(math.nan, n, math.inf, "right")


def judge(fitted: Profile, values: np.ndarray, observations: Observations | None) -> Interval:
    """Is n50 bracketed, and by what.

    Args:
        fitted: profile likelihood.
        values: (v,) the different log n, increasing.
        observations: what it was fitted to; None where that is not a set of intervals.
    """
    low, high = math.exp(fitted.low), math.exp(fitted.high)
    all_failed = observations is not None and bool(np.all(np.isinf(observations.high)))
    all_succeeded = observations is not None and bool(np.all(np.isinf(observations.low)))
    unresolved = math.isinf(fitted.low) and math.isinf(fitted.high)
    if all_failed or (fitted.center > values[-1] and not unresolved):
        return Interval(math.nan, low, math.inf, "right")
    if all_succeeded or (fitted.center < values[0] and not unresolved):
        return Interval(math.nan, 0.0, high, "left")
    if unresolved:
        return Interval(math.nan, 0.0, math.inf, "unresolved")
    separated = observations is not None and observations.separated
    return Interval(math.exp(fitted.center), low, high, "interval" if separated else "none")
