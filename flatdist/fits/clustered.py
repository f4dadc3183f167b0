"""Thresholds where one replicate's trials at several n are dependent, and its success is not monotone in n.

Replicate j has its own log threshold u_j ~ N(center, spread^2), and each of its trials succeeds with probability
expit((log n - u_j) / noise), independently given u_j. The replicate is the unit: its likelihood integrates over u_j.
Success at n averages to 1/2 at n = exp(center), so the center is log n50.
"""

from __future__ import annotations

import numpy as np
from scipy import special, stats

from flatdist.threshold.likelihood import Profile

_NODES, _CENTERS, _SPREADS, _NOISES = 500, 241, 16, 12
_REACH = 1.0  # limits of log n50 beyond the measured values by more than this share of their range are infinite


def clustered_profile(log_n: np.ndarray, success: np.ndarray, unit: np.ndarray, drop: float) -> Profile:
    """Profile likelihood of log n50 over spread and noise.

    The likelihood of a replicate given u_j does not depend on center and spread, so it is tabulated once on a grid of u
    for each noise level, and every (center, spread) is then a weighted sum over that grid.

    Args:
        log_n: (k,) logarithms of n.
        success: (k,) booleans.
        unit: (k,) labels, equal for trials of one replicate.
        drop: of the log-likelihood at the interval's limits.
    """
    values = np.unique(log_n)
    span = float(values[-1] - values[0])
    gap = float(np.diff(values).min())
    u = np.linspace(values[0] - 2.5 * _REACH * span, values[-1] + 2.5 * _REACH * span, _NODES)
    centers = np.linspace(values[0] - _REACH * span, values[-1] + _REACH * span, _CENTERS)
    spreads = np.geomspace(0.3 * gap, 1.5 * span, _SPREADS)
    noises = np.geomspace(0.05 * gap, 1.5 * span, _NOISES)
    weights = stats.norm.pdf((u - centers[:, None, None]) / spreads[:, None])  # (centers, spreads, u)
    weights /= weights.sum(axis=-1, keepdims=True)
    labels, index = np.unique(unit, return_inverse=True)
    sign = np.where(success, 1.0, -1.0)
    heights = np.empty((len(noises), len(centers), len(spreads)))
    for position, noise in enumerate(noises):
        each = special.log_expit(sign * (log_n - u[:, None]) / noise)  # (u, k)
        per_unit = np.zeros((len(u), len(labels)))
        np.add.at(per_unit.T, index, each.T)
        top = per_unit.max(axis=0)
        mixed = weights @ np.exp(per_unit - top)  # (centers, spreads, units)
        heights[position] = (np.log(np.maximum(mixed, 1e-300)) + top).sum(axis=-1)
    profiled = heights.max(axis=(0, 2))  # (centers,)
    return _summary(centers, profiled, heights, spreads, noises, drop, success)


def _summary(
    centers: np.ndarray,
    profiled: np.ndarray,
    heights: np.ndarray,
    spreads: np.ndarray,
    noises: np.ndarray,
    drop: float,
    success: np.ndarray,
) -> Profile:
    best = int(np.argmax(profiled))
    floor = profiled[best] - drop
    center = centers[best]
    if 0 < best < len(centers) - 1:  # vertex of the parabola through the three highest points
        before, at, after = profiled[best - 1 : best + 2]
        bend = before - 2.0 * at + after
        center += 0.0 if bend >= 0 else 0.5 * (before - after) / bend * (centers[1] - centers[0])
    low = -_outwards(-centers[best::-1], profiled[best::-1], floor)
    high = _outwards(centers[best:], profiled[best:], floor)
    noise_at, _, spread_at = np.unravel_index(int(np.argmax(heights)), heights.shape)
    slope = 1.0 / np.hypot(noises[noise_at], spreads[spread_at] * np.sqrt(3.0) / np.pi)  # logistic of equal variance
    share = success.mean()
    trendless = len(success) * float(special.xlogy(share, share) + special.xlogy(1 - share, 1 - share))
    return Profile(float(center), float(slope), low, high, 0.0, float("inf"), float(profiled[best]), trendless)


def _outwards(points: np.ndarray, heights: np.ndarray, level: float) -> float:
    """First crossing of ``level`` along increasing points, interpolated; infinite where there is none."""
    below = np.flatnonzero(heights < level)
    if len(below) == 0:
        return float("inf")
    first = below[0]
    share = (heights[first - 1] - level) / (heights[first - 1] - heights[first])
    return float(points[first - 1] + share * (points[first] - points[first - 1]))
