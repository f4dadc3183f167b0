"""What all interactive charts have in common: their look, in colours that the style sheet gives, and their axes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from flatdist.figures.style import COLORS, MARKERS, round_values

INK, FAINT, EDGE, ACCENT = "var(--ink)", "var(--faint)", "var(--paper)", "var(--accent)"
# Vega's names of the markers that the printed figures have.
SHAPES: Mapping[str, str] = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "stroke",
}  # fmt: skip
DASHES: Mapping[str, Sequence[float]] = {
    "statdim": [1, 0],
    "rsum": [7, 3],
    "dof": [1.5, 2.5],
    "entries": [7, 2.5, 1.5, 2.5],
}
CONFIG: Mapping[str, Any] = {
    "background": "transparent",
    "font": "inherit",
    "view": {"stroke": None},
    "axis": {
        "domainColor": FAINT,
        "tickColor": FAINT,
        "labelColor": INK,
        "titleColor": INK,
        "titleFontWeight": "normal",
        "grid": False,
        "labelOverlap": True,
    },
}
"""Colours are variables of the style sheet: dark mode and paper change them without drawing anything anew."""


def series_color(index: int) -> str:
    """Colour of the index-th series; :data:`flatdist.figures.style.COLORS` on a light page."""
    return f"var(--series-{index % len(COLORS)})"


def series_shape(index: int) -> str:
    """Marker of the index-th series, as in the printed figures."""
    return SHAPES[MARKERS[index % len(MARKERS)]]


def layered(*charts: alt.Chart) -> alt.LayerChart:
    """Charts over one another."""
    return alt.LayerChart(layer=list(charts))


def values(rows: Sequence[Mapping[str, Any]]) -> alt.InlineData:
    """Rows as a chart's own data."""
    return alt.InlineData(values=[dict(row) for row in rows])


def tooltip(fields: Mapping[str, str]) -> list[alt.Tooltip]:
    """Columns of text that appear where a mark is pointed at, with their titles."""
    return [alt.Tooltip(field=name, type="nominal", title=title) for name, title in fields.items()]


def log_axis(low: float, high: float, title: str | None, most: int = 7) -> tuple[alt.Scale, alt.Axis]:
    """A logarithmic scale from low to high, and an axis with a few round labels."""
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    axis = alt.Axis(values=[float(value) for value in round_values(low, high, most)], title=title, format="~g")
    return scale, axis


def specification(chart: alt.LayerChart, height: int, summary: str) -> dict[str, Any]:
    """The chart as Vega-Lite, as wide as the page gives it.

    Args:
        chart: from Altair.
        height: in pixels, without axes.
        summary: its text alternative.
    """
    sized = chart.properties(width="container", height=height, description=summary)
    spec = sized.to_dict()
    spec["config"] = dict(CONFIG)
    spec["autosize"] = {"type": "fit-x", "contains": "padding"}
    return spec
