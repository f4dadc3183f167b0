"""Theoretical predictions of the errors in a table of trials: curves, values for tables, and a test of the pipeline."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.fits.grouping import group_rows
from flatdist.theory.risk import MinimumNormLaw, interpolation_law, minimum_nuclear_errors, tangent_fit_error

FIELDS = ("d_out", "d_in", "rank", "observation_noise_std", "spectral_tail", "ground_truth", "ensemble")
NUCLEAR_UP_TO = 0.985  # of d d'; beyond, problems scatter around a mean that tends to infinity
_TRUTHS = 16
_POINTS = 40


@dataclass(frozen=True)
class Setting:
    """What a prediction depends on; ``noise`` and ``tail`` relative to ||M*||_F."""

    d_out: int
    d_in: int
    rank: int
    n: int
    noise: float
    tail: float
    ground_truth: str

    @classmethod
    def of(cls, trials: pd.DataFrame) -> Setting | None:
        """The setting that trials share; None if they share none, or the measurements are not Gaussian."""
        if not {"d_out", "d_in", "rank", "n"} <= set(trials):
            return None
        defaults = {"observation_noise_std": 0.0, "spectral_tail": 0.0, "ground_truth": "unit_frobenius"}
        values: dict[str, Any] = {"ensemble": "gaussian", **defaults}
        for name in (*FIELDS, "n"):
            if name in trials:
                found = set(trials[name])
                if len(found) != 1:
                    return None
                values[name] = found.pop()
        if values["ensemble"] != "gaussian":
            return None
        d_out, d_in, rank, n = (int(values[name]) for name in ("d_out", "d_in", "rank", "n"))
        noise, tail = float(values["observation_noise_std"]), float(values["spectral_tail"])
        return cls(d_out, d_in, rank, n, noise, tail, str(values["ground_truth"]))

    @property
    def entries(self) -> int:
        """D = d_out d_in."""
        return self.d_out * self.d_in

    def along(self, n: np.ndarray) -> dict[str, np.ndarray]:
        """Errors at many n by the names of ``CURVES``, each (len(n),); NaN or infinite where a curve does not apply."""
        shape, values = (self.d_out, self.d_in), [int(value) for value in n]
        inside = np.asarray(n) <= NUCLEAR_UP_TO * self.entries
        nuclear = np.full(len(n), np.nan)
        if inside.any():
            nuclear[inside] = minimum_nuclear_errors(self.spectra(), *shape, np.asarray(n)[inside], self.noise)
        floor = [interpolation_law(*shape, m, self.noise).median() if self._noisy(m) else math.nan for m in values]
        norms = [MinimumNormLaw(*shape, m, self.noise) for m in values]
        least = [law.median() if law.n <= self.entries else math.nan for law in norms]
        fit = [tangent_fit_error(*shape, self.rank, m, self.noise, self.tail) for m in values]
        return {
            "nuclear_norm": nuclear,
            "minimum_norm": np.array(least),
            "floor": np.array(floor, dtype=float),
            "tangent_fit": np.array(fit) if self.noise or self.tail else np.full(len(n), np.nan),
            "truncation": np.full(len(n), self.tail**2 if self.tail else math.nan),
        }

    def _noisy(self, n: int) -> bool:
        return bool(self.noise) and n <= self.entries

    def spectra(self) -> np.ndarray:
        """Singular values of a few ground truths as they are drawn, norm 1, (k, min(d_out, d_in))."""
        cell = Cell(
            d_out=self.d_out, d_in=self.d_in, rank=self.rank, n=1, spectral_tail=self.tail,
            ground_truth=self.ground_truth, method="min_nuclear_norm",
        )  # fmt: skip
        truths = np.stack([sample_arrays(cell, replicate).ground_truth for replicate in range(_TRUTHS)])
        spectra = np.linalg.svd(truths, compute_uv=False)
        return np.asarray(spectra / np.linalg.norm(spectra, axis=1, keepdims=True))


CURVES = ("nuclear_norm", "minimum_norm", "floor", "tangent_fit", "truncation")
"""By Gordon's comparison; the exact law's median; the median of the least error of any interpolator; a fit of rank r
that does not interpolate; the best approximation of rank r."""
_METHODS = {"min_nuclear_norm": "nuclear_norm", "min_frobenius_norm": "minimum_norm"}


def predictions(settings: Sequence[Setting | None], methods: Sequence[str]) -> pd.DataFrame:
    """Predictions for several groups of trials.

    Args:
        settings: of the groups.
        methods: of the groups.

    Returns:
        A row for each group: ``predicted`` for its method, ``floor`` of any interpolator, ``rank_fit`` of a rank-r fit
        that does not interpolate; NaN where nothing is known.
    """
    wanted: dict[Setting, set[int]] = {}
    for setting in settings:
        if setting is not None:
            wanted.setdefault(replace(setting, n=0), set()).add(setting.n)
    known: dict[Setting, dict[str, float]] = {}
    for base, values in wanted.items():  # all n at once, which share the draws
        n = np.array(sorted(values))
        for name, errors in base.along(n).items():
            for value, error in zip(n, errors, strict=True):
                known.setdefault(replace(base, n=int(value)), {})[name] = float(error)
    rows = []
    for setting, method in zip(settings, methods, strict=True):
        found = known[setting] if setting is not None else {}
        curve = found.get(_METHODS.get(method, ""), math.nan)
        floor, fit = found.get("floor", math.nan), found.get("tangent_fit", math.nan)
        rows.append({"predicted": curve, "floor": floor, "rank_fit": fit})
    return pd.DataFrame(rows, columns=["predicted", "floor", "rank_fit"])


def prediction_curves(trials: pd.DataFrame, panels: Sequence[str]) -> pd.DataFrame:
    """Every curve of each panel where it applies: columns of ``panels``, ``curve``, ``n``, ``error``."""
    rows = []
    for key, group in group_rows(trials, panels):
        setting = Setting.of(group.assign(n=0))
        if setting is None:
            continue
        low, high = int(group["n"].min()), min(int(group["n"].max()), setting.entries)
        dense = np.unique(np.round(np.geomspace(min(low, high), high, _POINTS)).astype(int))
        for name, errors in setting.along(dense).items():
            for n, error in zip(dense, errors, strict=True):
                if math.isfinite(error) and error > 0.0:
                    rows.append({**key, "curve": name, "n": int(n), "error": float(error)})
    return pd.DataFrame(rows, columns=[*panels, "curve", "n", "error"])


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
    for _, group in group_rows(mine, [name for name in (*FIELDS, "n") if name in mine]):
        setting = Setting.of(group)
        if setting is None or setting.n > setting.entries or (setting.n == setting.entries and not setting.noise):
            continue
        law = MinimumNormLaw(setting.d_out, setting.d_in, setting.n, setting.noise)
        places += [law.cdf(float(error)) for error in group["relative_error"]]
    if not places:
        return []
    from scipy.stats import kstest

    p_value = kstest(places, "uniform").pvalue
    return [f"min_frobenius_norm: {len(places)} errors against their exact law, Kolmogorov-Smirnov p = {p_value:.2f}"]
