"""Extrapolation of paired differences to learning rate 0."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.fits.grouping import as_value, configuration_columns, group_rows
from flatdist.methods.flow_limit import METHOD as FLOW
from flatdist.methods.min_hessian_trace import METHOD as FLATTEST

DEGREES = (1, 2)
START = 0.1  # part of the flow time that is left out: runs of finite learning rate spend it on reaching zero loss
_MEASURED = ("learning_rate", "steps", "replicate", "gap")
_PAIRED = [*PROBLEM_FIELDS, *(name for name in FLOW.fields if name not in ("flow_duration", "evaluations"))]
_BESIDE_THE_RATE = "steps"  # a smaller learning rate takes more of them for the same flow time


class Limit(NamedTuple):
    """A difference at learning rate 0."""

    value: float  # mean over replicates of each replicate's intercept
    error: float  # its standard error over replicates
    degree: int  # of the polynomial in the learning rate
    coefficients: tuple[float, ...]  # mean polynomial, highest power first
    replicates: int  # how many have every learning rate

    def __str__(self) -> str:
        return f"{self.value:.3g} +- {self.error:.2g}"


def to_zero(table: pd.DataFrame, value: str, degree: int = 1) -> Limit:
    """Fit a polynomial in the learning rate to each replicate and average the intercepts.

    Replicates share their problem and initialization across learning rates, so fitting each separately removes the
    variation between problems. The spread of the intercepts is then the error, whatever the noise of a single run.

    Args:
        table: with ``replicate``, ``learning_rate`` and the value; one row for each pair.
        value: column to extrapolate.
        degree: of the polynomial.

    Raises:
        FitError: there are too few learning rates, or fewer than two replicates with all of them.
    """
    wide = table.pivot_table(index="replicate", columns="learning_rate", values=value).dropna()
    rates = wide.columns.to_numpy(dtype=float)
    if len(rates) <= degree or len(wide) < 2:
        raise FitError(
            f"{len(wide)} replicates have all {len(rates)} learning rates; an extrapolation of degree {degree} to "
            f"learning rate 0 needs at least 2 replicates and {degree + 1} learning rates: run more of them"
        )
    fits = np.polyfit(rates, wide.to_numpy(dtype=float).T, degree)  # (degree + 1, replicates)
    error = float(fits[-1].std(ddof=1) / np.sqrt(len(wide)))
    return Limit(float(fits[-1].mean()), error, degree, tuple(fits.mean(axis=1).tolist()), len(wide))


def gaps(trials: pd.DataFrame) -> pd.DataFrame:
    """Relative excess of each run's final trace over the flattest interpolator's of the same problem and layers.

    Returns:
        ``depth`` and every other field in which the runs differ, ``learning_rate``, ``steps``, ``replicate``, ``gap``.
        Diverged runs and uncertified solutions have none.

    Raises:
        FitError: no pair.
    """
    key = [*PROBLEM_FIELDS, *FLATTEST.fields, "replicate"]
    trials = trials.assign(**{name: trials[name].map(as_value) for name in key})  # lists as tuples, which can be merged
    flattest = trials[(trials["method"] == "min_hessian_trace") & (trials["status"] == "converged")]
    runs = trials[(trials["method"] == "label_noise_sgd") & (trials["status"] != "diverged")]
    rows = runs.merge(flattest[[*key, "hessian_trace"]].rename(columns={"hessian_trace": "least"}), on=key)
    if rows.empty:
        raise FitError(
            "no run of label_noise_sgd has a certified min_hessian_trace trial of the same problem and layers; see "
            "sweeps/theorems/flatness_gap.yaml"
        )
    gap = rows["hessian_trace"].astype(float) / rows["least"].astype(float) - 1.0
    varying = configuration_columns(rows, but=("method", "depth", "learning_rate", "steps"))
    fields = ["depth", *(["n"] if rows["n"].nunique() > 1 else []), *varying]
    rows = rows.assign(gap=gap, depth=rows["depth"].astype(int), learning_rate=_cell_rates(rows))
    return rows[[*fields, *_MEASURED]]


def series_of(table: pd.DataFrame) -> list[str]:
    """Columns that tell the runs of a table of :func:`gaps` apart beside the learning rate.

    Steps only if runs of one learning rate differ in them: those of one flow time are more at smaller learning rates.
    """
    series = [str(name) for name in table if name not in _MEASURED]
    groups = group_rows(table, [*series, "learning_rate"])
    return [*series, "steps"] if any(group["steps"].nunique() > 1 for _, group in groups) else series


def paths(trials: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The trace along flow time of runs and flows: ``learning_rate`` (0 for the flow), ``replicate``, ``flow_time``.

    Flows are interpolated to the runs' own flow times; ``flow`` is the flow's trace and ``difference`` the run's minus
    it.

    Raises:
        FitError: no runs, no flow, several problems or starts, or runs that differ in more than the learning rate.
    """
    runs = trials[(trials["method"] == "label_noise_sgd") & (trials["status"] != "diverged")]
    flows = trials[trials["method"] == "flow_limit"]
    if runs.empty or flows.empty:
        raise FitError(
            f"{len(runs)} trials of label_noise_sgd and {len(flows)} of flow_limit; a comparison needs both: see "
            "sweeps/flow_limit.yaml"
        )
    paired = pd.concat([runs, flows])
    varying = [name for name in _PAIRED if paired[name].map(str).nunique() > 1]
    if varying or flows["cell_id"].nunique() > 1:
        raise FitError(f"runs and flows differ in {', '.join(varying) or 'their flow'}; keep one of each with --where")
    _refuse_mixtures(runs)
    traces = history.dropna(subset=["hessian_trace"])[["cell_id", "replicate", "flow_time", "hessian_trace"]]
    of_flows = traces[traces["cell_id"].isin(flows["cell_id"])].sort_values("flow_time")
    limits: dict[Any, pd.DataFrame] = dict(iter(of_flows.groupby("replicate")))
    named = runs[["cell_id", "replicate"]].assign(learning_rate=_cell_rates(runs))
    parts = []
    for (_, replicate), run in traces.merge(named, on=["cell_id", "replicate"]).groupby(["learning_rate", "replicate"]):
        if replicate in limits:
            times, values = limits[replicate]["flow_time"], limits[replicate]["hessian_trace"]
            within = run[run["flow_time"] <= times.max() * (1 + 1e-6)]
            parts.append(within.assign(flow=np.interp(within["flow_time"], times, values)))
    if not parts:
        return pd.DataFrame()
    rows: pd.DataFrame = pd.concat(parts, ignore_index=True)[
        ["learning_rate", "replicate", "flow_time", "hessian_trace", "flow"]
    ]
    return rows.assign(difference=rows["hessian_trace"] - rows["flow"])


