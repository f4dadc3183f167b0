"""Sample complexity: success against n with its fitted curve, n50 and the predictions, a panel for each problem."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import altair as alt
import numpy as np
import pandas as pd

from flatdist.figures.layout import keys_of, styled
from flatdist.figures.sample_complexity import PREDICTIONS
from flatdist.figures.style import method_label
from flatdist.fits.grouping import matching, name_nulls
from flatdist.report.charts import (
    DASHES,
    EDGE,
    FAINT,
    INK,
    layered,
    log_axis,
    series_color,
    series_shape,
    specification,
    tooltip,
    values,
)
from flatdist.report.diagrams import MOST_PANELS
from flatdist.report.material import Material
from flatdist.report.pictures import draw_picture, inlined
from flatdist.report.points import TOOLTIP, Point, matching_points, points_of
from flatdist.report.section import Section
from flatdist.report.words import PREDICTIONS as PREDICTION_NAMES
from flatdist.report.words import name_of, number, threshold_words, with_limits
from flatdist.theory import prediction
from flatdist.threshold.curves import curve

MOST_SERIES = 14
_HEIGHT = 190  # pixels
_CURVE_POINTS = 80


def build(material: Material) -> Section:
    """The section; with a table of thresholds alone where there are too many series or one n."""
    points = points_of(material)
    series, panels = keys_of(material.labelled, material.series), keys_of(material.labelled, material.panels)
    content: dict[str, Any] = {
        "tolerance": material.tolerance,
        "link": material.request.link,
        "thresholds": threshold_rows(material),
        "heads": material.naming,
        "panels": [],
    }
    reason = _too_much(points, series, panels)
    if reason:
        return Section("complexity", "Sample complexity", content, message=reason)
    charts = {}
    colors = {name_of(key): index for index, key in styled(series)}
    for position, key in enumerate(panels):
        mine, fits = matching_points(points, key), matching(material.thresholds, key)
        name = f"complexity-{position}"
        summary = _summary(key, fits, series)
        charts[name] = _chart(mine, fits, series, material, summary)
        content["panels"].append({"chart": name, "title": name_of(key), "summary": summary})
    content["legend"] = [
        {"label": label, "color": series_color(index), "shape": series_shape(index)} for label, index in colors.items()
    ]
    paths = draw_picture(material, "sample_complexity")
    content["picture"] = inlined(paths)
    return Section("complexity", "Sample complexity", content, charts, pictures=paths)


def _too_much(points: Sequence[Point], series: Sequence[Any], panels: Sequence[Any]) -> str:
    if len({point.n for point in points}) < 2:
        return "All trials have one n, so there is no curve over n to draw, and n50 is at most bounded from one side."
    if len(series) > MOST_SERIES or len(panels) > MOST_PANELS:
        return (
            f"{len(series)} configurations of the methods on {len(panels)} problems are too many for curves that one "
            f"can tell apart (at most {MOST_SERIES} on {MOST_PANELS}); the table has their thresholds."
        )
    return ""


def threshold_rows(material: Material) -> list[dict[str, Any]]:
    """The table of thresholds, as text."""
    keys = keys_of(material.thresholds, material.naming)
    fits = pd.concat([matching(material.thresholds, key) for key in keys])
    names = name_nulls(fits, material.naming)
    rows = []
    for (_, fit), (_, key) in zip(fits.iterrows(), names.iterrows(), strict=True):
        resolved = not fit["n_spacing"] > 0 or fit["transition"] >= fit["n_spacing"]
        width = with_limits(fit["transition"], fit["transition_low"], fit["transition_high"])
        rows.append(
            {
                "key": [method_label(value) if name == "method" else str(value) for name, value in key.items()],
                "n50": threshold_words(fit),
                "censored": fit["censored"],
                "width": width if resolved else f"below {number(fit['n_spacing'])}, the spacing of n",
                "statdim": number(fit["n50"] / _predicted("statdim", fit)),
                "replicates": int(fit["n_replicates"]),
                "diverged": int(fit["n_diverged"]),
                "unconverged": int(fit["n_unconverged"]),
                "other_link": number(fit["n50_other_link"]),
            }
        )
    return rows


def _predicted(name: str, fit: pd.Series) -> float:
    return prediction(name).value(int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"]))


def _summary(key: Mapping[str, Any], fits: pd.DataFrame, series: Sequence[Mapping[str, Any]]) -> str:
    parts = [f"{name_of(one)} {threshold_words(fit)}" for one in series for _, fit in matching(fits, one).iterrows()]
    shape = fits.iloc[0]
    at = [f"{PREDICTION_NAMES[name]} {number(_predicted(name, shape))}" for name in PREDICTIONS]
    return f"Success against n, {name_of(key)}. n50: {'; '.join(parts)}. Predictions: {', '.join(at)}."


def _chart(
    points: Sequence[Point],
    fits: pd.DataFrame,
    series: Sequence[Mapping[str, Any]],
    material: Material,
    summary: str,
) -> dict[str, Any]:
    low, high = min(point.n for point in points), max(point.n for point in points)
    margin = (high / low) ** 0.04 if high > low else 1.2
    span = (low / margin, high * margin)
    scale, axis = log_axis(*span, "measurements n")
    x = alt.X("n:Q", scale=scale, axis=axis)
    y = alt.Y(
        "rate:Q", scale=alt.Scale(domain=[-0.03, 1.03], nice=False), axis=alt.Axis(title="success", values=[0, 0.5, 1])
    )
    order = [(name_of(key), index) for index, key in styled(series)]
    domain, colors = [name for name, _ in order], [series_color(index) for _, index in order]
    color = alt.Color("series:N", scale=alt.Scale(domain=domain, range=colors), legend=None)
    shape = alt.Shape(
        "series:N", scale=alt.Scale(domain=domain, range=[series_shape(i) for _, i in order]), legend=None
    )
    curves, bands = _fitted(fits, series, np.geomspace(low, high, _CURVE_POINTS), span)
    dots = [
        {**point.shown(material.naming), "series": name_of({name: point.key[name] for name in material.series})}
        for point in points
    ]
    picked = alt.param(name="picked", value=-1)
    is_picked = "datum.point === picked"
    layers = [
        _predictions(fits, span),
        alt.Chart(values(bands)).mark_rect(opacity=0.2, aria=False).encode(
            x=alt.X("low:Q", scale=scale), x2="high:Q", y=alt.value(0), y2=alt.value("height"), color=color,
            tooltip=tooltip({"series": "method", "text": "n50, 95 % interval"}),
        ),
        alt.Chart(values(curves)).mark_line(strokeWidth=1.8, aria=False).encode(x=x, y=y, color=color, order="n:Q"),
        alt.Chart(values(dots)).mark_point(filled=True, opacity=1, cursor="pointer").encode(
            x=x, y=y, color=color, shape=shape, tooltip=tooltip(TOOLTIP), description="label:N",
            size=alt.condition(is_picked, alt.value(160), alt.value(55)),
            stroke=alt.condition(is_picked, alt.value(INK), alt.value(EDGE)),
            strokeWidth=alt.condition(is_picked, alt.value(2.5), alt.value(0.6)),
        ),
    ]  # fmt: skip
    return specification(layered(*layers).add_params(picked), _HEIGHT, summary)


def _predictions(fits: pd.DataFrame, span: tuple[float, float]) -> alt.Chart:
    """A line for each prediction in view."""
    fit = fits.iloc[0]
    at = {name: _predicted(name, fit) for name in PREDICTIONS}
    rows = [
        {"prediction": PREDICTION_NAMES[name], "x": value} for name, value in at.items() if span[0] <= value <= span[1]
    ]
    dashes = alt.Scale(
        domain=[PREDICTION_NAMES[name] for name in PREDICTIONS], range=[list(DASHES[name]) for name in PREDICTIONS]
    )
    rule = alt.Chart(values(rows)).mark_rule(color=FAINT, strokeWidth=1.4, aria=False)
    dash = alt.StrokeDash("prediction:N", scale=dashes, legend=None)
    shown = [alt.Tooltip("prediction:N"), alt.Tooltip("x:Q", title="n", format=".4~g")]
    return cast("alt.Chart", rule.encode(x="x:Q", strokeDash=dash, tooltip=shown))


def _fitted(
    fits: pd.DataFrame, series: Sequence[Mapping[str, Any]], dense: np.ndarray, span: tuple[float, float]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Points of the fitted curves, a step over the gap where the data are separated; and the bands of n50."""
    curves, bands = [], []
    for key in series:
        for _, fit in matching(fits, key).iterrows():
            if fit["censored"] not in ("none", "interval"):
                continue
            name = name_of(key)
            low, high = max(float(fit["n50_low"]), span[0]), min(float(fit["n50_high"]), span[1])
            text = threshold_words(fit)
            bands.append({"series": name, "low": low, "high": high, "n50": float(fit["n50"]), "text": text})
            if fit["censored"] == "none":
                rates = curve(fit["link"], dense, fit["n50"], fit["scale"], fit["lapse"])
                n = dense
            else:
                n, rates = np.array([dense[0], low, high, dense[-1]]), np.array([0.0, 0.0, 1.0, 1.0])
            pairs = zip(n.round(2).tolist(), rates.round(4).tolist(), strict=True)
            curves += [{"series": name, "n": at, "rate": rate} for at, rate in pairs]
    return curves, bands
