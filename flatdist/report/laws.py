"""Which law n50 follows: fitted multiples and exponents with verdicts, and n50 against each law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from flatdist.errors import FitError
from flatdist.figures.layout import keys_of, styled
from flatdist.fits.collapse import Fits, fit_all
from flatdist.fits.grouping import matching
from flatdist.fits.scaling import LAWS
from flatdist.report.charts import FAINT, layered, log_axis, series_color, series_shape, specification, tooltip, values
from flatdist.report.material import Material
from flatdist.report.pictures import draw_laws, inlined
from flatdist.report.section import Section
from flatdist.report.words import ABSENT, PREDICTIONS, TIMES, name_of, number, percent, threshold_words, with_limits
from flatdist.theory import prediction

MOST_SERIES = 14
_HEIGHT = 190  # pixels
_BRACKETED = ("none", "interval")


def build(material: Material) -> Section:
    """The section.

    Raises:
        FitError: no law can be fitted.
    """
    series = keys_of(material.labelled, material.series)
    if len(series) > MOST_SERIES:
        raise FitError(
            f"{len(series)} configurations of the methods are too many to fit laws to; {MOST_SERIES} at most: report "
            "on a part of the sweep"
        )
    if not material.thresholds["censored"].isin(_BRACKETED).any():
        raise FitError("no threshold is bracketed by its data, so there is no law to fit; widen the range of n")
    fits = fit_all(material.judged, material.request.tolerance, material.request.link)
    paths = draw_laws(material, fits)
    content: dict[str, Any] = {
        "heads": fits.series,
        "laws": _rows(fits),
        "widths": _widths(fits),
        "formulas": {prediction(law).name: prediction(law).formula for law in LAWS},
        "charts": [],
        "picture": inlined(paths),
        "legend": [
            {"label": name_of(key), "color": series_color(index), "shape": series_shape(index)}
            for index, key in styled(series)
        ],
    }
    charts = {}
    for law in LAWS if len(fits.thresholds) > 1 else ():
        summary = _summary(law, fits)
        charts[f"law-{law}"] = _chart(law, fits, summary)
        content["charts"].append({"chart": f"law-{law}", "title": PREDICTIONS[law], "summary": summary})
    few = int(fits.laws["n_shapes"].max()) < 4
    message = "Fewer than four shapes and ranks were measured, so no law can be told from another." if few else ""
    return Section("laws", "Laws", content, charts, pictures=paths, message=message)


def _rows(fits: Fits) -> list[dict[str, Any]]:
    rows = []
    for _, law in fits.laws.iterrows():
        key = {name: law[name] for name in fits.series}
        rows.append(
            {
                "series": name_of(key),
                "law": PREDICTIONS[law["law"]],
                "exponent": with_limits(law["exponent"], law["exponent_low"], law["exponent_high"]),
                "ratio": with_limits(law["ratio"], law["ratio_low"], law["ratio_high"]),
                "scatter": percent(law["ratio_discrepancy"]),
                "equivalence": ABSENT
                if law["equivalence"] is None or pd.isna(law["equivalence"])
                else law["equivalence"],
                "aicc": number(law["aicc_difference"]),
                "shapes": int(law["n_shapes"]),
                "verdict": law["verdict"],
            }
        )
    return rows


def _widths(fits: Fits) -> list[dict[str, str]]:
    """How the transition's width grows with the size."""
    rows = []
    for _, width in fits.widths.iterrows():
        exponent = with_limits(width["exponent"], width["exponent_low"], width["exponent_high"])
        rows.append({"series": name_of({name: width[name] for name in fits.series}), "exponent": exponent})
    return rows


def _summary(law: str, fits: Fits) -> str:
    parts = []
    for _, row in fits.laws[fits.laws["law"] == law].iterrows():
        ratio = with_limits(row["ratio"], row["ratio_low"], row["ratio_high"])
        parts.append(f"{name_of({name: row[name] for name in fits.series})}: n50 = {ratio} times, {row['verdict']}")
    return f"n50 against {PREDICTIONS[law]}. " + "; ".join(parts) + "."


