"""Trials brought into the shape that checks need: probes with their quantities, interpolators paired on a problem."""

from __future__ import annotations

import pandas as pd

from flatdist.cells.cell import PROBLEM_FIELDS

KEY = (*PROBLEM_FIELDS, "replicate")
_SHOWN = ["cell_id", "configuration_id", *KEY, "depth", "nuclear_norm_truth"]
_DELTAS = ["delta_1_lower", "delta_1_upper", "delta_2_lower", "delta_2_upper"]


def probes(trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each theorem_probe trial, its quantities as columns."""
    chosen = trials[(trials["method"] == "theorem_probe") & trials["quantities"].notna()]
    if chosen.empty:
        return pd.DataFrame(columns=[*_SHOWN, *_DELTAS])
    shown = chosen[[name for name in _SHOWN if name in chosen]].reset_index(drop=True)
    return pd.concat([shown, pd.DataFrame(list(chosen["quantities"]))], axis=1)


def problems(trials: pd.DataFrame) -> pd.DataFrame:
    """One row for each problem that was probed at any depth, with its isometry constants."""
    return probes(trials).drop_duplicates(list(KEY))


def flattest_beside_nuclear(trials: pd.DataFrame) -> pd.DataFrame:
    """Certified flattest interpolators with the minimum nuclear norm and, where probed, the isometry of their problem.

    Returns:
        The columns of flattest trials, ``least_nuclear_norm``, ``delta_1_lower`` and so on, null where not probed.
    """
    certified = trials[trials["status"] == "converged"]
    flattest = certified[certified["method"] == "min_hessian_trace"]
    nuclear = certified[certified["method"] == "min_nuclear_norm"]
    least = nuclear[[*KEY, "nuclear_norm"]].rename(columns={"nuclear_norm": "least_nuclear_norm"})
    known = problems(trials)
    if flattest.empty or least.empty or known.empty:  # empty columns have no type to merge on
        return flattest.iloc[:0].reindex(columns=[*flattest.columns, "least_nuclear_norm", *_DELTAS])
    paired = flattest.merge(least, on=list(KEY), how="inner")
    columns = [name for name in _DELTAS if name in known]
    return paired.merge(known[[*KEY, *columns]], on=list(KEY), how="left").reindex(columns=[*paired.columns, *_DELTAS])
