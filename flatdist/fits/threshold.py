"""Thresholds: the number of measurements at which half of the replicates succeed, with intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from flatdist.errors import FitError
from flatdist.fits.grouping import (
    configuration_columns,
    grouped,
    grouped_rows,
    panel_columns,
    ranked,
    series_columns,
    varies_within,
)
from flatdist.fits.success import label_success, require_columns, resolve_tolerance
from flatdist.threshold import Interval, Runs, interval
from flatdist.threshold.curves import CHOICES
from flatdist.threshold.interval import POOR_FIT

UNITS = ("auto", "trial", "replicate")
CONTEXT = ("d_out", "d_in", "rank", "ensemble", "depth")
TOLERANCES = (1e-1, 3e-2, 1e-2, 3e-3, 1e-3, 1e-4, 1e-5, 1e-6)

_COLUMNS = {
    "n50": "n50", "n50_low": "low", "n50_high": "high", "censored": "censored", "reason": "reason", "fit_p": "fit_p",
    "lapse": "lapse", "lapse_evidence": "lapse_evidence", "transition": "width", "transition_low": "width_low",
    "transition_high": "width_high", "scale": "scale", "link": "link", "n50_other_link": "other",
}  # fmt: skip


@dataclass(frozen=True)
class FitSettings:
    """How thresholds are fitted.

    Attributes:
        link: ``auto`` averages over links by evidence; ``logit``, ``probit``, ``cloglog`` or ``loglog`` fixes one.
        level: confidence level of the intervals.
        unit: what is independent: every ``trial``, or the ``replicate`` with all its n. ``auto`` takes the replicate if
            problems are nested, and otherwise the trial.
    """

    link: str = "auto"
    level: float = 0.95
    unit: str = "auto"

    def __post_init__(self) -> None:
        if self.link not in CHOICES:
            raise FitError(f"link={self.link!r} is not known; allowed: {', '.join(CHOICES)}")
        if self.unit not in UNITS:
            raise FitError(f"unit={self.unit!r} is not known; allowed: {', '.join(UNITS)}")
        if not 0.0 < self.level < 1.0:
            raise FitError(f"level={self.level!r} is not a confidence level; allowed: between 0 and 1, such as 0.95")


def fit_thresholds(
    trials: pd.DataFrame,
    by: Sequence[str] | str = ("method", "rank"),
    tolerance: float | None = None,
    *,
    link: str = "auto",
    level: float = 0.95,
    unit: str = "auto",
) -> pd.DataFrame:
    """Fit n50, the n at which success crosses one half, for each group of trials.

    P(success at n) = (1 - lapse) F((log n - center) / scale). Neither the link F nor the lapse rate is known, so the
    interval averages over both by their posterior weights. The replicate is the unit if the same replicates recur at
    several n (``nested``). Diverged replicates are failures.

    Args:
        trials: one row per replicate, with at least ``n``, ``replicate``, ``relative_error`` and the columns of ``by``.
        by: columns whose values make a group.
        tolerance: success is relative_error < tolerance; by default the loosest default of the methods present (1e-2
            for methods that train, 1e-6 for solvers), the same for all groups, so that they can be compared.
        link: ``auto``, or one of ``logit``, ``probit``, ``cloglog``, ``loglog``.
        level: confidence level.
        unit: ``auto``, ``trial`` or ``replicate``, see :class:`FitSettings`.

    Returns:
        One row per group, in the order of the groups' values: the columns of ``by``, then

        - ``n50``, ``n50_low``, ``n50_high``: estimate and interval, in measurements. ``n50`` is NaN where censored
          left, right or unresolved; limits are 0 or infinite where the data do not bound n50.
        - ``censored``: ``none``; ``interval`` (success jumps between two neighbouring n: n50 is only known to lie
          between them); ``left`` (n50 is below the smallest n); ``right`` (above the largest); ``unresolved`` (there is
          no n50: success levels off below one half, or falls again).
        - ``reason``: why n50 is not resolved, or another remark on the curve; otherwise empty.
        - ``fit_p``: goodness of fit by parametric bootstrap. Below 0.02 the fit is poor; below 0.1 the interval is
          widened by the excess scatter. NaN where it cannot be computed (replicates that fail after a success).
        - ``lapse``: failures at large n, 0 where there is no evidence of any; ``lapse_evidence``: their posterior
          probability, 1/2 before the data.
        - ``transition``, ``transition_low``, ``transition_high``: from 10 to 90 % of the curve's rise, in measurements,
          with limits that average over links and lapses as n50's do; ``scale``, that of log n;
          ``link``, of the curve; ``n_spacing``, between the measured n on either side of n50: a transition narrower
          than that is not resolved.
        - ``n_replicates`` (trials fitted), ``n_values`` (different n), ``n_min``, ``n_max``, ``n_diverged``,
          ``n_unconverged``, and ``n50_converged``: n50 when diverged and unconverged replicates are left out.
        - ``n50_other_link``: n50 under the second most likely link; ``unit``, ``tolerance``: how it was fitted.
        - ``d_out``, ``d_in``, ``rank``, ``ensemble``, ``depth``: if not in ``by`` and constant within every group.

    Raises:
        FitError: there are no trials, a column is unknown, or a setting is not allowed.

    Example:
        >>> import numpy as np
        >>> import pandas as pd
        >>> n = np.repeat(np.arange(20, 60, 2), 8)
        >>> error = np.random.default_rng(1).random(n.size) > 1 / (1 + (40 / n) ** 20)
        >>> trials = pd.DataFrame({"n": n, "replicate": np.tile(range(8), 20), "relative_error": error.astype(float)})
        >>> trials["status"] = "converged"
        >>> fit_thresholds(trials, by=[], tolerance=0.01)["n50"].round().tolist()  # half succeed at 40
        [40.0]
    """
    by = [by] if isinstance(by, str) else list(by)
    require_columns(trials, by, "grouping columns")
    return _fit_groups(trials, by, [resolve_tolerance(trials, tolerance)], FitSettings(link, level, unit), details=True)


def fit_over_tolerances(
    trials: pd.DataFrame, by: Sequence[str], tolerances: Sequence[float] = TOLERANCES, link: str = "auto"
) -> pd.DataFrame:
    """The thresholds at every tolerance, stacked; the column ``tolerance`` distinguishes them.

    To save time, everything slow besides n50 and its interval is NaN: ``fit_p`` (and with it the wider interval of a
    poor fit), the limits of the transition, ``n50_other_link`` and ``n50_converged``.

    Raises:
        FitError: there are no tolerances, or :func:`fit_thresholds` raises it.
    """
    if not tolerances:
        raise FitError("no tolerances are given; allowed: one or more positive numbers")
    require_columns(trials, by, "grouping columns")
    chosen = [resolve_tolerance(trials, tolerance) for tolerance in tolerances]
    return _fit_groups(trials, by, chosen, FitSettings(link), details=False)


def _fit_groups(
    trials: pd.DataFrame, by: Sequence[str], tolerances: Sequence[float], settings: FitSettings, *, details: bool
) -> pd.DataFrame:
    labelled = label_success(trials, tolerances[0])
    context = [name for name in CONTEXT if name in labelled and name not in by]
    keys, index = grouped(labelled, by)
    order, starts = grouped_rows(index)
    _warn_of_mixtures(labelled, by, order, starts)
    groups = _Group.split(labelled, np.split(order, starts[1:]), settings.unit)
    abouts: list[dict[str, Any]] = [{} for _ in groups]
    for name in context:
        ranks, values = ranked(labelled[name])
        if not varies_within(ranks, order, starts).any():
            for about, rank in zip(abouts, ranks[order[starts]], strict=True):
                about[name] = values[rank]
    rows: list[dict[str, Any]] = []
    for tolerance in tolerances:
        for key, group, about in zip(keys, groups, abouts, strict=True):
            rows.append({**key, **_fit_group(group, tolerance, settings, details), "tolerance": tolerance, **about})
    return pd.DataFrame(rows)


def _warn_of_mixtures(labelled: pd.DataFrame, by: Sequence[str], order: np.ndarray, starts: np.ndarray) -> None:
    """Say which fields of the cells differ within a group."""
    varying = configuration_columns(labelled, but=by)
    looked_at = [*varying, *(name for name in ("method", "d_out", "d_in") if name in labelled and name not in varying)]
    suspects = {name: varies_within(ranked(labelled[name])[0], order, starts) for name in varying}
    several = np.flatnonzero(np.any(list(suspects.values()), axis=0)) if suspects else ()
    parts = np.split(order, starts[1:])
    mixed = {
        name for group in several for name in configuration_columns(labelled[looked_at].iloc[parts[group]], but=by)
    }
    if mixed:
        warnings.warn(
            f"groups mix trials that differ in {', '.join(sorted(mixed))}; add these columns to `by` unless pooling "
            "them is meant",
            UserWarning,
            stacklevel=4,
        )


def grouping(trials: pd.DataFrame) -> list[str]:
    """The columns that thresholds are grouped by: everything that varies but n."""
    return [*series_columns(trials), *panel_columns(trials)]


@dataclass(frozen=True)
class _Group:
    """What a fit needs of one group's trials, (k,) each, and what is independent in it: ``trial`` or ``replicate``."""

    n: np.ndarray
    replicate: np.ndarray
    error: np.ndarray
    diverged: np.ndarray
    unconverged: np.ndarray
    unit: str

    @classmethod
    def split(cls, labelled: pd.DataFrame, parts: Sequence[np.ndarray], unit: str) -> list[_Group]:
        """Groups of labelled trials, given the rows of each."""
        n, nested = labelled["n"].to_numpy(dtype=float), _nested(labelled)
        names = ("replicate", "relative_error", "diverged", "unconverged")
        replicate, error, diverged, unconverged = (labelled[name].to_numpy() for name in names)
        return [
            cls(n[rows], replicate[rows], error[rows], diverged[rows], unconverged[rows], _unit(nested[rows], unit))
            for rows in parts
        ]


