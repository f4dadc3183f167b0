"""Differences on the same problems: between methods' shares of success, and tests and intervals of paired values.

If two distributions are the same, exchanging a pair changes nothing, so each difference is as likely positive as
negative; given the sizes of the differences, Wilcoxon's signed-rank test is then exact, whatever the distribution.
(scipy's is not exact with ties, which shares of success always have; where that no longer matters it is scipy's.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.fits.grouping import configuration_columns, group_rows, grouped, panel_columns, series_columns
from flatdist.fits.success import label_success, require_columns, resolve_tolerance, wilson_interval

_MOST_EXACT = 150  # differences; beyond, the normal approximation is as good
_MOST_AVERAGED = 3000  # differences; beyond, their averages take too much memory


def paired_differences(
    trials: pd.DataFrame, reference: str, tolerance: float | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Success of every other method minus that of the reference, on the problems both have.

    Args:
        trials: rows of the store.
        reference: a method with one configuration.
        tolerance: of the success; by default the common one of the methods present.
        level: confidence level.

    Returns:
        One row per (series, panel, n): their columns, ``n``, ``pairs``, ``both``, ``only_method``, ``only_reference``,
        ``neither``, and ``difference`` with ``difference_low``, ``difference_high`` (Newcombe's method 10).

    Raises:
        FitError: the reference has no trials or several configurations, or no other method shares its problems.
    """
    require_columns(trials, ("method", "replicate", "n"), "needed columns")
    labelled = label_success(trials, resolve_tolerance(trials, tolerance))
    series, panels = series_columns(labelled), panel_columns(labelled)
    pairs = with_reference(labelled, reference, ["success"])
    keys, index = grouped(pairs, [*series, *panels, "n"])
    mine, other = pairs["success"], pairs["success_reference"]
    outcomes = {"both": mine & other, "only_method": mine & ~other, "only_reference": ~mine & other}
    counts = pd.DataFrame(outcomes | {"neither": ~mine & ~other}).groupby(index).sum()
    table = pd.DataFrame(keys).assign(pairs=counts.sum(axis=1)).join(counts)
    difference = (table["only_method"] - table["only_reference"]) / table["pairs"]
    low, high = np.transpose([newcombe_interval(row, level) for row in counts.to_numpy().tolist()])
    return table.assign(difference=difference, difference_low=low, difference_high=high)


def with_reference(trials: pd.DataFrame, reference: str, columns: Sequence[str]) -> pd.DataFrame:
    """The trials of all other methods, with the reference's ``columns`` on the same problem as ``COLUMN_reference``."""
    problem = [name for name in PROBLEM_FIELDS if name in trials]
    theirs = trials[trials["method"] == reference]
    if theirs.empty:
        known = ", ".join(sorted(map(str, trials["method"].unique())))
        raise FitError(f"the reference method {reference!r} has no trials here; allowed: {known}")
    if theirs.duplicated([*problem, "replicate"]).any():
        raise FitError(
            f"the reference method {reference!r} has several configurations; select one of its "
            f"{', '.join(configuration_columns(theirs, but=PROBLEM_FIELDS)) or 'cells'}"
        )
    pairs = trials[trials["method"] != reference].merge(
        theirs[[*problem, "replicate", *columns]], on=[*problem, "replicate"], suffixes=("", "_reference")
    )
    if pairs.empty:
        raise FitError(f"no other method was run on the problems of {reference!r}, so there are no pairs")
    return pairs


def newcombe_interval(counts: Sequence[int], level: float) -> tuple[float, float]:
    """Interval for the difference of two paired proportions (Newcombe 1998, method 10: Wilson intervals, combined).

    The counts are of pairs where both, only the first, only the second, or neither succeeded.
    """
    both, only_first, only_second, neither = counts
    total = sum(counts)
    first, second = both + only_first, both + only_second
    difference = (first - second) / total
    (low1, high1), (low2, high2) = (wilson_interval(successes, total, level) for successes in (first, second))
    margins = first * (total - first) * second * (total - second)
    excess = float(both * neither - only_first * only_second)
    if excess > 0:
        excess = max(excess - total / 2.0, 0.0)  # Newcombe's continuity correction
    correlation = excess / np.sqrt(margins) if margins > 0 else 0.0
    p1, p2 = first / total, second / total

    def reach(a: float, b: float) -> float:
        return float(np.sqrt(max(a * a - 2.0 * correlation * a * b + b * b, 0.0)))

    return difference - reach(p1 - low1, high2 - p2), difference + reach(high1 - p1, p2 - low2)


