"""The width of a transition: from 10 to 90 % of the curve's rise, in measurements, and its limits."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from flatdist.threshold.curves import crossing, quantile, rise
from flatdist.threshold.posterior import Posterior


def log_measurements(link: str, width: np.ndarray, lapse: float, log_n50: float | np.ndarray) -> np.ndarray:
    """Logarithm of the number of measurements that a curve takes to rise from 10 to 90 %; the shape of width.

    Args:
        link, lapse: of the curve.
        width: the same on log n.
        log_n50: where the curve is one half.
    """
    first = log_n50 + width / rise(link) * (quantile(link, 0.1) - crossing(link, min(lapse, 0.499)))
    return np.asarray(first + width + np.log(-np.expm1(-width)))


def limits(found: Posterior, lapse: float, log_n50: float, level: float) -> tuple[float, float]:
    """Limits of the width, in measurements; 0 or infinite where the observations do not bound it.

    Over several links they are quantiles of the posterior, as n50's are: a single curve's profile says nothing of the
    widths of others, which fit as well. Where one link is asked for they are the profile likelihood's.

    Args:
        found: weights of all curves.
        lapse: of the curve that is shown; 0 leaves lapses out of the profile.
        log_n50: where that curve is one half.
        level: of the limits.
    """
    reach = NormalDist().inv_cdf(0.5 + 0.5 * level)
    one = len(found.links) == 1
    heights = found.heights if lapse > 0.0 or not one else found.heights[:, :1]
    _, profile = _peak(heights.max(axis=(0, 1)))  # (w,)
    place, top = _peak(profile[None])
    root = np.where(np.arange(len(profile)) < place, -1.0, 1.0) * np.sqrt(2.0 * np.maximum(top - profile, 0.0))
    if one:
        sizes = log_measurements(found.links[0], found.width, lapse, log_n50)
        low, high = np.interp((-reach, reach), np.maximum.accumulate(root), sizes)
    else:
        curves = np.stack([
            np.stack([log_measurements(link, found.width[:, None], *at) for at in zip(found.lapses, n50, strict=True)])
            for link, n50 in zip(found.links, found.log_n50, strict=True)
        ])  # fmt: skip
        spacing = math.log(found.width[1] / found.width[0])
        low, high = found.quantiles_of(curves, spacing, (0.5 - 0.5 * level, 0.5 + 0.5 * level))
    return math.exp(low) if root[0] < -reach else 0.0, math.exp(min(high, 700.0)) if root[-1] > reach else math.inf


def _peak(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place and height of the maximum along the last axis, by the parabola through the greatest value; (...) each."""
    at = np.clip(values.argmax(axis=-1), 1, values.shape[-1] - 2)
    left, middle, right = (np.take_along_axis(values, (at + side)[..., None], -1)[..., 0] for side in (-1, 0, 1))
    bend = np.minimum(left - 2.0 * middle + right, -1e-12)
    away = np.where(middle >= np.maximum(left, right), 0.5 * (left - right) / bend, np.where(left > right, -1.0, 1.0))
    height = np.maximum(middle - 0.25 * (left - right) * away, np.maximum(left, right))
    return at + away, np.maximum(height, values.max(axis=-1))