def _fit_group(group: _Group, tolerance: float, settings: FitSettings, details: bool) -> dict[str, Any]:
    """Everything about one group but its key."""
    lost = group.diverged | group.unconverged
    with np.errstate(invalid="ignore"):
        success = (group.error < tolerance) & ~group.diverged
    estimate = _estimate(group.n, success, group.replicate, group.unit, settings, details=details)
    converged = estimate["n50"] if details else math.nan
    if details and lost.any():
        converged = math.nan
        if not lost.all():
            n, kept, replicate = (column[~lost] for column in (group.n, success, group.replicate))
            converged = _estimate(n, kept, replicate, group.unit, settings, details=False)["n50"]
    n = group.n
    return {
        **estimate,
        "n_replicates": len(n),
        "n_values": len(np.unique(n)),
        "n_spacing": _spacing(n, estimate["n50"]),
        "n_min": float(n.min()),
        "n_max": float(n.max()),
        "n_diverged": int(group.diverged.sum()),
        "n_unconverged": int(group.unconverged.sum()),
        "n50_converged": converged,
        "unit": group.unit,
    }


def _spacing(n: np.ndarray, n50: float) -> float:
    """Distance between the measured n on either side of n50; NaN if it is not bracketed."""
    below, above = n[n <= n50], n[n > n50]
    return float(above.min() - below.max()) if len(below) and len(above) else math.nan


