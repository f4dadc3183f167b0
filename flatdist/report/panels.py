"""The page's figures: the panels of the paper's figures, one SVG each, their marks bound to the cells they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.figures import fields
from flatdist.figures.panels import Key, keys_of, plain
from flatdist.figures.phase_diagram import diagram_columns, diagram_panel, n_span, panel_columns, view_named
from flatdist.figures.sample_complexity import draw_predictions, success_panel
from flatdist.figures.scaling import law_panel, only_value, ratio_ticks
from flatdist.figures.style import plain_ticks
from flatdist.figures.words import PREDICTION_NAMES, counted, name_of, number, threshold_words
from flatdist.fits.grouping import SHAPE, as_value, matching
from flatdist.fits.scaling import LAWS
from flatdist.fits.success import success_rates
from flatdist.methods import takes_steps
from flatdist.report.material import MEASURES, Material
from flatdist.report.packing import Packed
from flatdist.report.svg import Inliner
from flatdist.report.tables import MOST_CELLS
from flatdist.theory import flattest_trace

MOST_PANELS, MOST_SERIES, MOST_CURVES = 24, 8, 14
_WIDE, _NARROW = 3.4, 2.5  # inches, of a panel in two columns and in three

Section = Mapping[str, Any]
_NOTHING: Section = {"panels": [], "note": ""}


class Painter:
    """Draws the panels of one sweep's page with an inliner, which collects the styles of everything drawn."""

    def __init__(self, material: Material, inliner: Inliner) -> None:
        self.material, self.inliner = material, inliner
        inliner.begin(self._describe)
        self._by = [*material.configuration, "n"] if len(material.judged) else []
        self._cells: dict[tuple[Any, ...], int] = {}
        if self._by:
            rows = material.labelled[material.labelled["cell_row"] >= 0].drop_duplicates("cell_row")
            for *key, cell in rows[[*self._by, "cell_row"]].itertuples(index=False):
                self._cells.setdefault(tuple(map(_plain, key)), int(cell))
        self._series = {name_of(key): index for index, key in enumerate(material.series_keys)}
        self._named = list(self._series), material.cells["cell_id"].tolist()  # what marks refer to by number

    def _panel(
        self, title: str, draw: Callable[[Figure], Any], size: tuple[float, float], label: str, *shown: Any
    ) -> dict[str, str]:
        return {"title": title, "svg": self.inliner.inline(draw, size, label, [*shown, self._named])}

    def _describe(self, kind: str, key: Mapping[Any, Any], part: Any) -> dict[str, str]:
        if kind == "prediction":
            return {"data-tip": PREDICTION_NAMES[key["name"]]}
        if kind == "heat":
            return self._heat(key, part)
        row = self.material.judged.iloc[0]
        full = {name: _plain(key.get(name, row[name])) for name in self.material.configuration}
        series = self._series.get(name_of({name: full[name] for name in self.material.series}))
        out = {} if series is None else {"data-series": str(series)}
        named = self.material.series if kind == "law" else [*self.material.series, *self.material.panels]
        words = {name: full[name] for name in named}
        if part is not None:
            cell = self._cells.get(tuple(_plain({**full, "n": part}[name]) for name in self._by), MOST_CELLS)
            in_table = cell < MOST_CELLS
            return out | ({"data-cell": str(cell)} if in_table else {"data-tip": name_of({**words, "n": part})})
        fits = matching(self.material.thresholds, full)
        n50 = f"\nn50 {threshold_words(fits.iloc[0])}" if len(fits) and kind in ("n50", "band", "curve") else ""
        return out | {"data-tip": name_of(words) + n50}

    def _heat(self, key: Mapping[Any, Any], part: Any) -> dict[str, str]:
        x, y = key["name"]
        cells = self.material.cells.head(MOST_CELLS)
        wanted = {**key, y: part[0], x: part[1]}
        found = matching(cells, {name: _plain(entry) for name, entry in wanted.items() if name in cells}).index
        return {"data-cell": str(found[0])} if len(found) else {}

    def diagrams(self) -> Section:
        """A panel for each method and configuration, all on one axis of n."""
        if not self.material.over_n:
            return _NOTHING
        trials, fits = self.material.judged, self.material.thresholds
        view = view_named("auto", trials)
        rates = success_rates(trials, diagram_columns(trials, view), self.material.tolerance)
        keys = keys_of(rates, panel_columns(trials, view))
        span = n_span(rates, view)

        def draw(mine: pd.DataFrame, fitted: pd.DataFrame, figure: Figure) -> None:
            axes = figure.subplots()
            diagram_panel(axes, mine, fitted, view, span)
            plain_ticks(axes.xaxis, *span)
            axes.set(xlabel=view.x_label, ylabel=view.y_label)

        panels = []
        for key in keys[:MOST_PANELS]:
            mine, fitted = matching(rates, key), matching(fits, key)
            words = _summary(fitted, [name for name in SHAPE if name in view.shared])
            label = f"Success over n and {plain(view.y_label)}, {name_of(key)}. {words}"
            rows = len(mine[list(SHAPE)].drop_duplicates())
            size = _WIDE, 0.5 + 0.34 * min(max(rows, 2), 12)
            panels.append(self._panel(name_of(key), partial(draw, mine, fitted), size, label, mine, fitted, span))
        return {"panels": panels, "note": _left_out(len(keys), "diagram")}

    def complexity(self) -> Section:
        """Success against n, a panel for each problem."""
        if not self.material.over_n:
            return _NOTHING
        trials, fits, series = self.material.judged, self.material.thresholds, self.material.series_keys
        if len(series) > MOST_CURVES:
            words = "configurations are too many curves to tell apart; the table of thresholds has them all."
            return {"panels": [], "note": f"{len(series)} {words}"}
        by = [*self.material.panels, *self.material.series]
        rates = success_rates(trials, by, self.material.tolerance)
        keys = keys_of(rates, self.material.panels)

        def draw(key: Key, mine: pd.DataFrame, fitted: pd.DataFrame, figure: Figure) -> None:
            axes = figure.subplots()
            success_panel(axes, mine, fitted, series)
            draw_predictions(axes, matching(trials, key))
            axes.set(xlabel="measurements $n$", ylabel="success")

        panels = []
        for key in keys[:MOST_PANELS]:
            mine, fitted = matching(rates, key), matching(fits, key)
            label = f"Success against n, {name_of(key)}. {_summary(fitted, self.material.series)}"
            drawn = partial(draw, key, mine, fitted)
            panels.append(self._panel(name_of(key), drawn, (_NARROW, 1.75), label, mine, fitted))
        return {"panels": panels, "note": _left_out(len(keys), "problem")}

    def laws(self) -> Section:
        """n50 against every law that takes more than one value."""
        fits = self.material.fits if self.material.over_n else None
        if fits is None or len(fits.thresholds) < 2 or len(self.material.series_keys) > MOST_CURVES:
            return _NOTHING
        keys = keys_of(fits.laws, fits.series)

        def draw(law: str, figure: Figure) -> None:
            upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
            law_panel(upper, lower, law, fits.thresholds, fits.laws, keys)
            upper.set_ylabel("measured $n_{50}$")
            lower.set_ylabel("$n_{50}$ / fit")
            low, high = upper.get_ylim()
            plain_ticks(upper.yaxis, low, high, 5)
            ratio_ticks(lower)

        panels, notes = [], []
        for law in LAWS:
            title, single = PREDICTION_NAMES[law], only_value(fits.thresholds, law)
            if single is not None:
                notes.append(f"{title} has one value ({number(single)}) in this sweep.")
                continue
            shown = fits.thresholds, fits.laws
            panels.append(self._panel(title, partial(draw, law), (_NARROW, 2.5), f"n50 against {title}", *shown))
        if int(fits.laws["n_shapes"].max()) < 4:
            notes.insert(0, "Fewer than four shapes were measured, too few to tell the laws apart.")
        return {"panels": panels, "note": " ".join(notes)}

    def heat_maps(self) -> Section:
        """n50 over the two fields that vary most; the relative error where there is no transition."""
        trials, over_n = self.material.judged, self.material.over_n
        if trials.empty:
            return _NOTHING
        apart = ("method", "n") if over_n else ("method",)
        names = [name for name in fields.varying_fields(trials) if name not in apart]
        if len(names) < 2 or (over_n and set(names) <= set(PROBLEM_FIELDS)):
            return _NOTHING  # the phase diagrams show these
        value = fields.FITTED if over_n else "relative_error"
        x, y = names[:2]
        facets = fields.facet_of(trials, None, (x, y))
        table = fields.field_table(trials, [x, y, *facets], value, tolerance=self.material.tolerance)
        scales = fields.scales_of(table, {"x": x, "y": y, "value": value}, None)
        norm = fields.norm_of(table["value"], value, "value" in scales)

        def draw(key: Key, figure: Figure) -> None:
            axes = figure.subplots()
            fields.heat_panel(axes, matching(table, key), x, y, norm, scales, levels=table)
            axes.set(xlabel=fields.axis_name(x), ylabel=fields.axis_name(y))

        panels = []
        size = _WIDE, 0.7 + 0.3 * min(max(table[y].map(as_value).nunique(), 3), 12)
        for key in keys_of(table, facets)[:MOST_PANELS]:
            words = name_of(key) if key else "", plain(fields.value_name(value, None))
            title = ", ".join(filter(None, words))
            panels.append(self._panel(title, partial(draw, key), size, f"{title} over {x} and {y}", table))
        left = fields.pooled(trials, [x, y, *facets, *(["n"] if over_n else [])])
        return {"panels": panels, "note": " ".join(words.split(";")[0] + "." for words in left)}

    def frames(self, packed: Packed) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
        """Empty axes for the curves of any cell, the same for all, so that cells compare; the page draws the lines.

        Returns:
            Titles and markup; and for the script, where the axes lie: ``x`` and ``y`` in the SVG's units against
            ``xlog`` and ``ylog``, decadic logarithms.
        """
        steps = {step for some in packed.steps for step in some if step > 0}
        shown, places = [], []

        def draw(low: float, high: float, last: bool, box: dict[str, Any], figure: Figure) -> None:
            height = figure.get_figheight()
            axes = figure.add_axes((0.135, 0.32 / height if last else 0.06, 0.86, 0.88 / height))
            axes.set(xscale="log", yscale="log", ylim=(low / 1.1, high * 1.1))
            axes.set_xlim(min(steps), max(steps) * 1.02 if len(steps) > 1 else max(steps) * 2)
            if high < 100 * low:
                plain_ticks(axes.yaxis, low, high, 5)
            first, end = axes.get_xlim()
            plain_ticks(axes.xaxis, first, end, 5)
            if last:
                axes.set_xlabel("step")
            else:
                axes.xaxis.set_major_formatter(NullFormatter())
            axes.spines[["top", "right"]].set_visible(False)
            (left, bottom), (right, top) = axes.bbox.get_points() * 72.0 / figure.dpi
            box["x"] = [round(float(value), 2) for value in (left, right)]
            box["y"] = [round(72.0 * height - float(value), 2) for value in (bottom, top)]
            for name, limits in (("xlog", axes.get_xlim()), ("ylog", axes.get_ylim())):
                box[name] = [round(float(np.log10(value)), 5) for value in limits]

        for (name, title), low, high in zip(MEASURES.items(), packed.low, packed.high, strict=True):
            last = name == list(MEASURES)[-1]
            places.append({"measure": name})
            drawn = partial(draw, 10.0**low, 10.0**high, last, places[-1])
            label = f"{title} over the steps of the chosen cells"
            svg = self.inliner.inline(drawn, (3.1, 1.25 if last else 1.0), label)
            shown.append({"title": title, "svg": svg.replace("<svg ", f'<svg data-label="{label}" ', 1)})
        return shown, places


