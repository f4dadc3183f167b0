"""Errors of estimators with noisy observations, and the exact predictions that they are compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.errors import FitError
from flatdist.fits.grouping import SHAPE, group_rows, panel_columns, predicted, series_columns
from flatdist.fits.paired import with_reference
from flatdist.fits.success import label_success, require_columns
from flatdist.theory.risk import MinimumNormLaw, interpolation_law, minimum_nuclear_errors, tangent_fit_error
from flatdist.threshold.median import median_interval

REGIMES = ("below", "transition", "above", "peak")
NUCLEAR_UP_TO = 0.985  # of d d'; beyond, problems scatter around a mean that tends to infinity
_LEVEL = 0.95
_TRUTHS = 16
_POINTS = 40
_SETTING = {
    "d_out": None, "d_in": None, "rank": None, "observation_noise_std": 0.0, "spectral_tail": 0.0,
    "ground_truth": "unit_frobenius", "ensemble": "gaussian",
}  # fmt: skip
"""What predictions depend on, and the value of rows without the column."""


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
        interpolator, and ``rank_fit`` of a fit of rank r that does not interpolate; NaN where nothing is known.

    Raises:
        FitError: no rows, missing columns, or not one finite error.
    """
    labelled = _checked(trials)
    by = [*series_columns(labelled), *panel_columns(labelled)] if by is None else by
    rows: list[dict[str, Any]] = []
    settings = []
    for key, group in group_rows(labelled, [*by, "n"]):
        errors = group["error"].to_numpy(dtype=float)
        middle, low, high, _ = median_interval(errors, level)
        lower, upper = np.quantile(errors, [0.25, 0.75], method="closest_observation").tolist()
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
                "error_q25": lower,
                "error_q75": upper,
                "misfit": median_interval(group["misfit"]).median,
            }
        )
        settings.append(Setting.of(group))
    curves: dict[tuple[Setting | None, int], dict[str, float]] = {}
    for setting in {setting for setting in settings if setting is not None}:  # all n at once, which share the draws
        n = np.unique([row["n"] for row, own in zip(rows, settings, strict=True) if own == setting])
        for name, errors in setting.along(n).items():
            for value, error in zip(n.tolist(), errors.tolist(), strict=True):
                curves.setdefault((setting, value), {})[name] = error
    own = {"min_nuclear_norm": "nuclear_norm", "min_frobenius_norm": "minimum_norm"}
    for row, its in zip(rows, settings, strict=True):
        found = curves.get((its, row["n"]), {})
        shown = {"predicted": own.get(row.get("method", ""), ""), "floor": "floor", "rank_fit": "tangent_fit"}
        row |= {name: found.get(curve, math.nan) for name, curve in shown.items()}
    return pd.DataFrame(rows)


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
        FitError: as for :func:`risk_table` and :func:`flatdist.fits.paired_differences`.
    """
    pairs, by = _paired(trials, reference)
    groups = group_rows(pairs, [*by, "n"])
    rows = [
        {**key, "n_over_statdim": group["n_over_statdim"].mean(), **_compared(group, level)} for key, group in groups
    ]
    return pd.DataFrame(rows)


def ratios_by_regime(trials: pd.DataFrame, reference: str, level: float = _LEVEL) -> pd.DataFrame:
    """:func:`error_ratios` pooled over n, which are independent problems unless nested, within each of ``REGIMES``.

    ``below`` is n < 0.95 statistical dimensions, ``peak`` n > 0.9 d d', ``above`` from 1.2 statistical dimensions to
    there, ``transition`` what is left.
    """
    pairs, by = _paired(trials, reference)
    scaled, share = pairs["n_over_statdim"], pairs["n"] / (pairs["d_out"] * pairs["d_in"])
    regime = np.select([share > 0.9, scaled < 0.95, scaled < 1.2], ["peak", "below", "transition"], "above")
    groups = group_rows(pairs.assign(regime=regime), [*by, "regime"])
    table = pd.DataFrame([{**key, **_compared(group, level)} for key, group in groups])
    return table.sort_values("regime", key=lambda names: names.map(REGIMES.index), kind="stable", ignore_index=True)


def _checked(trials: pd.DataFrame) -> pd.DataFrame:
    """Trials with ``error`` (infinite where diverged), ``misfit`` and ``n_over_statdim``."""
    require_columns(trials, ("method", *SHAPE, "n", "replicate", "relative_error"), "needed columns")
    labelled = label_success(trials, 1.0)
    if labelled["diverged"].all():
        raise FitError(f"all {len(labelled)} trials diverged or have no error: there is no risk to draw")
    labelled["error"] = labelled["relative_error"].where(~labelled["diverged"], np.inf)
    labelled["n_over_statdim"] = labelled["n"].to_numpy(dtype=float) / predicted("statdim", labelled)
    labelled["misfit"] = np.nan
    needed = ["observation_noise_std", "train_loss", "population_loss"]
    if set(needed) <= set(labelled):
        noise, train, population = (pd.to_numeric(labelled[name], errors="coerce") for name in needed)
        # ||M*||_F^2 is the population loss over the relative error.
        misfit = train / (noise**2 * population / labelled["relative_error"])
        labelled["misfit"] = misfit.where(np.isfinite(misfit))
    return labelled


def _paired(trials: pd.DataFrame, reference: str) -> tuple[pd.DataFrame, list[str]]:
    """Each trial with the ``ratio`` of its error to the reference's, and the columns of series and panels."""
    labelled = _checked(trials)
    pairs = with_reference(labelled, reference, ["error"])
    equal = pairs["error"] == pairs["error_reference"]  # two exact answers, or two divergences
    pairs["ratio"] = (pairs["error"] / pairs["error_reference"]).mask(equal, 1.0)
    return pairs, [*series_columns(labelled), *panel_columns(labelled)]


