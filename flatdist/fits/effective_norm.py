"""First successes of the local condition of flatness, against the nuclear norm's on the same streams."""

from __future__ import annotations

import numpy as np
import pandas as pd

from flatdist.errors import FitError

SHAPE = ("d_out", "d_in", "rank", "ensemble")
REFERENCE = "nuclear norm"
LEAST = 8  # streams that a row needs: fewer have no variance worth a name


def depth_ratios(firsts: pd.DataFrame) -> pd.DataFrame:
    """How much earlier than the nuclear norm each norm recovers, and how much less it scatters.

    E N - 1/2 is where half of the streams succeed (docs/statistics.md), so (E N - 1/2) over the nuclear norm's is the
    ratio of their n50. Both come from the same streams: its standard error is that of the paired difference.

    Args:
        firsts: one row per stream and norm, as ``benchmarks/effective_norm.py`` writes: the shape's columns,
            ``replicate``, ``norm``, ``first_success``, ``statdim``.

    Returns:
        Per shape and norm with at least 8 streams of both: ``streams``, ``mean``, ``mean_error``, ``ratio`` to the
        nuclear norm and ``ratio_error``, ``ratio_statdim`` (mean - 1/2 over the statistical dimension), ``variance``,
        ``variance_ratio`` and ``variance_ratio_error`` (a jackknife over streams). Errors are standard errors.

    Raises:
        FitError: the nuclear norm, which all are compared with, is missing.
    """
    if REFERENCE not in set(firsts["norm"]):
        raise FitError(f"no rows of norm {REFERENCE!r}, which the others are compared with")
    wide = firsts.pivot_table(index=[*SHAPE, "replicate", "statdim"], columns="norm", values="first_success")
    rows = []
    for shape, streams in wide.groupby(level=list(SHAPE)):
        for norm in streams.columns:
            both = streams[[norm, REFERENCE]].dropna() if norm != REFERENCE else streams[[norm]].dropna()
            n = both[norm].to_numpy(dtype=float)
            base = both[REFERENCE].to_numpy(dtype=float)
            if len(n) < LEAST:
                continue
            ratio = (n.mean() - 0.5) / (base.mean() - 0.5)
            residual = n - n.mean() - ratio * (base - base.mean())
            left_out = np.array([_variance_ratio(np.delete(n, i), np.delete(base, i)) for i in range(len(n))])
            rows.append(
                dict(zip(SHAPE, shape, strict=True))
                | {
                    "norm": norm,
                    "streams": len(n),
                    "mean": n.mean(),
                    "mean_error": n.std(ddof=1) / np.sqrt(len(n)),
                    "ratio": ratio,
                    "ratio_error": residual.std(ddof=1) / np.sqrt(len(n)) / (base.mean() - 0.5),
                    "ratio_statdim": (n.mean() - 0.5) / both.index.get_level_values("statdim")[0],
                    "variance": n.var(ddof=1),
                    "variance_ratio": _variance_ratio(n, base),
                    "variance_ratio_error": np.sqrt((len(n) - 1) * left_out.var()),
                }
            )
    return pd.DataFrame(rows)


def beside_nuclear_norm(firsts: pd.DataFrame, share: float = 0.9) -> pd.DataFrame:
    """Which streams each norm has recovered, and which the nuclear norm has, at n = share * statistical dimension.

    Args:
        firsts: as for :func:`depth_ratios`.
        share: of the statistical dimension; n is rounded.

    Returns:
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


def _variance_ratio(n: np.ndarray, base: np.ndarray) -> float:
    return float(n.var(ddof=1) / base.var(ddof=1))


def local_against_global(solved: pd.DataFrame, tolerance: float = 1e-6) -> pd.DataFrame:
    """How often nu < 1 and exact recovery by the solver agree, by shape and depth.

    Args:
        solved: one row per problem: ``d_out``, ``d_in``, ``rank``, ``depth``, ``nu_low``, ``nu_high``,
            ``relative_error``, ``certified``.
        tolerance: relative error of a recovery.

    Returns:
        Counts: ``problems``, ``both``, ``neither``, ``local_only``, ``solver_only``, ``uncertified``.
    """
    local, exact = solved["nu_high"] < 1.0, solved["relative_error"] < tolerance
    table = solved.assign(
        problems=1,
        both=local & exact,
        neither=~local & ~exact,
        local_only=local & ~exact,
        solver_only=~local & exact,
        uncertified=~solved["certified"].astype(bool),
    )
    counts = ["problems", "both", "neither", "local_only", "solver_only", "uncertified"]
    return table.groupby(["d_out", "d_in", "rank", "depth"])[counts].sum().astype(int).reset_index()
