"""One phase diagram as an interactive chart: tiles, predictions, and each row's n50 with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from flatdist.figures.phase_diagram import View, log_edges
from flatdist.figures.sample_complexity import PREDICTIONS
from flatdist.report.charts import DASHES, EDGE, layered, log_axis, specification, tooltip, values
from flatdist.report.material import SHAPE
from flatdist.report.points import TOOLTIP, Point, matching_points
from flatdist.report.words import plain, threshold_words
from flatdist.theory import prediction

_ROW = 30  # pixels


def rows_of(points: Sequence[Point], view: View) -> dict[tuple[int, ...], int]:
    """Every shape and its place among the rows, from below."""
    shapes = {tuple(int(point.key[name]) for name in SHAPE) for point in points}
    return {shape: row for row, shape in enumerate(sorted(shapes, key=lambda shape: view.order(*shape)))}


def diagram_chart(
    points: Sequence[Point],
    fits: pd.DataFrame,
    view: View,
    span: tuple[float, float],
    naming: Sequence[str],
    summary: str,
) -> dict[str, Any]:
    """The chart of one panel as Vega-Lite.

    Args:
        points: of the panel.
        fits: rows of :attr:`Material.thresholds` of the panel.
        view: what the rows are.
        span: of n.
        naming: columns that tell points apart.
        summary: its text alternative.
    """
    rows = rows_of(points, view)
    labels = [view.name(*shape) for shape in rows]
    scale, axis = log_axis(*span, "measurements n")
    x = alt.X("left:Q", scale=scale, axis=axis)
    y_axis = alt.Axis(
        values=list(range(len(rows))), labelExpr=f"{labels}[datum.value]", title=plain(view.y_label), ticks=False
    )
    y = alt.Y("bottom:Q", scale=alt.Scale(domain=[-0.5, len(rows) - 0.5], nice=False), axis=y_axis)
    picked = alt.param(name="picked", value=-1)
    is_picked = "datum.point === picked"
    tiles = (
        alt.Chart(values(_tiles(points, rows, naming)))
        .mark_rect(clip=True, cursor="pointer")
        .encode(
            x=x,
            x2="right:Q",
            y=y,
            y2="top:Q",
            color=alt.Color("rate:Q", scale=alt.Scale(domain=[0, 1], scheme="cividis"), legend=None),
            stroke=alt.condition(is_picked, alt.value("var(--picked)"), alt.value(EDGE)),
            strokeWidth=alt.condition(is_picked, alt.value(3), alt.value(0.5)),
            tooltip=tooltip(TOOLTIP),
            description="label:N",
        )
    )
    background = (
        alt.Chart(values([{}]))
        .mark_rect(color="var(--unmeasured)")
        .encode(x=alt.value(0), x2=alt.value("width"), y=alt.value(0), y2=alt.value("height"))
    )
    layers = [background, tiles, *_predictions(rows, span), *_thresholds(fits, rows, span)]
    chart = layered(*layers).add_params(picked)
    return specification(chart, _ROW * max(len(rows), 2), summary)


def _tiles(points: Sequence[Point], rows: Mapping[tuple[int, ...], int], naming: Sequence[str]) -> list[dict[str, Any]]:
    tiles = []
    for shape, row in rows.items():
        mine = matching_points(points, dict(zip(SHAPE, shape, strict=True)))
        mine.sort(key=lambda point: point.n)
        edges = log_edges(np.array([point.n for point in mine])).round(3)
        for point, left, right in zip(mine, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            place = {"left": left, "right": right, "bottom": row - 0.5, "top": row + 0.5}
            tiles.append({**point.shown(naming), **place})
    return tiles


def _predictions(rows: Mapping[tuple[int, ...], int], span: tuple[float, float]) -> list[alt.Chart]:
    """Each prediction as a line through its value for every row, white with a dark edge."""
    lines = []
    for name in PREDICTIONS:
        logs = np.log([prediction(name).value(*shape) for shape in rows])
        first, last = (logs[1] - logs[0], logs[-1] - logs[-2]) if len(logs) > 1 else (0.0, 0.0)
        ends = np.exp([logs[0] - 0.5 * first, *logs, logs[-1] + 0.5 * last])
        heights = [-0.5, *range(len(rows)), len(rows) - 0.5]
        places = [
            {"x": round(float(x), 3), "y": y, "order": i} for i, (x, y) in enumerate(zip(ends, heights, strict=True))
        ]
        if all(not span[0] <= place["x"] <= span[1] for place in places):
            continue
        for color, width in (("#000000", 3.0), ("#ffffff", 1.5)):
            line = alt.Chart(values(places)).mark_line(
                clip=True, color=color, strokeWidth=width, strokeDash=list(DASHES[name]) if width < 2 else [1, 0],
                opacity=1.0 if width < 2 else 0.55, tooltip=None, aria=False,
            )  # fmt: skip
            lines.append(line.encode(x="x:Q", y="y:Q", order="order:Q"))
    return lines


def _thresholds(fits: pd.DataFrame, rows: Mapping[tuple[int, ...], int], span: tuple[float, float]) -> list[alt.Chart]:
    """Each row's n50 with its interval; a mark at the edge where it lies beyond what was measured."""
    intervals, edges = [], []
    for _, fit in fits.iterrows():
        row = rows[int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"])]
        words = {"n50": threshold_words(fit), "row": row}
        if fit["censored"] in ("none", "interval"):
            low, high = max(float(fit["n50_low"]), span[0]), min(float(fit["n50_high"]), span[1])
            intervals.append({**words, "x": float(fit["n50"]), "low": low, "high": high})
        elif fit["censored"] in ("left", "right"):
            edge = fit["n_max"] if fit["censored"] == "right" else fit["n_min"]
            edges.append({**words, "x": float(edge), "side": fit["censored"]})
    charts: list[alt.Chart] = []
    shown = tooltip({"n50": "n50, 95 % interval"})
    if intervals:
        data = values(intervals)
        for color, width in (("#ffffff", 5.0), ("#D55E00", 2.5)):
            rule = alt.Chart(data).mark_rule(color=color, strokeWidth=width, clip=True, aria=False)
            charts.append(rule.encode(x="low:Q", x2="high:Q", y="row:Q"))
        dot = alt.Chart(data).mark_point(
            filled=True, fill="#D55E00", stroke="#ffffff", strokeWidth=1, size=70, opacity=1, aria=False
        )
        charts.append(dot.encode(x="x:Q", y="row:Q", tooltip=shown))
    if edges:
        arrow = alt.Chart(values(edges)).mark_point(
            filled=True, fill="#D55E00", stroke="#ffffff", strokeWidth=1, size=110, opacity=1, aria=False
        )
        shapes = alt.Scale(domain=["left", "right"], range=["triangle-left", "triangle-right"])
        charts.append(
            arrow.encode(x="x:Q", y="row:Q", tooltip=shown, shape=alt.Shape("side:N", scale=shapes, legend=None))
        )
    return charts
