"""First successes N on nested problems: their mean beside the statistical dimension, and over other methods'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import special

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import CellError, FitError
from flatdist.fits.grouping import SHAPE, group_rows, grouped, predicted
from flatdist.fits.paired import mean_interval, with_reference
from flatdist.fits.success import label_success, require_columns, resolve_tolerance
from flatdist.theory import (
    first_success,
    minimum_norm_first_success,
    minimum_norm_law,
    statistical_dimension,
)

REFERENCE = "nuclear norm"
LEAST = 8  # least number of streams for a row with a variance
SETTINGS = ("learning_rate", "steps", "sam_radius", "batch_size", "flow_duration", "init_scale")
_STREAMED = (*SHAPE, "ensemble")
STANDARD_ERRORS = 2.0  # E[N] agrees with delta + 1/2 where it is no further away


def first_successes(trials: pd.DataFrame, by: Sequence[str], tolerance: float | None = None) -> pd.DataFrame:
    """Each replicate's last failure and first success.

    Returns:
        The columns of ``by``, ``replicate``, ``n_low`` (largest n it failed at below every success, 0 without one),
        ``n_high`` (smallest n it succeeded at, infinite without one), ``exact`` (they are neighbours), ``monotone`` (no
        failure above a success) and ``n_first``, the middle of the whole numbers that N can be; NaN without a success.

    Raises:
        FitError: missing columns, or problems that are not nested.
    """
    require_columns(trials, (*by, "nested"), "needed columns")
    if not trials["nested"].fillna(False).astype(bool).all():
        raise FitError(
            "first successes need nested problems: run the sweep with nested: true, or select its nested cells"
        )
    labelled = label_success(trials, resolve_tolerance(trials, tolerance))
    keys, index = grouped(labelled, [*by, "replicate"])
    n, success = labelled["n"].to_numpy(dtype=float), labelled["success"].to_numpy(dtype=bool)
    high, (low, last) = np.full(len(keys), math.inf), np.zeros((2, len(keys)))
    np.minimum.at(high, index[success], n[success])
    np.maximum.at(last, index[~success], n[~success])
    below = ~success & (n < high[index])
    np.maximum.at(low, index[below], n[below])
    bracketed = np.isfinite(high) & (low > 0.0)
    middle = np.where(bracketed, 0.5 * (low + 1.0 + high), math.nan)
    table = pd.DataFrame(keys).assign(n_low=low, n_high=high, exact=high - low == 1.0, monotone=last < high)
    return table.assign(n_first=middle)


def mean_first_success(
    trials: pd.DataFrame, by: Sequence[str], tolerance: float | None = None, level: float = 0.95
) -> pd.DataFrame:
    """Mean and variance of N in each group, with theory's values for the nuclear norm.

    Args:
        trials: of nested problems; theory needs one ``d_out``, ``d_in`` and ``rank`` in each group.
        by: columns whose values make a group.
        tolerance: of the success; the default of the methods present.
        level: of the intervals: Student's for the mean, that of a normal sample's variance for the ratio.

    Returns:
        One row per group: the columns of ``by``, ``mean``, ``mean_low``, ``mean_high``, ``standard_error``,
        ``predicted`` = delta + 1/2, ``deviation`` in standard errors, ``variance``, ``predicted_variance``,
        ``variance_ratio`` with ``_low`` and ``_high``, ``center`` and ``width`` (``agrees`` where theory's value lies
        in the interval, ``differs`` where not, ``unknown``), ``n_replicates``, ``n_censored`` (replicates whose N the
        data do not bracket: with any, the mean is NaN), ``resolution`` (largest gap between n around an N).
    """
    require_columns(trials, SHAPE, "needed columns")
    first = first_successes(trials, list(dict.fromkeys([*by, *SHAPE])), tolerance)
    rows = []
    for key, group in group_rows(first, by):
        shapes = group[list(SHAPE)].drop_duplicates().astype(int)
        law = _law(*shapes.iloc[0]) if len(shapes) == 1 else (math.nan, math.nan)
        known = group["n_first"].dropna().to_numpy(dtype=float)
        row = {**key, "n_replicates": len(group), "n_censored": len(group) - len(known)}
        row |= _moments(known if len(known) == len(group) else known[:0], *law, level)
        rows.append(row | {"resolution": (group["n_high"] - group["n_low"]).replace(math.inf, math.nan).max()})
    return pd.DataFrame(rows)


def _law(d_out: int, d_in: int, rank: int) -> tuple[float, float]:
    """Mean and variance of the nuclear norm's N; no variance for sizes that are too large to sample."""
    try:
        return first_success(d_out, d_in, rank)
    except CellError:
        return statistical_dimension(d_out, d_in, rank) + 0.5, math.nan


