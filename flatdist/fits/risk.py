"""Errors of estimators with noisy observations, compared with exact predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from flatdist.errors import FitError
from flatdist.fits.grouping import group_rows, panel_columns, series_columns
from flatdist.fits.paired import with_reference
from flatdist.fits.risk_predictions import Setting, predictions
from flatdist.fits.success import label_success, require_columns
from flatdist.theory import statistical_dimension
from flatdist.threshold.median import median_interval

SHAPE = ("d_out", "d_in", "rank")


REGIMES = ("below", "transition", "above", "peak")


_LEVEL = 0.95


def risk_table(trials: pd.DataFrame, by: Sequence[str] | None = None, level: float = _LEVEL) -> pd.DataFrame:
    """The typical error of each group at each n.

    Args:
        trials: rows of the store.
        by: columns that tell groups apart; by default those that figures tell apart.
        level: confidence level.

    Returns:
        One row per group and n: their columns, ``n_over_statdim``, ``replicates``, ``diverged``, ``unconverged``, the
        median ``error`` with ``error_low``, ``error_high``, the quartiles ``error_q25``, ``error_q75``, the median
        ``misfit`` (train loss over the variance of the labels' noise: 1 at the ground truth, 0 where the noise is
        interpolated; NaN without noise), and what theory says: ``predicted`` for the method, ``floor`` of any
        interpolator, and ``rank_fit`` of a fit of rank r that does not interpolate.

    Raises:
        FitError: no rows, missing columns, or not one finite error.
    """
    labelled = checked(trials)
    by = [*series_columns(labelled), *panel_columns(labelled)] if by is None else by
    rows: list[dict[str, Any]] = []
    settings = []
    for key, group in group_rows(labelled, [*by, "n"]):
        errors = group["error"].to_numpy(dtype=float)
        middle, low, high, _ = median_interval(errors, level)
        quartiles = np.quantile(errors, [0.25, 0.75], method="closest_observation")
        rows.append(
            {
                **key,
                "n_over_statdim": float(np.mean(group["n_over_statdim"])),
                "replicates": len(group),
                "diverged": int(group["diverged"].sum()),
                "unconverged": int(group["unconverged"].sum()),
                "error": middle,
                "error_low": max(low, 0.0),
                "error_high": high,
                "error_q25": float(quartiles[0]),
                "error_q75": float(quartiles[1]),
                "misfit": median_interval(group["misfit"]).median,
            }
        )
        settings.append(Setting.of(group))
    table = pd.DataFrame(rows)
    return table.join(predictions(settings, [str(method) for method in table["method"]]))


def error_ratios(trials: pd.DataFrame, reference: str, level: float = _LEVEL) -> pd.DataFrame:
    """Errors of every other method over the reference's, on the problems both have.

    Args:
        trials: rows of the store.
        reference: a method with one configuration.
        level: confidence level.

    Returns:
        One row per (series, panel, n): their columns, ``n_over_statdim``, ``pairs``, the median ``ratio`` with
        ``ratio_low``, ``ratio_high``, and ``worse``, the share of pairs in which the method's error is larger.

    Raises:
        FitError: as for :func:`risk_table`; or the reference has no trials or several configurations, or nothing pairs
            with it.
    """
    labelled = checked(trials)
    series, panels = series_columns(labelled), panel_columns(labelled)
    rows = []
    for key, group in group_rows(_paired(labelled, reference), [*series, *panels, "n"]):
        rows.append({**key, "n_over_statdim": group["n_over_statdim"].mean(), **_compared(group["ratio"], level)})
    return pd.DataFrame(rows)


def ratios_by_regime(trials: pd.DataFrame, reference: str, level: float = _LEVEL) -> pd.DataFrame:
    """:func:`error_ratios` pooled over n, which are independent problems unless nested, within each of ``REGIMES``.

    ``below`` is n < 0.95 statistical dimensions, ``peak`` n > 0.9 d d', ``above`` from 1.2 statistical dimensions to
    there, ``transition`` what is left.
    """
    labelled = checked(trials)
    series, panels = series_columns(labelled), panel_columns(labelled)
    pairs = _paired(labelled, reference)
    scaled, share = pairs["n_over_statdim"], pairs["n"] / (pairs["d_out"] * pairs["d_in"])
    regime = np.select([share > 0.9, scaled < 0.95, scaled < 1.2], ["peak", "below", "transition"], "above")
    rows = []
    for key, group in group_rows(pairs.assign(regime=regime), [*series, *panels, "regime"]):
        rows.append({**key, **_compared(group["ratio"], level)})
    table = pd.DataFrame(rows)
    order = {name: place for place, name in enumerate(REGIMES)}
    return table.sort_values("regime", key=lambda names: names.map(order), kind="stable", ignore_index=True)


def checked(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with ``error`` (infinite where diverged), ``misfit`` and ``n_over_statdim``.

    Raises:
        FitError: no rows, missing columns, or not one finite error.
    """
    require_columns(trials, ("method", *SHAPE, "n", "replicate", "relative_error"), "needed columns")
    labelled = label_success(trials, 1.0)
    if labelled["diverged"].all():
        raise FitError(f"all {len(labelled)} trials diverged or have no error: there is no risk to draw")
    labelled["error"] = labelled["relative_error"].where(~labelled["diverged"], np.inf)
    dimension = {
        shape: statistical_dimension(*map(int, shape)) for shape in set(zip(*(labelled[s] for s in SHAPE), strict=True))
    }
    shapes = zip(*(labelled[name] for name in SHAPE), strict=True)
    labelled["n_over_statdim"] = labelled["n"].to_numpy(dtype=float) / [dimension[shape] for shape in shapes]
    labelled["misfit"] = _misfit(labelled)
    return labelled


def _misfit(labelled: pd.DataFrame) -> np.ndarray:
    needed = ("observation_noise_std", "train_loss", "population_loss")
    if not set(needed) <= set(labelled):
        return np.full(len(labelled), np.nan)
    noise, train, population = (pd.to_numeric(labelled[name], errors="coerce").to_numpy(float) for name in needed)
    error = labelled["relative_error"].to_numpy(dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):  # ||M*||_F^2 is the population loss over the relative error
        misfit = train / (noise**2 * population / error)
    return np.where(np.isfinite(misfit), misfit, np.nan)


def _paired(labelled: pd.DataFrame, reference: str) -> pd.DataFrame:
    pairs = with_reference(labelled, reference, ["error"])
    mine, other = (pairs[name].to_numpy(dtype=float) for name in ("error", "error_reference"))
    with np.errstate(divide="ignore", invalid="ignore"):
        pairs["ratio"] = np.where(mine == other, 1.0, mine / other)  # two exact answers, or two divergences, are equal
    return pairs


def _compared(ratios: pd.Series, level: float) -> dict[str, float]:
    values = ratios.to_numpy(dtype=float)
    middle, low, high, _ = median_interval(values, level)
    worse = float(np.mean(values > 1.0) + 0.5 * np.mean(values == 1.0))
    return {"pairs": len(values), "ratio": middle, "ratio_low": max(low, 0.0), "ratio_high": high, "worse": worse}
