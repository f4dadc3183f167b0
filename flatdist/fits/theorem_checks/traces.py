"""Lemmas 2 to 5: the trace of the Hessian, its ideal R(W), and the isometry on matrices of small nuclear norm."""

from __future__ import annotations

import pandas as pd

from flatdist.fits.theorem_checks.check import HOLDS, VIOLATED, Check, judge, judge_equality, largest, where_of
from flatdist.fits.theorem_checks.tables import probes

LEMMA_2 = 1e-10
LEMMA_4 = 1e-10
PRODUCT = 1e-12


def lemma_2(trials: pd.DataFrame) -> Check | None:
    """Lemma 2's sum is the trace of the Hessian by automatic differentiation, at and away from interpolation."""
    rows = _with(probes(trials), "lemma2_on", "lemma2_off")
    if rows.empty:
        return None
    errors = rows[["lemma2_on", "lemma2_off"]].max(axis=1)
    rows = rows.assign(measured=errors, verdict=[judge_equality(error, LEMMA_2) for error in errors])
    worst = largest(rows, rows["measured"])
    return Check(
        "Lemma 2",
        "lemma_2",
        f"tr Hess L(W) equals the sum over layers, to {LEMMA_2:g}",
        f"largest relative difference {rows['lemma2_on'].max():.1e} at interpolators, {rows['lemma2_off'].max():.1e} "
        "elsewhere",
        rows,
        f"{worst['measured']:.1e} at {where_of(worst)}",
    )


def lemma_3(trials: pd.DataFrame) -> Check | None:
    """| tr Hess / (2 R) - 1 | <= delta_1."""
    rows = _with(probes(trials), "lemma3_low", "lemma3_high")
    if rows.empty:
        return None
    measured = pd.concat([rows["lemma3_high"] - 1.0, 1.0 - rows["lemma3_low"]], axis=1).max(axis=1)
    rows = _bounded(rows, measured, 1)
    return _delta_check(
        rows,
        "Lemma 3",
        "lemma_3",
        "|tr Hess L / (2 R) - 1| <= delta_1",
    )


def lemma_4(trials: pd.DataFrame) -> Check | None:
    """Balanced layers have the requested product and attain the minimum of R, and no other layers go below it."""
    rows = _with(probes(trials), "lemma4_excess", "lemma4_product", "lemma4_others")
    if rows.empty:
        return None
    good = (rows["lemma4_excess"].abs() <= LEMMA_4) & (rows["lemma4_product"] <= PRODUCT)
    good &= rows["lemma4_others"] >= -LEMMA_4
    rows = rows.assign(verdict=good.map({True: HOLDS, False: VIOLATED}))
    worst = largest(rows, rows["lemma4_excess"].abs())
    return Check(
        "Lemma 4",
        "lemma_4",
        f"min R = L (d d')^(1/L) ||M||_*^(2(L-1)/L), attained to {LEMMA_4:g} with a product exact to {PRODUCT:g}",
        f"R differs by at most {rows['lemma4_excess'].abs().max():.1e}, products by "
        f"{rows['lemma4_product'].max():.1e}; other factorizations end {rows['lemma4_others'].min():.1%} or more above",
        rows,
        f"{abs(worst['lemma4_excess']):.1e} at {where_of(worst)}",
    )


def lemma_5(trials: pd.DataFrame) -> Check | None:
    """| (1/n) sum <A_i, X>^2 - ||X||_F^2 | <= delta_2 ||X||_*^2."""
    rows = _with(probes(trials), "lemma5_left", "delta_2_lower")
    if rows.empty:
        return None
    rows = _bounded(rows, rows["lemma5_left"], 2)
    return _delta_check(
        rows,
        "Lemma 5",
        "lemma_5",
        "|(1/n) sum <A_i, X>^2 - ||X||_F^2| <= delta_2 ||X||_*^2",
    )


def _with(rows: pd.DataFrame, *names: str) -> pd.DataFrame:
    return rows.dropna(subset=list(names)) if set(names) <= set(rows.columns) else rows.iloc[:0]


def _bounded(rows: pd.DataFrame, measured: pd.Series, rank: int) -> pd.DataFrame:
    """The rows with ``measured``, delta_rank as ``lower`` and ``upper``, and the verdict on measured <= delta."""
    rows = rows.assign(measured=measured, lower=rows[f"delta_{rank}_lower"], upper=rows[f"delta_{rank}_upper"])
    triples = zip(rows["measured"], rows["lower"], rows["upper"], strict=True)
    return rows.assign(verdict=[judge(value, float, low, high) for value, low, high in triples])


def _delta_check(rows: pd.DataFrame, statement: str, name: str, predicted: str) -> Check:
    useful = rows[rows["lower"] < 1.0]
    vacuous = useful.empty
    useful = rows if vacuous else useful
    worst = largest(useful, useful["measured"] / useful["lower"])
    return Check(
        statement,
        name,
        predicted,
        f"left side at most {worst['measured'] / worst['lower']:.3f} of delta's lower bound"
        + (" (all beyond 1)" if vacuous else ""),
        rows,
        f"{worst['measured']:.4f} with delta in [{worst['lower']:.4f}, {worst['upper']:.4f}] at {where_of(worst)}",
    )
