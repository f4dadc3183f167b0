"""Training curves: of the cell that is chosen in a diagram or in the table, every replicate and their median."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.figures.style import method_label
from flatdist.figures.training_curves import reference_levels
from flatdist.methods import METHODS
from flatdist.methods.base import GradientMethod
from flatdist.report.charts import ACCENT, FAINT, INK, layered, specification
from flatdist.report.material import MEASURES, Material
from flatdist.report.packing import pack
from flatdist.report.pictures import draw_curves, inlined
from flatdist.report.points import Point, points_of
from flatdist.report.section import Section
from flatdist.report.words import number
from flatdist.theory import flattest_trace

_HEIGHT = 110  # pixels
_DASHES: Mapping[str, Sequence[float]] = {"minimum": [5, 3], "Lemma 4": [8, 3, 2, 3], "truth": [1.5, 2.5]}


def build(material: Material) -> Section:
    """The section.

    Raises:
        FitError: no trial has a history.
    """
    if material.history.empty:
        raise FitError("no trial of this sweep has a history: none of its methods trains step by step")
    rows = material.cell_of_trials()
    keys = zip(material.trials["cell_id"], material.trials["replicate"], strict=True)
    cell_of = dict(zip(keys, rows, strict=True))
    history_keys = zip(material.history["cell_id"], material.history["replicate"], strict=True)
    packed = pack(material.history, [cell_of.get(key, -1) for key in history_keys], len(material.cells), list(MEASURES))
    points = points_of(material)
    first = _first(points, packed.curves)
    paths, figure = _figure(material)
    content: dict[str, Any] = {
        "measures": [{"chart": f"curve-{name}", "title": title} for name, title in MEASURES.items()],
        "thinned": packed.thinned,
        "first": points[first].shown(material.naming)["name"],
        "figure": figure,
    }
    data = {
        "measures": list(MEASURES),
        "curves": packed.curves,
        "steps": packed.steps,
        "low": packed.low,
        "high": packed.high,
        "points": [{"name": point.shown(material.naming)["name"], "cells": list(point.cells)} for point in points],
        "first": first,
        "levels": _levels(material),
    }
    charts = {f"curve-{name}": _chart(title) for name, title in MEASURES.items()}
    return Section("curves", "Training curves", content, charts, data, paths)


def _first(points: Sequence[Point], curves: Sequence[Any]) -> int:
    """The point that is shown at first: of those with curves, the one nearest to the transition."""
    drawn = [point for point in points if any(curves[cell] is not None for cell in point.cells)]
    return min(drawn or points, key=lambda point: abs(point.rate - 0.5)).index


def _chart(title: str) -> dict[str, Any]:
    """One measure over the steps; the page's script fills in the rows of the chosen cell."""
    dashes = alt.Scale(domain=list(_DASHES), range=list(_DASHES.values()))
    x = alt.X("step:Q", scale=_scale("x"), axis=alt.Axis(title="step", format="~s", values=alt.ExprRef("xTicks")))
    y = alt.Y("value:Q", scale=_scale("y"), axis=alt.Axis(title=None, format="~g", values=alt.ExprRef("yTicks")))
    curves = alt.NamedData(name="curves")
    medians, levels = alt.NamedData(name="medians"), alt.NamedData(name="levels")
    shown = [
        alt.Tooltip("step:Q", format=",d"),
        alt.Tooltip("value:Q", title="median", format=".3~g"),
        alt.Tooltip("low:Q", title="smallest", format=".3~g"),
        alt.Tooltip("high:Q", title="largest", format=".3~g"),
        alt.Tooltip("replicates:Q", title="replicates"),
    ]
    layers = [
        alt.Chart(levels).mark_rule(color=INK, strokeWidth=1, aria=False).encode(
            y="value:Q",
            strokeDash=alt.StrokeDash("dash:N", scale=dashes, legend=None),
            tooltip=[alt.Tooltip("label:N", title="level"), alt.Tooltip("value:Q", format=".4~g")],
        ),
        alt.Chart(curves).mark_line(color=FAINT, strokeWidth=0.9, opacity=0.7, aria=False).encode(
            x=x, y=y, detail="replicate:N"
        ),
        alt.Chart(medians).mark_line(color=ACCENT, strokeWidth=2.2, aria=False).encode(x=x, y=y),
        alt.Chart(medians).mark_point(opacity=0, size=160, filled=True, color=ACCENT, aria=False).encode(
            x=x, y=y, tooltip=shown
        ),
    ]  # fmt: skip
    view = [alt.param(name=name, value=[1, 10]) for name in ("xDomain", "yDomain", "xTicks", "yTicks")]
    return specification(layered(*layers).add_params(*view), _HEIGHT, f"{title} over the steps of the chosen cell")


def _scale(axis: str) -> alt.Scale:
    """A logarithmic scale over the range that the page's script gives."""
    return alt.Scale(type="log", nice=False, domain=alt.ExprRef(f"{axis}Domain"))


def _levels(material: Material) -> dict[str, list[dict[str, Any]]]:
    """For each cell, where theory says the flattest solution lies: what horizontal lines are drawn at.

    The minimum nuclear norm and Lemma 4's trace at that norm are medians over the ``min_nuclear_norm`` trials of the
    same problems; the truth's nuclear norm is that of the cell's own.
    """
    trials = material.trials.assign(cell_row=material.cell_of_trials())
    problem = list(PROBLEM_FIELDS)
    least = trials[trials["method"] == "min_nuclear_norm"].groupby(problem, dropna=False)["nuclear_norm"].median()
    known: Mapping[Any, float] = {key: float(value) for key, value in least.items()}
    levels = {}
    for row, group in trials[trials["method"].map(_is_trained)].groupby("cell_row"):
        fields = group.iloc[0]
        mine = [_level("nuclear_norm", "truth", "nuclear norm of the truth", group["nuclear_norm_truth"].median())]
        norm = known.get(tuple(fields[name] for name in problem))
        if norm is not None and not pd.isna(fields["depth"]):
            trace = flattest_trace(norm, int(fields["d_out"]), int(fields["d_in"]), int(fields["depth"]))
            mine.append(_level("nuclear_norm", "minimum", "minimum nuclear norm", norm))
            mine.append(_level("hessian_trace", "Lemma 4", "Lemma 4 at the minimum nuclear norm", trace))
        levels[str(row)] = [level for level in mine if np.isfinite(level["value"]) and level["value"] > 0]
    return levels


def _level(measure: str, dash: str, label: str, value: float) -> dict[str, Any]:
    return {"measure": measure, "dash": dash, "label": label, "value": float(value)}


def _is_trained(method: str) -> bool:
    return isinstance(METHODS.get(method), GradientMethod)


def _figure(material: Material) -> tuple[list[Path], dict[str, str] | None]:
    """The sweep's own figure of training curves; none where it holds several problems."""
    try:
        paths = draw_curves(material)
    except FitError:
        return [], None
    levels = reference_levels(material.trials)
    lines = [f"{row.label}, depth {row.depth}: {number(row.level)}" for row in levels.itertuples()]
    methods = sorted({method_label(method) for method in material.trials["method"] if _is_trained(method)})
    words = f"Losses, nuclear norm and trace of the Hessian over the steps of {', '.join(methods)}. "
    return paths, {"picture": inlined(paths), "alternative": words + "; ".join(lines)}
