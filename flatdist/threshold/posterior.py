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

import numpy as np

from flatdist.threshold.curves import LINKS, Observations, crossing, rise
from flatdist.threshold.runs import Runs

LINK_WEIGHTS = {"logit": 1 / 6, "probit": 1 / 6, "cloglog": 1 / 3, "loglog": 1 / 3}
DEPTH = 7.0  # log posterior below the highest at which curves are given up
FAR = 10.0  # the same for lapse rates
_BEYOND = 0.25  # of a searched range's logarithm, on either side: where n50 may lie outside of it
_LEAST_RANGE = 0.4  # a range of one value or of few is taken to be this wide, on log n
_SHARPEST = 1.0  # least width, in measurements at the range's upper end
_WIDEST = 2.0  # largest width, as a share of the range's logarithm
_NO_LAPSE = 0.5
_BETA = 10.0


@dataclass(frozen=True)
class Grid:
    """How finely curves are tabulated.

    Attributes:
        centers, widths: numbers of values.
        lapses: rates of failure at large n.
        first: number of centers before the first zoom.
        stages: how often the grid may zoom in.
    """

    centers: int
    widths: int
    lapses: tuple[float, ...] = (0.0, 0.015, 0.04, 0.08, 0.14, 0.23, 0.35, 0.47)
    first: int = 31
    stages: int = 4


FINE, COARSE = Grid(51, 13), Grid(41, 9, (0.0, 0.03, 0.1, 0.25, 0.45), first=81)


@dataclass(frozen=True)
class Posterior:
    """Curves and their weights.

    Attributes:
        links: (k,) names.
        center: (x,) log n.
        width: (w,) from 10 to 90 %, on log n.
        lapses: (l,)
        heights: (k, l, w, x) log-likelihoods.
        log_prior: (k, l, w, x), up to a constant.
        edges: greatest log-likelihood with a center at either end of the whole range.
    """

    links: tuple[str, ...]
    center: np.ndarray
    width: np.ndarray
    lapses: np.ndarray
    heights: np.ndarray
    log_prior: np.ndarray
    edges: tuple[float, float] = (-math.inf, -math.inf)

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
        """Quantiles of a quantity of the curves, in the shape of the shares.

        Args:
            of_curves: (k, l, w, x) values.
            spacing: between the values of neighbouring curves.
            shares: of the weight.
        """
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
    """Weigh success curves by the observations.

    Args:
        observations: there may be none.
        ends: least and largest center, log n.
        widths: least and largest width, on log n.
        links: over which to average.
        grid: how finely the curves are tabulated.
        dispersion: by which the log-likelihood is divided, where observations scatter more than the curves allow.
    """
    (first, last), (narrow, wide) = ends, widths
    edges = (-math.inf, -math.inf)
    most = 1.0  # lapse rate that the observations allow
    for stage in range(grid.stages):
        size = Grid(grid.first, 9, grid.lapses[::2]) if stage == 0 else grid
        lapses, center = np.array([rate for rate in size.lapses if rate < most]), np.linspace(first, last, size.centers)
        step = float(center[1] - center[0])
        # A sharper curve would fall between two centers and be judged by accident.
        width = np.geomspace(max(narrow, step), max(wide, 3.0 * step), size.widths)
        heights = np.stack([observations.heights(link, center, width[:, None] / rise(link), lapses) for link in links])
        heights /= dispersion
        if stage == 0:
            edges = float(heights[..., 0].max()), float(heights[..., -1].max())
        log_prior = _log_prior(links, size.lapses)[:, : len(lapses), None, None] + np.zeros_like(heights)
        found = Posterior(links, center, width, lapses, heights, log_prior, edges)
        high = found.heights + found.log_prior
        if stage == 0:
            possible = high.max(axis=(0, 2, 3)) > high.max() - FAR
            most = float(np.append(lapses, 1.0)[max(int(np.flatnonzero(possible)[-1]) + 1, 2)])
        high = high.max(axis=(0, 1))  # (w, x)
        kept = high > high.max() - DEPTH
        inside = np.flatnonzero(kept.any(axis=0))
        if stage == grid.stages - 1 or (stage > 0 and len(inside) > 0.5 * size.centers):
            break
        first, last = center[max(inside[0] - 1, 0)], center[min(inside[-1] + 1, size.centers - 1)]
        rows = np.flatnonzero(kept.any(axis=1))
        if rows[-1] < size.widths - 1:
            wide = float(width[rows[-1] + 1])
        if rows[0] > 0:
            narrow = float(width[rows[0] - 1])
    return found


@lru_cache(maxsize=64)
def _log_prior(links: tuple[str, ...], lapses: tuple[float, ...]) -> np.ndarray:
    """(k, l)."""
    rates = np.array(lapses)
    edges = np.concatenate(([0.0], 0.5 * (rates[2:] + rates[1:-1]), [0.5]))
    mass = np.diff(1.0 - (1.0 - edges) ** _BETA)
    lapse = np.concatenate(([_NO_LAPSE], (1.0 - _NO_LAPSE) * mass / mass.sum()))
    link = np.array([LINK_WEIGHTS[name] for name in links])
    return np.log(np.outer(link / link.sum(), lapse))


def width_range(values: np.ndarray) -> tuple[float, float]:
    """Least and largest width that measurements at these log n (k,) can resolve."""
    span = float(values[-1] - values[0])
    return 0.1 * float(np.diff(values).min()), 3.0 * span


def search_posterior(runs: Runs, low: float, high: float) -> Posterior:
    """Weigh success curves for a search between two numbers of measurements.

    Args:
        runs: so far; there may be none.
        low, high: ends of the range searched, in measurements.
    """
    return _searched(*(tuple(column.tolist()) for column in runs.counts()), low, high)


@lru_cache(maxsize=128)  # whether a search has finished and where it measures next are asked one after the other
def _searched(
    n: tuple[float, ...], won: tuple[float, ...], lost: tuple[float, ...], low: float, high: float
) -> Posterior:
    observations = Observations(np.log(n), np.array(won), np.array(lost))
    middle, span = 0.5 * math.log(low * high), max(math.log(high / low), _LEAST_RANGE)
    reach = (0.5 + _BEYOND) * span
    widths = (_SHARPEST / high, _WIDEST * span)
    links = ("logit", "cloglog", "loglog")
    return posterior(observations, (middle - reach, middle + reach), widths, links=links, grid=COARSE)