def _cell_rates(runs: pd.DataFrame) -> pd.Series:
    """The learning rate of each run's cell, (k,): where it is automatic, the mean over the cell's replicates."""
    return runs.groupby("cell_id")["learning_rate_final"].transform("mean").astype(float)


def _refuse_mixtures(runs: pd.DataFrame) -> None:
    """Reject runs that differ in more than the learning rate: a curve for each rate would be meaningless."""
    mixed = configuration_columns(runs, but=("learning_rate", _BESIDE_THE_RATE))
    if (runs.groupby(runs["learning_rate"].astype(float), dropna=False)[_BESIDE_THE_RATE].nunique() > 1).any():
        mixed.append(_BESIDE_THE_RATE)
    if mixed:
        example = " and ".join(f"{name} == {as_value(runs[name].iloc[0])!r}" for name in mixed)
        raise FitError(
            f"runs differ in {', '.join(mixed)}, not in the learning rate alone; keep one value of each, and the "
            f"flows, with --where, such as --where \"method == 'flow_limit' or {example}\""
        )


def differences(path: pd.DataFrame) -> pd.DataFrame:
    """Mean ``difference`` from the flow after the start, for each ``learning_rate`` and ``replicate``.

    ``drop`` is how far the flow's trace fell in all, ``relative`` their ratio.
    """
    later = path[path["flow_time"] >= START * path["flow_time"].max()]
    drop = path.groupby(["learning_rate", "replicate"])["flow"].agg(lambda trace: trace.max() - trace.min())
    mean = later.groupby(["learning_rate", "replicate"])["difference"].mean()
    return pd.DataFrame({"difference": mean, "drop": drop, "relative": mean / drop}).reset_index()
