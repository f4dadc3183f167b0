"""The posterior of the success curve, given the observations, on a grid of curves.

The curves are those of :mod:`flatdist.threshold.curves`, over center, width, lapse rate and link. The data seldom
settle which link it is and whether there are lapses, and an interval of n50 that assumes either is too narrow, so it
averages over both. Priors are weak:

- center: log-uniform over the range that was measured or searched, and beyond its ends;
- width, from 10 to 90 %: log-uniform from a fraction of a step of the grid to some ranges;
- lapse: none with probability 1/2, else Beta(1, 10) (the prior of psignifit, cut at one half);
- link: equal for the symmetric and the two asymmetric kinds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from flatdist.threshold.curves import LINKS, Observations, Runs, crossing, quantile, rise

LINK_WEIGHTS = {"logit": 1 / 6, "probit": 1 / 6, "cloglog": 1 / 3, "loglog": 1 / 3}
DEPTH = 7.0  # log posterior below the highest at which curves are given up
FAR = 10.0  # the same for lapse rates
_BEYOND = 0.25  # of a searched range's logarithm, on either side: where n50 may lie outside of it
_LEAST_RANGE = 0.4  # a range of one value or of few is taken to be this wide, on log n
_SHARPEST = 1.0  # least width, in measurements at the range's upper end
_WIDEST = 2.0  # largest width, as a share of the range's logarithm
_NO_LAPSE = 0.5
_BETA = 10.0
_STAGES = 4  # how often the grid may zoom in


class Grid(NamedTuple):
    """How finely curves are tabulated: numbers of centers (before the first zoom, and then) and widths, lapse rates."""

    first: int
    centers: int
    widths: int
    lapses: tuple[float, ...]


FINE = Grid(31, 51, 13, (0.0, 0.015, 0.04, 0.08, 0.14, 0.23, 0.35, 0.47))
COARSE = Grid(81, 41, 9, (0.0, 0.03, 0.1, 0.25, 0.45))


@dataclass(frozen=True)
class Posterior:
    """Curves and their weights."""

    links: tuple[str, ...]  # k
    center: np.ndarray  # (x,) log n
    width: np.ndarray  # (w,) from 10 to 90 %, on log n
    lapses: np.ndarray  # (l,)
    heights: np.ndarray  # (k, l, w, x) log-likelihoods
    log_prior: np.ndarray  # (k, l, 1, 1), up to a constant
    edges: tuple[float, float]  # greatest log-likelihood with a center at either end of the whole range

    @cached_property
    def weight(self) -> np.ndarray:
        """(k, l, w, x), of sum 1."""
        log_weight = self.heights + self.log_prior
        weight = np.exp(log_weight - log_weight.max())
        return np.asarray(weight / weight.sum())

    @cached_property
    def log_n50(self) -> np.ndarray:
        """(k, l, w, x) log n at which each curve is one half."""
        shift = np.array([[crossing(link, lapse) / rise(link) for lapse in self.lapses] for link in self.links])
        return np.asarray(self.center + shift[:, :, None, None] * self.width[:, None])

    def quantiles(self, shares: tuple[float, ...]) -> np.ndarray:
        """Quantiles of log n50, in the shape of the shares."""
        return self.quantiles_of(self.log_n50, float(self.center[1] - self.center[0]), shares)

    def quantiles_of(self, of_curves: np.ndarray, spacing: float, shares: tuple[float, ...]) -> np.ndarray:
        """Quantiles of a quantity of the curves (k, l, w, x) that has this spacing between neighbouring ones."""
        values, weight = of_curves.ravel(), self.weight.ravel()
        used = weight > 1e-9 * weight.max()
        values, weight, step = values[used], weight[used], 0.5 * spacing
        edges = np.arange(values.min() - 2.0 * step, values.max() + 3.0 * step, step)
        if len(edges) > 4000:
            edges = np.linspace(edges[0], edges[-1], 4000)
            step = edges[1] - edges[0]
        # Each curve stands for those between it and its neighbours: its weight is spread over two cells of the grid.
        place = (values - edges[0]) / step
        mass = np.zeros(len(edges) + 2)
        for offset in (-0.75, -0.25, 0.25, 0.75):
            mass += np.bincount(np.floor(place + offset).astype(int) + 1, weight, len(mass))[: len(mass)]
        total = np.concatenate(([0.0], np.cumsum(mass)))
        places = edges[0] + step * (np.arange(len(total)) - 1.0)
        return np.asarray(np.interp(np.asarray(shares) * total[-1], total, places))


def posterior(
    observations: Observations,
    ends: tuple[float, float],
    widths: tuple[float, float],
    *,
    links: tuple[str, ...] = LINKS,
    grid: Grid = FINE,
    dispersion: float = 1.0,
) -> Posterior:
    """Weigh success curves by the observations, of which there may be none.

    Args:
        observations: of thresholds.
        ends, widths: least and largest center and width, on log n.
        links: over which to average.
        grid: how finely the curves are tabulated.
        dispersion: by which the log-likelihood is divided, where observations scatter more than the curves allow.
    """
    (first, last), (narrow, wide) = ends, widths
    edges = (-math.inf, -math.inf)
    most = 1.0  # lapse rate that the observations allow
    for stage in range(_STAGES):
        centers, size, rates = (grid.first, 9, grid.lapses[::2]) if stage == 0 else grid[1:]
        lapses, center = np.array([rate for rate in rates if rate < most]), np.linspace(first, last, centers)
        step = float(center[1] - center[0])
        # A sharper curve would fall between two centers and be judged by accident.
        width = np.geomspace(max(narrow, step), max(wide, 3.0 * step), size)
        heights = np.stack([observations.heights(link, center, width[:, None] / rise(link), lapses) for link in links])
        heights /= dispersion
        if stage == 0:
            edges = float(heights[..., 0].max()), float(heights[..., -1].max())
        log_prior = _log_prior(links, rates)[:, : len(lapses), None, None]
        found = Posterior(links, center, width, lapses, heights, log_prior, edges)
        high = found.heights + found.log_prior
        if stage == 0:
            possible = high.max(axis=(0, 2, 3)) > high.max() - FAR
            most = float(np.append(lapses, 1.0)[max(int(np.flatnonzero(possible)[-1]) + 1, 2)])
        high = high.max(axis=(0, 1))  # (w, x)
        kept = high > high.max() - DEPTH
        inside = np.flatnonzero(kept.any(axis=0))
        if stage == _STAGES - 1 or (stage > 0 and len(inside) > 0.5 * centers):
            break
        first, last = center[max(inside[0] - 1, 0)], center[min(inside[-1] + 1, centers - 1)]
        rows = np.flatnonzero(kept.any(axis=1))
        if rows[-1] < size - 1:
            wide = float(width[rows[-1] + 1])
        if rows[0] > 0:
            narrow = float(width[rows[0] - 1])
    return found


def _log_prior(links: tuple[str, ...], lapses: tuple[float, ...]) -> np.ndarray:  # (k, l)
    rates = np.array(lapses)
    edges = np.concatenate(([0.0], 0.5 * (rates[2:] + rates[1:-1]), [0.5]))
    mass = np.diff(1.0 - (1.0 - edges) ** _BETA)
    lapse = np.concatenate(([_NO_LAPSE], (1.0 - _NO_LAPSE) * mass / mass.sum()))
    link = np.array([LINK_WEIGHTS[name] for name in links])
    return np.log(np.outer(link / link.sum(), lapse))


def width_range(values: np.ndarray) -> tuple[float, float]:
    """Least and largest width that measurements at these log n (k,) can resolve."""
    return 0.1 * float(np.diff(values).min()), 3.0 * float(values[-1] - values[0])


@lru_cache(maxsize=128)  # whether a search has finished and where it measures next are asked one after the other
def search_posterior(runs: Runs, low: float, high: float) -> Posterior:
    """Weigh success curves for a search between two numbers of measurements; there may be no runs yet."""
    n, won, lost = runs.counts()
    middle, span = 0.5 * math.log(low * high), max(math.log(high / low), _LEAST_RANGE)
    reach = (0.5 + _BEYOND) * span
    ends, widths = (middle - reach, middle + reach), (_SHARPEST / high, _WIDEST * span)
    seen = Observations(np.log(n), won, lost)
    return posterior(seen, ends, widths, links=("logit", "cloglog", "loglog"), grid=COARSE)


def log_measurements(link: str, width: np.ndarray, lapse: float, log_n50: float | np.ndarray) -> np.ndarray:
    """Logarithm of the number of measurements that curves take to rise from 10 to 90 %, from their widths on log n."""
    first = log_n50 + width / rise(link) * (quantile(link, 0.1) - crossing(link, min(lapse, 0.499)))
    return np.asarray(first + width + np.log(-np.expm1(-width)))


def width_limits(found: Posterior, lapse: float, log_n50: float, level: float) -> tuple[float, float]:
    """Limits of a transition's width, in measurements; 0 or infinite where the observations do not bound it.

    Over several links they are quantiles of the posterior, as n50's are: a single curve's profile says nothing of the
    widths of others, which fit as well. Where one link is asked for they are the profile likelihood's, with the lapse
    (0 leaves lapses out) and log n50 of the curve that is shown.
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