def levels(material: Material) -> dict[str, list[dict[str, Any]]]:
    """For each cell that trains, where theory says the flattest solution lies: what horizontal lines are drawn at.

    The minimum nuclear norm and Lemma 4's trace at that norm are medians over the ``min_nuclear_norm`` trials of the
    same problems; the truth's nuclear norm is that of the cell's own.
    """
    trials = material.trials.assign(cell_row=material.cell_rows)
    problem = [*PROBLEM_FIELDS]
    keyed = trials[problem].map(as_value).apply(tuple, axis=1)
    solved = trials["method"] == "min_nuclear_norm"
    least = trials[solved].groupby(keyed[solved])["nuclear_norm"].median()
    found: dict[str, list[dict[str, Any]]] = {}
    for row, group in trials[trials["cell_row"] >= 0].groupby("cell_row"):
        first = group.iloc[0]
        if not takes_steps(first["method"]):
            continue
        truth, norm = group["nuclear_norm_truth"].median(), least.get(keyed.loc[group.index[0]])
        lines: list[dict[str, Any]] = [{"measure": "nuclear_norm", "value": truth, "label": "truth", "dash": "truth"}]
        if norm is not None and np.isfinite(norm):
            trace = flattest_trace(float(norm), int(first["d_out"]), int(first["d_in"]), int(first["depth"]))
            lemma = "Lemma 4 at the minimum nuclear norm"
            lines.append({"measure": "nuclear_norm", "value": norm, "label": "minimum nuclear norm", "dash": "least"})
            lines.append({"measure": "hessian_trace", "value": trace, "label": lemma, "dash": "lemma"})
        found[str(row)] = [
            line | {"value": float(f"{line['value']:.7g}")} for line in lines if 0 < line["value"] < np.inf
        ]
    return found


def _left_out(found: int, what: str) -> str:
    words = f"{MOST_PANELS} of {counted(found, what)} are drawn; report on a part of the sweep for the others."
    return words if found > MOST_PANELS else ""


def _summary(fits: pd.DataFrame, names: Sequence[str]) -> str:
    named = ((name_of({name: fit[name] for name in names}), fit) for fit in fits.to_dict("records"))
    return "; ".join(f"{name}: n50 {threshold_words(fit)}" for name, fit in named) + "."


def first_cell(material: Material, with_curves: Sequence[int]) -> int:
    """The cell that is shown at first: of those with curves, the one nearest to the transition."""
    if material.judged.empty:
        return 0
    rates = material.labelled.groupby("cell_row")["success"].mean()
    rates = rates[rates.index >= 0]
    trained = rates[rates.index.isin(with_curves)]
    rates = trained if len(trained) else rates
    return int(str((rates - 0.5).abs().idxmin())) if len(rates) else 0


def _plain(value: Any) -> Any:
    value = as_value(value)
    return value.item() if hasattr(value, "item") else value
