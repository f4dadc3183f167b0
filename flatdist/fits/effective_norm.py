"""First successes on the same streams: the local condition of flatness against the nuclear norm, and methods."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.stats import kstest

from flatdist.errors import FitError
from flatdist.fits.first_success import first_successes
from flatdist.fits.shapes import predicted
from flatdist.theory import minimum_norm_first_success, minimum_norm_law

SHAPE = ("d_out", "d_in", "rank", "ensemble")
REFERENCE = "nuclear norm"
LEAST = 8  # least number of streams for a row with a variance
SETTINGS = ("learning_rate", "steps", "sam_radius", "batch_size", "flow_duration", "init_scale")


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
    wide = firsts.pivot_table(index=[*SHAPE, "replicate", "statdim"], columns="norm", values="first_success")
    rows = []
    for shape, streams in wide.groupby(level=list(SHAPE)):
        for norm in streams.columns:
            both = streams[list({norm, reference})].dropna()
            n, base = (both[name].to_numpy(dtype=float) for name in (norm, reference))
            if len(n) < least:
                continue
            ratio, ratio_error = _n50_ratio(n, base)
            law, mean_error = both.index.get_level_values("statdim")[0], n.std(ddof=1) / np.sqrt(len(n))
            left_out = np.array([_variance_ratio(np.delete(n, i), np.delete(base, i)) for i in range(len(n))])
            rows.append(
                dict(zip(SHAPE, shape, strict=True))
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
    key = [*SHAPE, "replicate", "statdim"]
    base = firsts[firsts["norm"] == REFERENCE].set_index(key)["first_success"]
    others = firsts[firsts["norm"] != REFERENCE].join(base.rename("nuclear"), on=key, how="inner")
    n, mine, nuclear = (share * others["statdim"]).round(), others["first_success"], others["nuclear"]
    counts = {
        "both": (mine <= n) & (nuclear <= n), "nuclear_only": (mine > n) & (nuclear <= n),
        "norm_only": (mine <= n) & (nuclear > n), "neither": (mine > n) & (nuclear > n),
        "later": mine > nuclear, "equal": mine == nuclear, "earlier": mine < nuclear,
    }  # fmt: skip
    table = others.assign(n=n.astype(int), **counts).dropna(subset=["first_success", "nuclear"])
    return table.groupby([*SHAPE, "norm", "n"])[list(counts)].sum().reset_index()


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
    by = [*SHAPE, *["depth"] * (labelled["depth"].nunique() > 1), "norm"]
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
    return solved.assign(**counts).groupby([*SHAPE, "depth"])[list(counts)].sum().reset_index()