def _points(law: str, fits: Fits) -> list[dict[str, Any]]:
    """Bracketed thresholds with their intervals; limits that the data do not give are left at n50."""
    rows = []
    for _, fit in fits.thresholds[fits.thresholds["censored"].isin(_BRACKETED)].iterrows():
        shape = int(fit["d_out"]), int(fit["d_in"]), int(fit["rank"])
        low, high = float(fit["n50_low"]), float(fit["n50_high"])
        rows.append(
            {
                "series": name_of({name: fit[name] for name in fits.series}),
                "law": float(prediction(law).value(*shape)),
                "n50": float(fit["n50"]),
                "low": low if low > 0 else float(fit["n50"]),
                "high": high if math.isfinite(high) else float(fit["n50"]),
                "shape": f"{shape[0]} {TIMES} {shape[1]}, rank {shape[2]}",
                "text": threshold_words(fit),
            }
        )
    return rows


def _chart(law: str, fits: Fits, summary: str) -> dict[str, Any]:
    points = _points(law, fits)
    n50 = np.array([[row["low"], row["high"]] for row in points])
    at = np.array([row["law"] for row in points])
    x_span, y_span = (float(at.min()) / 1.25, float(at.max()) * 1.25), (float(n50.min()) / 1.1, float(n50.max()) * 1.1)
    x_scale, x_axis = log_axis(*x_span, PREDICTIONS[law], 5)
    y_scale, y_axis = log_axis(*y_span, "n50", 6)
    x, y = alt.X("law:Q", scale=x_scale, axis=x_axis), alt.Y("n50:Q", scale=y_scale, axis=y_axis)
    order = [(name_of(key), index) for index, key in styled(keys_of(fits.laws, fits.series))]
    domain = [name for name, _ in order]
    color = alt.Color(
        "series:N", scale=alt.Scale(domain=domain, range=[series_color(i) for _, i in order]), legend=None
    )
    shape = alt.Shape(
        "series:N", scale=alt.Scale(domain=domain, range=[series_shape(i) for _, i in order]), legend=None
    )
    shown = tooltip({"series": "method", "shape": "problem", "text": "n50, 95 % interval"})
    layers = [
        alt.Chart(values(_line(1.0, x_span, y_span))).mark_line(color=FAINT, clip=True, aria=False).encode(x=x, y=y),
        *_multiples(law, fits, x_span, y_span, color),
        alt.Chart(values(points)).mark_rule(strokeWidth=1.5, aria=False).encode(
            x=x, y=alt.Y("low:Q"), y2="high:Q", color=color
        ),
        alt.Chart(values(points)).mark_point(filled=True, size=60, opacity=1).encode(
            x=x, y=y, color=color, shape=shape, tooltip=shown
        ),
    ]  # fmt: skip
    return specification(layered(*layers), _HEIGHT, summary)


def _multiples(
    law: str, fits: Fits, x_span: tuple[float, float], y_span: tuple[float, float], color: alt.Color
) -> list[alt.Chart]:
    """The fitted multiple of the law for every series, where the law varies."""
    charts = []
    for key in keys_of(fits.laws, fits.series):
        row = matching(fits.laws[fits.laws["law"] == law], key).iloc[0]
        if row["verdict"] == "undecided: one size" or pd.isna(row["ratio"]):
            continue
        places = [{**place, "series": name_of(key)} for place in _line(float(row["ratio"]), x_span, y_span)]
        line = alt.Chart(values(places)).mark_line(strokeDash=[4, 3], strokeWidth=1.2, clip=True, aria=False)
        charts.append(line.encode(x="law:Q", y="n50:Q", color=color))
    return charts


def _line(ratio: float, x_span: Sequence[float], y_span: Sequence[float]) -> list[Mapping[str, float]]:
    """n50 = ratio * law over the chart, cut to where it is in view."""
    low, high = max(x_span[0], y_span[0] / ratio), min(x_span[1], y_span[1] / ratio)
    return [{"law": at, "n50": ratio * at} for at in (low, high)] if low < high else []
