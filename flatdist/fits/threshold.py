"""Thresholds: the number of measurements at which half of the replicates succeed, with intervals."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from flatdist.errors import FitError
from flatdist.fits.grouping import as_value, configuration_columns, grouped, panel_columns, ranked, series_columns
from flatdist.fits.success import check_level, label_success, require_columns, resolve_tolerance
from flatdist.threshold import Runs, interval
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
        unit: what is independent: every ``trial``, or the ``replicate`` with all its n; ``auto`` takes the replicate
            if problems are nested.

    Returns:
        One row per group, in the order of the groups' values: the columns of ``by``, then

        - ``n50``, ``n50_low``, ``n50_high``: estimate and interval, in measurements. ``n50`` is NaN where censored
          left, right or unresolved; limits are 0 or infinite where the data do not bound n50.
        - ``censored``: ``none``; ``interval`` (success jumps between two neighbouring n: n50 is only known to lie
          between them); ``left`` (n50 is below the smallest n); ``right`` (above the largest); ``unresolved`` (there is
          no n50: success levels off below one half, or falls again). ``reason``: why, or another remark on the curve.
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
    return _fit_groups(trials, by, [tolerance], link, level, unit)


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
    return _fit_groups(trials, by, tolerances, link, details=False)


def _fit_groups(
    trials: pd.DataFrame, by: Sequence[str], tolerances: Sequence[float | None],
    link: str, level: float = 0.95, unit: str = "auto", *, details: bool = True,
) -> pd.DataFrame:  # fmt: skip
    require_columns(trials, by, "grouping columns")
    for name, value, allowed in (("link", link, CHOICES), ("unit", unit, UNITS)):
        if value not in allowed:
            raise FitError(f"{name}={value!r} is not known; allowed: {', '.join(allowed)}")
    check_level(level)
    chosen = [resolve_tolerance(trials, tolerance) for tolerance in tolerances]
    labelled = label_success(trials, chosen[0])
    keys, index = grouped(labelled, by)
    groups = [group for _, group in labelled.groupby(index)]
    varying = configuration_columns(labelled, but=by)
    if varying:
        seen = list({*varying, "method", "d_out", "d_in"} & set(labelled))
        mixed = {name for group in groups for name in configuration_columns(group[seen], but=by)}
        if mixed:
            warnings.warn(
                f"groups mix trials that differ in {', '.join(sorted(mixed))}; add these columns to `by` unless "
                "pooling them is meant",
                UserWarning,
                stacklevel=3,
            )
    ranks = {name: ranked(labelled[name])[0] for name in CONTEXT if name in labelled and name not in by}
    context = [name for name in ranks if pd.Series(ranks[name]).groupby(index).nunique().max() == 1]
    rows = []
    for tolerance in chosen:
        for key, group in zip(keys, groups, strict=True):
            about = {name: as_value(group[name].iloc[0]) for name in context}
            fit = _fit_group(group, tolerance, unit, link=link, level=level, details=details)
            rows.append({**key, **fit, "tolerance": tolerance, **about})
    return pd.DataFrame(rows)


def grouping(trials: pd.DataFrame) -> list[str]:
    """The columns that thresholds are grouped by: everything that varies but n."""
    return [*series_columns(trials), *panel_columns(trials)]


def _fit_group(group: pd.DataFrame, tolerance: float, unit: str, **settings: Any) -> dict[str, Any]:
    """Everything about one group but its key."""
    labelled = group.assign(success=(group["relative_error"] < tolerance) & ~group["diverged"])
    estimate = estimate_threshold(labelled, unit, **settings)
    unit, converged, lost = estimate.pop("unit"), estimate["n50"], group["diverged"] | group["unconverged"]
    if not settings["details"] or lost.all():
        converged = math.nan
    elif lost.any():
        converged = estimate_threshold(labelled[~lost], unit, **{**settings, "details": False})["n50"]
    n = group["n"].to_numpy(dtype=float)
    below, above = n[n <= estimate["n50"]], n[n > estimate["n50"]]
    return {
        **estimate,
        "n_replicates": len(n),
        "n_values": len(np.unique(n)),
        "n_spacing": float(above.min() - below.max()) if len(below) and len(above) else math.nan,
        "n_min": float(n.min()),
        "n_max": float(n.max()),
        "n_diverged": int(group["diverged"].sum()),
        "n_unconverged": int(group["unconverged"].sum()),
        "n50_converged": converged,
        "unit": unit,
    }


def estimate_threshold(
    labelled: pd.DataFrame, unit: str = "auto", *, link: str = "auto", level: float = 0.95, details: bool = True
) -> dict[str, Any]:
    """n50 and what belongs to it, as :func:`fit_thresholds` returns them, for one group of labelled trials."""
    n, success, replicate = (labelled[name].to_numpy() for name in ("n", "success", "replicate"))
    if unit == "auto":
        unit = "replicate" if "nested" in labelled and labelled["nested"].eq(True).any() else "trial"
    runs = Runs(n, success, replicate if unit == "replicate" else None)
    found = interval(runs, level=level, link=link, details=details)
    return {**{column: getattr(found, name) for column, name in _COLUMNS.items()}, "unit": unit}


def threshold_remark(row: Any) -> str:
    """The remark that a table, figure or report shows next to an n50 of :func:`fit_thresholds`; empty without one."""
    words = [row["reason"]] if row["reason"] else []
    if row["fit_p"] < POOR_FIT:
        words.append(f"poor fit (p = {row['fit_p']:.3f})")
    if row["lapse"] > 0:
        words.append(f"{100 * row['lapse']:.0f} % fail at large n")
    return "; ".join(words)
