"""Theorems 1, 5 and 7: flatness as a function of the end-to-end matrix."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from flatdist.fits.theorem_checks.check import VACUOUS, Check, judge, judge_equality, largest, records, where_of
from flatdist.fits.theorem_checks.tables import flattest_beside_nuclear, probes
from flatdist.theory import flattest_trace, nuclear_norm_ratio_bound

CLOSED_FORM = 1e-6


def theorem_1_regularizer(trials: pd.DataFrame) -> Check | None:
    """| F(M) / G(M) - 1 | <= delta_1, at the ground truths."""
    rows = probes(trials)
    rows = rows.dropna(subset=["regularizer"]) if "regularizer" in rows else rows.iloc[:0]
    if rows.empty:
        return None
    sizes = zip(rows["nuclear_norm_truth"], rows["d_out"], rows["d_in"], rows["depth"], strict=True)
    ideal = np.array([flattest_trace(norm, int(out), int(into), int(depth)) for norm, out, into, depth in sizes])
    rows = rows.assign(
        measured=np.abs(rows["regularizer"] / ideal - 1.0), lower=rows["delta_1_lower"], upper=rows["delta_1_upper"]
    )
    triples = zip(rows["measured"], rows["lower"], rows["upper"], strict=True)
    rows = rows.assign(verdict=[judge(value, float, low, high) for value, low, high in triples])
    useful = rows[rows["verdict"] != VACUOUS]
    useful = useful if len(useful) else rows
    worst = largest(useful, useful["measured"] / useful["lower"])
    return Check(
        "Theorem 1, regularizer",
        "theorem_1_regularizer",
        "|F(M) / G(M) - 1| <= delta_1, G = 2 L (d d')^(1/L) ||M||_*^(2(L-1)/L)",
        f"left side at most {worst['measured'] / worst['lower']:.3f} of delta_1's lower bound",
        rows,
        f"{worst['measured']:.4f} with delta_1 in [{worst['lower']:.4f}, {worst['upper']:.4f}] at {where_of(worst)}",
    )


def theorem_1_nuclear_norm(trials: pd.DataFrame) -> Check | None:
    """||M-hat||_* <= ((1+delta)/(1-delta))^(L/(2(L-1))) times the least; below as many measurements as entries."""
    rows = flattest_beside_nuclear(trials).dropna(subset=["delta_1_lower"])
    rows = rows[rows["n"] < rows["d_out"] * rows["d_in"]].reset_index(drop=True)
    if rows.empty:
        return None
    rows = rows.assign(
        measured=rows["nuclear_norm"] / rows["least_nuclear_norm"],
        lower=rows["delta_1_lower"],
        upper=rows["delta_1_upper"],
    )
    rows = rows.assign(verdict=[_judge_ratio(row) for row in records(rows)])
    useful = rows[rows["verdict"] != VACUOUS]
    shown = rows if useful.empty else useful
    worst = largest(shown, shown["measured"])
    bound = nuclear_norm_ratio_bound(float(worst["lower"]), int(worst["depth"]))
    return Check(
        "Theorem 1, nuclear norm",
        "theorem_1_nuclear_norm",
        "||M-hat||_* / min ||M||_* <= ((1+delta_1)/(1-delta_1))^(L/(2(L-1)))",
        f"ratio at most {rows['measured'].max():.4f}; "
        + ("vacuous everywhere" if useful.empty else f"{useful['measured'].max():.4f} where delta_1 may be below 1"),
        rows,
        f"{worst['measured']:.4f} against {bound:.2f} at {where_of(worst)}",
    )


def _ratio_bound(depth: int) -> Callable[[float], float]:
    return lambda delta: nuclear_norm_ratio_bound(delta, depth)


def _judge_ratio(row: Mapping[str, Any]) -> str:
    return judge(row["measured"], _ratio_bound(int(row["depth"])), row["lower"], row["upper"])


def theorem_5(trials: pd.DataFrame) -> Check | None:
    """F(M) = 4 ||S_out^(1/2) M S_in^(1/2)||_* at depth 2."""
    rows = _closed(trials)
    return _equality(rows[rows["depth"] == 2], "Theorem 5", "theorem_5", "F(M) = 4 ||S_out^(1/2) M S_in^(1/2)||_*")


def theorem_7(trials: pd.DataFrame) -> Check | None:
    """F(M) = 2 L ||(A^T M)^(L-1) A^T||_(S_2/L)^(2/L) for one measurement, from depth 3 on."""
    rows = _closed(trials)
    chosen = rows[(rows["n"] == 1) & (rows["depth"] > 2)]
    return _equality(chosen, "Theorem 7", "theorem_7", "F(M) = 2L ||(A^T M)^(L-1) A^T||_(S 2/L)^(2/L), n = 1")


def _closed(trials: pd.DataFrame) -> pd.DataFrame:
    """Problems whose induced regularizer has a closed form, with relative errors against it."""
    rows = probes(trials)
    if "closed_form" not in rows:
        return rows.iloc[:0]
    rows = rows.dropna(subset=["closed_form"])
    return rows.assign(
        optimised=np.abs(rows["regularizer"] / rows["closed_form"] - 1.0),
        minimiser=np.abs(rows["closed_trace"] / rows["closed_form"] - 1.0),
    )


def _equality(rows: pd.DataFrame, statement: str, name: str, formula: str) -> Check | None:
    if rows.empty:
        return None
    rows = rows.assign(measured=rows[["optimised", "minimiser", "closed_product"]].max(axis=1))
    rows = rows.assign(verdict=[judge_equality(error, CLOSED_FORM) for error in rows["measured"]])
    worst = largest(rows, rows["measured"])
    return Check(
        statement,
        name,
        f"{formula}, to {CLOSED_FORM:g}",
        f"optimised value differs by at most {rows['optimised'].max():.1e}, the explicit minimiser's trace by "
        f"{rows['minimiser'].max():.1e} and product by {rows['closed_product'].max():.1e}",
        rows,
        f"{worst['measured']:.1e} at {where_of(worst)}",
    )
