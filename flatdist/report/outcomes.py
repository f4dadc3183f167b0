"""How trials ended: statuses by method, why the diverged ones may have diverged, and what failed with which error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pandas as pd

from flatdist.figures.style import method_label, method_rank
from flatdist.fits.grouping import group_rows
from flatdist.methods import METHODS
from flatdist.methods.base import GradientMethod
from flatdist.report.material import Material
from flatdist.report.section import Section
from flatdist.report.words import counted, moment, name_of, number
from flatdist.theory import flattest_trace

STATUSES = ("converged", "budget_exhausted", "diverged")
MOST_ROWS = 40


def build(material: Material) -> Section:
    """The section."""
    failures = _failures(material)
    content = {
        "statuses": STATUSES,
        "methods": _methods(material),
        "diverged": _diverged(material)[:MOST_ROWS],
        "failures": failures,
        "unconverged": _unconverged(material),
        "recovered": len(material.failures) - sum(int(row["attempts"]) for row in failures),
    }
    return Section("outcomes", "Failures and divergences", content)


def _methods(material: Material) -> list[dict[str, Any]]:
    """Counts of statuses."""
    trials = material.trials
    if trials.empty:
        return []
    rows = []
    for method in sorted(trials["method"].unique(), key=method_rank):
        counts = trials.loc[trials["method"] == method, "status"].value_counts()
        rows.append({"method": method_label(method), "counts": [int(counts.get(name, 0)) for name in STATUSES]})
    return rows


def _unconverged(material: Material) -> list[str]:
    """Methods that had no time to converge."""
    words = []
    for row in _methods(material):
        exhausted, total = row["counts"][1], sum(row["counts"])
        if exhausted:
            words.append(f"{row['method']}: {exhausted:,} of {counted(total, 'replicate')}")
    return words


def _diverged(material: Material) -> list[dict[str, Any]]:
    """Configurations of which replicates diverged, the most first."""
    if material.judged.empty or not material.labelled["diverged"].any():
        return []
    rows = []
    for key, group in group_rows(material.labelled, [*material.naming, "n"]):
        lost = group[group["diverged"]]
        if len(lost):
            rows.append(
                {
                    "name": name_of(key),
                    "count": f"{len(lost)} of {len(group)}",
                    "share": len(lost) / len(group),
                    "steps": _range(lost["steps_run"]),
                    "rate": _range(lost["learning_rate_final"]),
                    "why": _why(cast("dict[str, Any]", lost.iloc[0].to_dict())),
                }
            )
    return sorted(rows, key=lambda row: -row["share"])


def _range(values: pd.Series) -> str:
    numbers = pd.to_numeric(values).dropna()
    if numbers.empty:
        return number(None)
    low, high = float(numbers.min()), float(numbers.max())
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def _why(row: Mapping[str, Any]) -> str:
    """What a step size is to be compared with, and what to change.

    Mini-batches of B measurements add curvature noise 2 R / B to a Hessian of trace R
    (flatdist.trials.learning_rate), so
    steps beyond B / R are unstable even where R is smallest: at the flattest interpolator, by Lemma 4.
    """
    if not isinstance(METHODS.get(str(row["method"])), GradientMethod):
        return "The solver returned no finite answer; `flatdist show` has its certificate."
    rate, batch, norm = (row.get(name) for name in ("learning_rate_final", "batch_size", "nuclear_norm_truth"))
    advice = "use learning_rate: auto, or a smaller one"
    if pd.isna(rate) or pd.isna(norm) or pd.isna(row["depth"]):
        return f"The loss was no longer finite: {advice}."
    trace = flattest_trace(float(norm), int(row["d_out"]), int(row["d_in"]), int(row["depth"]))
    limit = (float(row["n"]) if pd.isna(batch) else float(batch)) / trace
    if pd.isna(batch) or row["method"] in ("gradient_descent", "sam"):
        return f"The step was too long for the sharpest direction on the way: {advice}."
    if float(rate) > limit:
        return (
            f"The step size {number(rate)} is beyond B / R = {number(limit)}, where mini-batch noise alone is unstable "
            f"even at the flattest solution (Lemma 4's trace R = {number(trace)}): {advice}."
        )
    return (
        f"The step size {number(rate)} is {number(float(rate) / limit)} of B / R = {number(limit)}, the limit at the "
        f"flattest solution; the weights were sharper than that on the way: {advice}, or a smaller init_scale."
    )


def _failures(material: Material) -> list[dict[str, Any]]:
    """Replicates that have no result but errors, equal errors once."""
    failures = material.failures
    if failures.empty:
        return []
    done = (
        set(zip(material.trials["cell_id"], material.trials["replicate"], strict=True))
        if len(material.trials)
        else set()
    )
    keys = list(zip(failures["cell_id"], failures["replicate"], strict=True))
    missing = failures[[key not in done for key in keys]]
    rows = []
    for (kind, message), group in missing.groupby(["error_type", "message"], sort=False, dropna=False):
        last = group.iloc[-1]
        where = f"cell {last['cell_id']}, replicate {last['replicate']}, on {last['host']}"
        replicates = group[["cell_id", "replicate"]].drop_duplicates()
        rows.append(
            {
                "kind": kind,
                "message": message,
                "replicates": len(replicates),
                "cells": replicates["cell_id"].nunique(),
                "attempts": len(group),
                "where": f"{where} at {moment(last['at'])}",
                "traceback": str(last["traceback"]).rstrip(),
            }
        )
    return sorted(rows, key=lambda row: -int(row["replicates"]))