def _moments(first: np.ndarray, predicted: float, variance: float, level: float) -> dict[str, Any]:
    """Mean and variance of (k,) first successes, and theory's; NaN with fewer than two."""
    mean = low = high = error = found = ratio = ratio_low = ratio_high = math.nan
    if len(first) > 1:
        mean, low, high, error = mean_interval(first, level)
        found, freedom = float(first.var(ddof=1)), len(first) - 1
        ratio = found / variance if variance > 0 else math.nan
        tails = special.chdtri(freedom, [0.5 - level / 2.0, 0.5 + level / 2.0])
        ratio_low, ratio_high = (ratio * freedom / tails).tolist()
    return {
        "predicted": predicted,
        "predicted_variance": variance,
        "mean": mean,
        "mean_low": low,
        "mean_high": high,
        "standard_error": error,
        "deviation": (mean - predicted) / error if error > 0 else math.nan,
        "variance": found,
        "variance_ratio": ratio,
        "variance_ratio_low": ratio_low,
        "variance_ratio_high": ratio_high,
        "center": _verdict(low, predicted, high),
        "width": _verdict(ratio_low, 1.0, ratio_high),
    }


def _verdict(low: float, value: float, high: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return "unknown"
    return "agrees" if low <= value <= high else "differs"


def paired_first_success(
    trials: pd.DataFrame, by: Sequence[str], reference: str, tolerance: float | None = None, level: float = 0.95
) -> pd.DataFrame:
    """How much later than the reference method each other method succeeds on the same streams of measurements.

    Args:
        trials: of nested problems, with the shapes.
        by: columns whose values make a group; those of the problem name the pairs, with the replicate.
        reference: a method with one configuration.
        tolerance: of the success; the default of the methods present.
        level: of Student's intervals.

    Returns:
        One row per group of the other methods: the columns of ``by``, ``pairs``, ``difference`` (mean of N minus the
        reference's N, in measurements) with ``difference_low``, ``difference_high``, ``standard_error``,
        ``equal`` (share of pairs with the same N), and ``n_unpaired`` (replicates without the other's N).

    Raises:
        FitError: the reference has no trials or several configurations, or nothing pairs with it.
    """
    require_columns(trials, ("method",), "needed columns")
    problem = [name for name in PROBLEM_FIELDS if name in trials and name != "n"]
    first = first_successes(trials, list(dict.fromkeys(["method", *by, *problem])), tolerance)
    pairs = with_reference(first, reference, ["n_first"])
    rows = []
    for key, group in group_rows(pairs, by):
        difference = (group["n_first"] - group["n_first_reference"]).dropna().to_numpy(dtype=float)
        mean = low = high = error = equal = math.nan
        if len(difference) > 1:
            mean, low, high, error = mean_interval(difference, level)
            equal = float((difference == 0.0).mean())
        row = {"pairs": len(difference), "n_unpaired": len(group) - len(difference), "difference": mean}
        row |= {"difference_low": low, "difference_high": high, "standard_error": error, "equal": equal}
        rows.append({**key, **row})
    return pd.DataFrame(rows)


def agreement_lines(means: pd.DataFrame, series: Sequence[str]) -> list[str]:
    """For each series, in how many shapes mean and variance of N agree with theory, and the pooled variance."""
    lines = []
    for key, group in group_rows(means, series):
        name = ", ".join(str(value) for value in key.values() if value is not None) or "all"
        known = group["deviation"].dropna()
        near = int((known.abs() <= STANDARD_ERRORS).sum())
        lines.append(f"{name}: E[N] within 2 standard errors of delta + 1/2 in {near} of {len(known)} shapes")
        told = group[group["variance_ratio"].notna()]
        if len(told):
            freedom = told["n_replicates"] - 1
            ratio = float(np.average(told["variance_ratio"], weights=freedom))
            error = math.sqrt(2.0 / float(freedom.sum()))
            agree = int((told["width"] == "agrees").sum())
            lines.append(
                f"{name}: Var N is theory's (95 % interval) in {agree} of {len(told)} shapes; "
                f"all together {ratio:.3f} +- {error:.3f} of it"
            )
    return lines


def depth_ratios(firsts: pd.DataFrame, reference: str = REFERENCE, least: int = LEAST) -> pd.DataFrame:
    """How much earlier than the nuclear norm each norm recovers, and how much smaller its variance is.

    E N - 1/2 is where half of the streams succeed (docs/statistics.md), so (E N - 1/2) over the nuclear norm's is the
    ratio of their n50. Both come from the same streams: its standard error is that of the paired difference.

    Args:
        firsts: one row per stream and norm, as ``benchmarks/effective_norm.py`` writes: the shape's columns,
            ``replicate``, ``norm``, ``first_success``, ``statdim``.
        reference: the norm that the others are compared with.
        least: streams that a row needs.

    Returns:
        Per shape and norm with enough streams of both: ``streams``, ``censored`` (streams without one of the two),
        ``mean``, ``mean_error``, ``ratio`` to the reference and ``ratio_error``, ``ratio_statdim`` (mean - 1/2 over the
        statistical dimension) and ``ratio_statdim_error``, ``variance``, ``variance_ratio`` and
        ``variance_ratio_error`` (a jackknife over streams). Errors are standard errors.

    Raises:
        FitError: the reference is missing.
    """
    if reference not in set(firsts["norm"]):
        raise FitError(f"no rows of norm {reference!r}, which the others are compared with")
    wide = firsts.pivot_table(index=[*_STREAMED, "replicate", "statdim"], columns="norm", values="first_success")
    rows = []
    for shape, streams in wide.groupby(level=list(_STREAMED)):
        for norm in streams.columns:
            both = streams[list({norm, reference})].dropna()
            n, base = (both[name].to_numpy(dtype=float) for name in (norm, reference))
            if len(n) < least:
                continue
            ratio, ratio_error = _n50_ratio(n, base)
            law, mean_error = both.index.get_level_values("statdim")[0], n.std(ddof=1) / np.sqrt(len(n))
            left_out = np.array([_variance_ratio(np.delete(n, i), np.delete(base, i)) for i in range(len(n))])
            rows.append(
                dict(zip(_STREAMED, shape, strict=True))
                | {
                    "norm": norm,
                    "streams": len(n),
                    "censored": len(streams) - len(n),
                    "mean": n.mean(),
                    "mean_error": mean_error,
                    "ratio": ratio,
                    "ratio_error": ratio_error,
                    "ratio_statdim": (n.mean() - 0.5) / law,
                    "ratio_statdim_error": mean_error / law,
                    "variance": n.var(ddof=1),
                    "variance_ratio": _variance_ratio(n, base),
                    "variance_ratio_error": np.sqrt((len(n) - 1) * left_out.var()),
                }
            )
    return pd.DataFrame(rows)


def beside_nuclear_norm(firsts: pd.DataFrame, share: float = 0.9) -> pd.DataFrame:
    """Counts of streams that each norm and the nuclear norm have recovered at n = share * statistical dimension.

    Per shape and norm ``n``, the counts ``both``, ``nuclear_only``, ``norm_only`` and ``neither``, and in how many
    streams the norm's first success is ``later`` than the nuclear norm's, ``equal`` or ``earlier``.
    """
    key = [*_STREAMED, "replicate", "statdim"]
    base = firsts[firsts["norm"] == REFERENCE].set_index(key)["first_success"]
    others = firsts[firsts["norm"] != REFERENCE].join(base.rename("nuclear"), on=key, how="inner")
    n, mine, nuclear = (share * others["statdim"]).round(), others["first_success"], others["nuclear"]
    counts = {
        "both": (mine <= n) & (nuclear <= n), "nuclear_only": (mine > n) & (nuclear <= n),
        "norm_only": (mine <= n) & (nuclear > n), "neither": (mine > n) & (nuclear > n),
        "later": mine > nuclear, "equal": mine == nuclear, "earlier": mine < nuclear,
    }  # fmt: skip
    table = others.assign(n=n.astype(int), **counts).dropna(subset=["first_success", "nuclear"])
    return table.groupby([*_STREAMED, "norm", "n"])[list(counts)].sum().reset_index()


def _n50_ratio(n: np.ndarray, base: np.ndarray) -> tuple[float, float]:
    """Ratio of two methods' n50, E N - 1/2, from first successes on the same streams, and its standard error."""
    ratio = (n.mean() - 0.5) / (base.mean() - 0.5)
    residual = n - n.mean() - ratio * (base - base.mean())
    return float(ratio), float(residual.std(ddof=1) / np.sqrt(len(n)) / (base.mean() - 0.5))


def _variance_ratio(n: np.ndarray, base: np.ndarray) -> float:
    return float(n.var(ddof=1) / base.var(ddof=1))


def method_firsts(trials: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """First successes of methods on nested streams as :func:`depth_ratios` takes them, one ``norm`` for each setting.

    ``first_success`` is NaN for streams that end before it, or begin after it.
    """
    by_method = trials.groupby("method")
    names = [name for name in SETTINGS if name in trials and by_method[name].nunique(dropna=False).max() > 1]
    norm = trials["method"].astype(object)
    if "batch_size" in names:
        names.remove("batch_size")
        norm = norm.mask((norm == "sam") & trials["batch_size"].isna(), "sam full")
    for name in names:
        norm += trials[name].map(lambda value: "" if pd.isna(value) else f" {value:g}")
    labelled = trials.assign(norm=norm)
    by = [*_STREAMED, *["depth"] * (labelled["depth"].nunique() > 1), "norm"]
    firsts = first_successes(labelled, by, tolerance)
    return firsts.assign(first_success=firsts["n_first"], statdim=predicted("statdim", firsts))


def at_rate_zero(firsts: pd.DataFrame, rates: Mapping[str, float], reference: str) -> tuple[float, float]:
    """n50 at learning rate 0 over the reference's, and its standard error, from the same streams.

    For every stream of one shape a line is fitted to its first successes over the learning rates of these norms; its
    intercept replaces the first success.
    """
    wide = firsts.pivot_table(index="replicate", columns="norm", values="first_success")
    known = wide.reindex(columns=[*rates, reference]).dropna()
    if len(known) < 2:
        raise FitError(f"{len(known)} streams have a first success of {', '.join(rates)} and {reference}; 2 are needed")
    line = np.polynomial.polynomial.polyfit(list(rates.values()), known[list(rates)].to_numpy(dtype=float).T, 1)
    return _n50_ratio(line[0], known[reference].to_numpy(dtype=float))


def minimum_norm_end(trials: pd.DataFrame, tolerance: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """First successes over the initial scale, and errors at fixed n, beside the minimum Frobenius norm's exact laws.

    Args:
        trials: of one shape; the nested ones give first successes, the others errors.
        tolerance: relative error of a success.

    Returns:
        Per ``init_scale``: ``streams``, ``mean`` first success and its standard ``error``, ``late`` (streams without a
        success even where every entry is measured, so that no method can fail but for its steps: they count as first
        successes there), and ``from_law``, the mean's distance from the law's in the law's standard errors. And per
        method, scale and n the number of ``errors`` and ``p`` of Kolmogorov and Smirnov's test against their Beta law.
    """
    (d_out, d_in), nested = trials[["d_out", "d_in"]].iloc[0].astype(int), trials["nested"].astype(bool)
    expected = minimum_norm_first_success(d_out, d_in, tolerance)
    firsts = first_successes(trials[nested], ["init_scale"], tolerance)
    firsts = firsts.assign(late=firsts["n_first"].isna(), n_first=firsts["n_first"].fillna(d_out * d_in))
    scales = firsts.groupby("init_scale").agg(
        streams=("late", "size"), mean=("n_first", "mean"), error=("n_first", "sem"), late=("late", "sum")
    )
    scales["from_law"] = (scales["mean"] - expected.mean()) / (expected.std() / np.sqrt(scales["streams"]))
    from scipy.stats import kstest

    rows = []
    for (method, scale, n), group in trials[~nested].groupby(["method", "init_scale", "n"], dropna=False):
        law = minimum_norm_law(d_out, d_in, int(group["n"].iloc[0]))
        uniform = law.cdf(group["relative_error"].to_numpy(dtype=float))
        rows.append(
            {"method": method, "init_scale": scale, "n": n, "errors": len(group), "p": kstest(uniform, "uniform")[1]}
        )
    return scales.reset_index(), pd.DataFrame(rows)


def local_against_global(solved: pd.DataFrame, tolerance: float = 1e-6) -> pd.DataFrame:
    """How often nu < 1 and exact recovery by the solver agree, by shape, ensemble and depth.

    Args:
        solved: one row per problem, as ``benchmarks/effective_norm.py`` writes.
        tolerance: relative error of a recovery.
    """
    local, exact = solved["nu_high"] < 1.0, solved["relative_error"] < tolerance
    counts = {
        "problems": local | True, "both": local & exact, "neither": ~local & ~exact, "local_only": local & ~exact,
        "solver_only": ~local & exact, "uncertified": ~solved["certified"].astype(bool),
    }  # fmt: skip
    return solved.assign(**counts).groupby([*_STREAMED, "depth"])[list(counts)].sum().reset_index()