def _nested(labelled: pd.DataFrame) -> np.ndarray:
    """Whether each trial's problem is part of a stream, (rows,)."""
    if "nested" not in labelled:
        return np.zeros(len(labelled), dtype=bool)
    return np.asarray(labelled["nested"].fillna(False).to_numpy(dtype=bool))


def _unit(nested: np.ndarray, unit: str) -> str:
    """``trial`` or ``replicate``: what can be taken as independent in a group."""
    return unit if unit != "auto" else "replicate" if nested.any() else "trial"


def estimate_threshold(labelled: pd.DataFrame, settings: FitSettings) -> dict[str, Any]:
    """n50, its interval, whether it is censored, and the transition's width, for one group of labelled trials."""
    n, success = labelled["n"].to_numpy(dtype=float), labelled["success"].to_numpy(dtype=bool)
    unit = _unit(_nested(labelled), settings.unit)
    return _estimate(n, success, labelled["replicate"].to_numpy(), unit, settings, details=True)


def _estimate(
    n: np.ndarray, success: np.ndarray, replicate: np.ndarray, unit: str, settings: FitSettings, *, details: bool
) -> dict[str, Any]:
    if unit == "trial":
        # Tolerances and tables ask for the same counts again and again.
        values, won, lost = Runs(n, success).counts()
        found = _independent(tuple(values), tuple(won), tuple(lost), settings.level, settings.link, details)
    else:
        found = interval(Runs(n, success, replicate), level=settings.level, link=settings.link, details=details)
    return {column: getattr(found, name) for column, name in _COLUMNS.items()}


@lru_cache(maxsize=4096)
def _independent(
    values: tuple[float, ...], won: tuple[float, ...], lost: tuple[float, ...], level: float, link: str, details: bool
) -> Interval:
    counts = np.array([won, lost]).astype(int)  # (outcome, v)
    n = np.repeat(np.tile(np.array(values), 2), counts.ravel())
    success = np.repeat([True, False], counts.sum(axis=1))
    return interval(Runs(n, success), level=level, link=link, details=details)


def threshold_remark(row: Any) -> str:
    """The remark that a table, figure or report shows next to an n50; empty if there is none.

    Args:
        row: of :func:`fit_thresholds`.
    """
    words = [row["reason"]] if row["reason"] else []
    if row["fit_p"] < POOR_FIT:
        words.append(f"poor fit (p = {row['fit_p']:.3f})")
    if row["lapse"] > 0:
        words.append(f"{100 * row['lapse']:.0f} % fail at large n")
    return "; ".join(words)
