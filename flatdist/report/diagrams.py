"""The phase diagrams: a panel for each method and configuration, a row for each rank or shape, a tile for each n."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flatdist.errors import FitError
from flatdist.figures.layout import keys_of
from flatdist.figures.phase_diagram import VIEWS, View, panel_columns
from flatdist.figures.sample_complexity import PREDICTIONS
from flatdist.fits.grouping import matching
from flatdist.report.charts import DASHES
from flatdist.report.diagram_chart import diagram_chart, rows_of
from flatdist.report.material import SHAPE, Material
from flatdist.report.pictures import draw_picture, inlined
from flatdist.report.points import Point, matching_points, points_of
from flatdist.report.section import Section
from flatdist.report.words import PREDICTIONS as PREDICTION_NAMES
from flatdist.report.words import name_of, percent, plain, threshold_words
from flatdist.theory import prediction

MOST_PANELS = 48
_REACH = 1.05  # the axis goes so far beyond the first and the last n


def build(material: Material) -> Section:
    """The section.

    Raises:
        FitError: there is nothing to draw over n.
    """
    points = points_of(material)
    view_name = "size" if _only_sizes_vary(material.judged) else "rank"
    view = VIEWS[view_name]
    columns = panel_columns(material.judged, view)
    keys = keys_of(material.labelled, columns)
    if max(len({point.n for point in matching_points(points, key)}) for key in keys) < 2:
        raise FitError("every configuration was measured at one n, so there is no transition to draw; see the cells")
    if len(keys) > MOST_PANELS:
        raise FitError(
            f"{len(keys)} configurations would make as many diagrams ({', '.join(columns)} vary); at most "
            f"{MOST_PANELS} are drawn: report on a part of the sweep, or see the cells"
        )
    span = (min(point.n for point in points) / _REACH, max(point.n for point in points) * _REACH)
    panels, charts = [], {}
    for number, key in enumerate(keys):
        mine = matching_points(points, key)
        fits = matching(material.thresholds, key)
        name = f"diagram-{number}"
        summary = _summary(key, fits, view)
        charts[name] = diagram_chart(mine, fits, view, span, material.naming, summary)
        panels.append({"chart": name, "title": name_of(key), "summary": summary, "rows": _rows(mine, view)})
    paths = draw_picture(material, "phase_diagram", view=view_name)
    content = {
        "panels": panels,
        "picture": inlined(paths),
        "rows_are": plain(view.y_label),
        "tolerance": material.tolerance,
        "predictions": [
            {"label": PREDICTION_NAMES[name], "formula": prediction(name).formula, "dash": DASHES[name]}
            for name in PREDICTIONS
        ],
    }
    return Section("diagrams", "Phase diagrams", content, charts, pictures=paths)


def _only_sizes_vary(trials: pd.DataFrame) -> bool:
    return len(trials[["d_out", "d_in"]].drop_duplicates()) > 1 and trials["rank"].nunique() == 1


def _summary(key: Mapping[str, Any], fits: pd.DataFrame, view: View) -> str:
    """What is seen, in a sentence for every row."""
    rows = []
    for _, fit in fits.iterrows():
        name = view.name(int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"]))
        rows.append(f"{plain(view.y_label)} {name}: n50 {threshold_words(fit)}")
    return f"Success over n, {name_of(key)}. " + "; ".join(rows) + "."


def _rows(points: Sequence[Point], view: View) -> list[dict[str, Any]]:
    """The diagram as lists of buttons: what the keyboard, screen readers and pages without scripts have."""
    rows = []
    for shape in reversed(rows_of(points, view)):
        mine = matching_points(points, dict(zip(SHAPE, shape, strict=True)))
        tiles = [
            {"point": p.index, "n": f"{p.n:g}", "success": f"{p.successes}/{p.count}", "share": percent(p.rate)}
            for p in sorted(mine, key=lambda point: point.n)
        ]
        rows.append({"label": f"{plain(view.y_label)} {view.name(*shape)}", "tiles": tiles})
    return rows