def _compared(group: pd.DataFrame, level: float) -> dict[str, float]:
    values = group["ratio"].to_numpy(dtype=float)
    middle, low, high, _ = median_interval(values, level)
    worse = float(np.mean(values > 1.0) + 0.5 * np.mean(values == 1.0))
    return {"pairs": len(values), "ratio": middle, "ratio_low": max(low, 0.0), "ratio_high": high, "worse": worse}


class Setting(NamedTuple):
    """What a prediction depends on besides n; ``noise`` and ``tail`` relative to ||M*||_F."""

    d_out: int
    d_in: int
    rank: int
    noise: float
    tail: float
    ground_truth: str

    @classmethod
    def of(cls, trials: pd.DataFrame) -> Setting | None:
        """The setting that trials share; None if they share none, or the measurements are not Gaussian."""
        found: list[set[Any]] = [
            set(trials[name]) if name in trials else {default} for name, default in _SETTING.items()
        ]
        if any(len(values) != 1 or None in values for values in found):
            return None
        d_out, d_in, rank, noise, tail, ground_truth, ensemble = (values.pop() for values in found)
        shape = int(d_out), int(d_in), int(rank)
        return cls(*shape, float(noise), float(tail), str(ground_truth)) if ensemble == "gaussian" else None

    @property
    def entries(self) -> int:
        """D = d_out d_in."""
        return self.d_out * self.d_in

    def along(self, n: np.ndarray) -> dict[str, np.ndarray]:
        """Errors at many whole n, each (len(n),); NaN or infinite where a curve does not apply.

        ``nuclear_norm`` by Gordon's comparison; ``minimum_norm``, the exact law's median; ``floor``, the median of the
        least error of any interpolator; ``tangent_fit``, a fit of rank r that does not interpolate; ``truncation``, the
        best approximation of rank r.
        """
        shape, values, unknown = (self.d_out, self.d_in), n.tolist(), np.full(len(n), np.nan)
        nuclear, inside = unknown.copy(), n <= NUCLEAR_UP_TO * self.entries
        if inside.any():
            nuclear[inside] = minimum_nuclear_errors(self.spectra(), *shape, n[inside], self.noise)
        least, floor = unknown.copy(), unknown.copy()
        for place, m in enumerate(values):
            if m <= self.entries:
                least[place] = MinimumNormLaw(*shape, m, self.noise).median()
                floor[place] = interpolation_law(*shape, m, self.noise).median() if self.noise else math.nan
        fit = [tangent_fit_error(*shape, self.rank, m, self.noise, self.tail) for m in values]
        return {
            "nuclear_norm": nuclear,
            "minimum_norm": least,
            "floor": floor,
            "tangent_fit": np.array(fit) if self.noise or self.tail else unknown,
            "truncation": np.full(len(n), self.tail**2 if self.tail else math.nan),
        }

    def spectra(self) -> np.ndarray:
        """Singular values of a few ground truths as they are drawn, norm 1, (k, min(d_out, d_in))."""
        cell = Cell(
            d_out=self.d_out, d_in=self.d_in, rank=self.rank, n=1, spectral_tail=self.tail,
            ground_truth=self.ground_truth, method="min_nuclear_norm",
        )  # fmt: skip
        truths = np.stack([sample_arrays(cell, replicate).ground_truth for replicate in range(_TRUTHS)])
        spectra = np.linalg.svd(truths, compute_uv=False)
        return np.asarray(spectra / np.linalg.norm(spectra, axis=1, keepdims=True))


def prediction_curves(trials: pd.DataFrame, panels: Sequence[str]) -> pd.DataFrame:
    """Every curve of each panel where it applies: columns of ``panels``, ``curve``, ``n``, ``error``."""
    rows = []
    for key, group in group_rows(trials, panels):
        setting = Setting.of(group)
        if setting is None:
            continue
        low, high = int(group["n"].min()), min(int(group["n"].max()), setting.entries)
        dense = np.unique(np.round(np.geomspace(min(low, high), high, _POINTS)).astype(int))
        for name, errors in setting.along(dense).items():
            points = zip(dense.tolist(), errors.tolist(), strict=True)
            rows += [{**key, "curve": name, "n": n, "error": error} for n, error in points]
    table = pd.DataFrame(rows, columns=[*panels, "curve", "n", "error"])
    return table[np.isfinite(table["error"].astype(float)) & (table["error"] > 0.0)].reset_index(drop=True)


def quantile_test(trials: pd.DataFrame) -> list[str]:
    """A line that says whether minimum-Frobenius-norm errors follow their exact law; none without such trials.

    The law's distribution function at each error is uniform on (0, 1) if they do, whatever their n and noise. The test
    takes independent problems: of several spectral tails, which share their measurements, it uses the smallest.
    """
    mine = trials[(trials["method"] == "min_frobenius_norm") & trials["relative_error"].notna()]
    if "nested" in mine and mine["nested"].any():
        return []
    if "spectral_tail" in mine:
        mine = mine[mine["spectral_tail"] == mine["spectral_tail"].min()]
    places = []
    for key, group in group_rows(mine, [name for name in (*_SETTING, "n") if name in mine]):
        setting, n = Setting.of(group), int(key["n"])
        if setting is not None and (n < setting.entries or (n == setting.entries and setting.noise)):
            law = MinimumNormLaw(setting.d_out, setting.d_in, n, setting.noise)
            places += [law.cdf(float(error)) for error in group["relative_error"]]
    if not places:
        return []
    from scipy.stats import kstest

    p_value = kstest(places, "uniform").pvalue
    return [f"min_frobenius_norm: {len(places)} errors against their exact law, Kolmogorov-Smirnov p = {p_value:.2f}"]
