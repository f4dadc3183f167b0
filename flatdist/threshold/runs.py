"""The runs of one group: what every statistic of n50 starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from flatdist.threshold.curves import Observations


@dataclass(frozen=True)
class Runs:
    """The runs of one group, independent and in any order.

    Attributes:
        n: (k,) measurements of each run, positive.
        success: (k,) booleans.
        replicate: (k,) whose runs are not independent of each other, as on nested problems; None where all are.
    """

    n: np.ndarray
    success: np.ndarray
    replicate: np.ndarray | None = None

    def __post_init__(self) -> None:
        n, success = np.asarray(self.n), np.asarray(self.success)
        if n.ndim != 1 or n.shape != success.shape:
            raise ValueError(f"n and success need one entry per run; got shapes {n.shape} and {success.shape}")
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

    def bounds(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Each replicate's last failure and first success, as indices of the different n: -1 and v where it has none.

        None where the runs are independent, or where some replicate fails after it succeeded.
        """
        if self.replicate is None:
            return None
        values, index = np.unique(self.n, return_inverse=True)
        labels, unit = np.unique(self.replicate, return_inverse=True)
        above, until = np.full(len(labels), -1), np.full(len(labels), len(values))
        np.maximum.at(above, unit[~self.success], index[~self.success])
        np.minimum.at(until, unit[self.success], index[self.success])
        return (above, until) if np.all(above < until) else None

    def observations(self) -> Observations:
        """The observations of the threshold: one per replicate, or one per run."""
        values, won, lost = self.counts()
        bounds = self.bounds()
        if bounds is None:
            return Observations(np.log(values), won, lost)
        return Observations.of_replicates(np.log(values), *bounds)