def mean_differences(differences: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The differences averaged over the pairs of all n in each group, with an exact test of no difference.

    Returns:
        The columns of ``by``, ``pairs``, ``difference``, ``only_method``, ``only_reference``, and ``p_value`` of
        McNemar's exact test, for which pairs at different n must be independent problems.
    """
    rows = []
    for key, group in group_rows(differences, by):
        mine, other = int(group["only_method"].sum()), int(group["only_reference"].sum())
        pairs = int(group["pairs"].sum())
        p_value = min(2.0 * float(special.bdtr(min(mine, other), mine + other, 0.5)), 1.0)  # 1 without discordant pairs
        row: dict[str, Any] = {"pairs": pairs, "difference": (mine - other) / pairs}
        rows.append({**key, **row, "only_method": mine, "only_reference": other, "p_value": p_value})
    return pd.DataFrame(rows)


class SignedRank(NamedTuple):
    """Outcome of a test."""

    p_value: float  # two-sided
    smallest: float  # p-value that differences of these sizes could have had, 2^(1-k) with k of them not 0


def signed_rank_test(differences: np.ndarray) -> SignedRank:
    """Test that finite differences, (k,), are symmetric around 0; zeros carry no information and are left out."""
    from scipy import stats

    nonzero = differences[differences != 0.0]
    count = len(nonzero)
    smallest = min(2.0 ** (1 - min(count, 1000)), 1.0)
    if count > _MOST_EXACT:
        return SignedRank(float(stats.wilcoxon(nonzero, correction=True, method="approx").pvalue), smallest)
    ranks = np.round(2.0 * stats.rankdata(np.abs(nonzero))).astype(int)
    chance, at = _sum_chances(ranks), ranks[nonzero > 0].sum()
    tail = min(float(chance[: at + 1].sum()), float(chance[at:].sum()))
    return SignedRank(min(2.0 * tail, 1.0), smallest)


def shift_interval(differences: np.ndarray, level: float) -> tuple[float, float, float]:
    """The typical difference and its limits: the median of the averages of every two (Hodges and Lehmann 1963).

    The limits are infinite where so few finite differences, (k,), bound nothing at this level.
    """
    count, reach = len(differences), float(special.ndtri(0.5 + level / 2.0))
    if count > _MOST_AVERAGED:
        mean, error = float(differences.mean()), float(differences.std(ddof=1)) / math.sqrt(count)
        return mean, mean - reach * error, mean + reach * error
    first, second = np.triu_indices(count)
    averages = np.sort(0.5 * (differences[first] + differences[second]))
    if count <= _MOST_EXACT:
        below = np.cumsum(_sum_chances(2 * np.arange(1, count + 1)))[::2]  # P(rank sum <= 0, 1, 2, ...)
        outside = int(np.searchsorted(below, 0.5 * (1.0 - level), side="right"))
    else:
        spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24.0)
        outside = math.floor(0.25 * count * (count + 1) - reach * spread)
    limits = (float(averages[outside - 1]), float(averages[-outside])) if outside > 0 else (-math.inf, math.inf)
    return float(np.median(averages)), *limits


def _sum_chances(parts: np.ndarray) -> np.ndarray:
    """Chance of every sum of whole numbers, each of which is in it with probability one half, (sum + 1,)."""
    chance = np.ones(1)
    for part in parts:
        chance = 0.5 * (np.pad(chance, (0, part)) + np.pad(chance, (part, 0)))
    return chance


def mean_interval(values: np.ndarray, level: float) -> tuple[float, float, float, float]:
    """Mean of independent values, Student's limits, and the standard error; limits and error are infinite for one."""
    mean, count = float(values.mean()), len(values)
    error = float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else math.inf
    reach = float(special.stdtrit(max(count - 1, 1), 0.5 + level / 2.0)) * error
    return mean, mean - reach, mean + reach, error
