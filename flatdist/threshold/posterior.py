"""What the runs so far say of the success curve: a posterior on a grid of (log n50, log scale).

    P(success at n) = expit((log n - log n50) / scale)

with weak priors: n50 log-uniform over the range searched and somewhat beyond its ends, so that a transition outside of
it can be recognised, and scale log-uniform from a fraction of one measurement to half of the range.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import special

from flatdist.threshold.interval import Runs

BEYOND = 0.25  # of the range's logarithm, on either side: where n50 may lie outside the range
LEAST_RANGE = 0.4  # a range of one value or of few is taken to be this wide, on log n
SHARPEST = 0.2  # smallest scale, in measurements at the range's upper end
WIDEST = 0.5  # largest scale, as a share of the range's logarithm
DEPTH = 9.0  # log posterior below the highest at which values of n50 are given up
STAGES = ((193, 10), (65, 14), (65, 14), (65, 20))  # values of n50 and of the scale; each stage zooms in


@dataclass(frozen=True)
class Posterior:
    """Weights of success curves.

    Attributes:
        center: (g,) log n50.
        scale: (g,) scale on log n.
        log_weight: (g,) unnormalised logarithms of the weights.
    """

    center: np.ndarray
    scale: np.ndarray
    log_weight: np.ndarray

    @property
    def weight(self) -> np.ndarray:
        """Normalised weights, (g,)."""
        weight = np.exp(self.log_weight - self.log_weight.max())
        return np.asarray(weight / weight.sum())

    def quantiles(self, shares: tuple[float, ...]) -> np.ndarray:
        """Quantiles of log n50, in the shape of the shares."""
        values, index = np.unique(self.center, return_inverse=True)
        mass = np.cumsum(np.bincount(index, self.weight))
        step = values[1] - values[0]
        edges = np.concatenate(([values[0] - 0.5 * step], values + 0.5 * step))
        return np.asarray(np.interp(shares, np.concatenate(([0.0], mass)), edges))


def posterior(runs: Runs, low: float, high: float) -> Posterior:
    """Weigh success curves by the runs.

    Args:
        runs: of one group; there may be none.
        low, high: ends of the range searched, in measurements.
    """
    middle = 0.5 * (math.log(low) + math.log(high))
    span = max(math.log(high / low), LEAST_RANGE)
    first, last = middle - (0.5 + BEYOND) * span, middle + (0.5 + BEYOND) * span
    sharpest, widest = SHARPEST / high, WIDEST * span
    values, won, lost = runs.counts()
    for stage, (count, scales) in enumerate(STAGES):
        center = np.linspace(first, last, count)
        step = center[1] - center[0]
        # A sharper curve would fall between two values of n50 and be judged by accident.
        scale = np.geomspace(max(sharpest, step / 3.0), max(widest, step), scales)
        height = np.zeros((count, scales))
        if len(values):
            argument = (np.log(values) - center[:, None, None]) / scale[:, None]  # (center, scale, value)
            success = special.log_expit(argument)
            height = success @ won + (success - argument) @ lost
        inside = np.flatnonzero(height.max(axis=1) > height.max() - DEPTH)
        if stage == len(STAGES) - 1 or len(inside) > 0.6 * count:
            break
        first, last = center[max(inside[0] - 1, 0)], center[min(inside[-1] + 1, count - 1)]
    return Posterior(np.repeat(center, scales), np.tile(scale, count), height.ravel())
