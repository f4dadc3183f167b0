"""The page's figures: the panels of the paper's figures, one SVG each, their marks bound to the cells they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FlatdistError
from flatdist.figures import fields
from flatdist.figures.panels import Key, keys_of, plain
from flatdist.figures.phase_diagram import diagram_columns, diagram_panel, n_span, panel_columns, view_named
from flatdist.figures.sample_complexity import draw_predictions, success_panel
from flatdist.figures.scaling import law_panel, only_value, ratio_ticks
from flatdist.figures.style import plain_ticks
from flatdist.figures.words import PREDICTION_NAMES, counted, name_of, number, threshold_words
from flatdist.fits.grouping import as_value, grouped, matching
from flatdist.fits.scaling import LAWS
from flatdist.fits.shapes import SHAPE
from flatdist.fits.success import success_rates
from flatdist.methods import takes_steps
from flatdist.report.material import MEASURES, Material
from flatdist.report.packing import Packed
from flatdist.report.svg import Inliner
from flatdist.report.tables import MOST_CELLS
from flatdist.theory import flattest_trace

MOST_PANELS, MOST_SERIES, MOST_CURVES = 24, 8, 14
_WIDE, _NARROW = 3.4, 2.5  # inches, of a panel in two columns and in three

Section = dict[str, Any]


class Painter:
    """Draws the panels of one sweep's page.

    Args:
        material: what is drawn.
        inliner: collects the styles of everything drawn.
    """

    def __init__(self, material: Material, inliner: Inliner) -> None:
        self.material, self.inliner = material, inliner
        inliner.begin(self._describe)
        self._by = [*material.configuration, "n"] if len(material.judged) else []
        self._cells: dict[tuple[Any, ...], int] = {}
        if self._by:
            rows = material.labelled[material.labelled["cell_row"] >= 0]
            keys, index = grouped(rows, self._by)
            first = rows["cell_row"].to_numpy()[np.unique(index, return_index=True)[1]]
            self._cells = {tuple(map(_plain, key.values())): int(cell) for key, cell in zip(keys, first, strict=True)}
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
        out = {}
        series = self._series.get(name_of({name: full[name] for name in self.material.series}))
        if series is not None:
            out["data-series"] = str(series)
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
        wanted = {name: entry for name, entry in key.items() if name != "name"} | {y: part[0], x: part[1]}
        cells = self.material.cells.head(MOST_CELLS)
        chosen = np.ones(len(cells), dtype=bool)
        for name, entry in wanted.items():
            if name in cells:
                mine = tuple(entry) if isinstance(entry, list) else entry
                chosen &= np.fromiter((_plain(as_value(one)) == mine for one in cells[name]), bool, len(cells))
        found = np.flatnonzero(chosen)
        return {"data-cell": str(found[0])} if len(found) else {}

    def diagrams(self) -> Section:
        """A panel for each method and configuration, all on one axis of n."""
        trials, fits = self.material.judged, self.material.thresholds
        view = view_named("auto", trials)
        rates = success_rates(trials, diagram_columns(trials, view), self.material.tolerance)
        keys = keys_of(rates, panel_columns(trials, view))
        span = n_span(rates, view)
        panels = []
        for key in keys[:MOST_PANELS]:
            mine, fitted = matching(rates, key), matching(fits, key)
            rows = len(mine[list(SHAPE)].drop_duplicates())

            def draw(figure: Figure, mine: pd.DataFrame = mine, fitted: pd.DataFrame = fitted) -> None:
                axes = figure.subplots()
                diagram_panel(axes, mine, fitted, view, span)
                plain_ticks(axes.xaxis, *span)
                axes.set(xlabel=view.x_label, ylabel=view.y_label)

            words = self._summary(fitted, [name for name in (*SHAPE,) if name in view.shared])
            label = f"Success over n and {plain(view.y_label)}, {name_of(key)}. {words}"
            height = 0.5 + 0.34 * min(max(rows, 2), 12)
            panels.append(self._panel(name_of(key), draw, (_WIDE, height), label, mine, fitted, span))
        return {"panels": panels, "note": _left_out(len(keys), len(panels), "diagrams")}

    def _summary(self, fits: pd.DataFrame, names: Sequence[str]) -> str:
        parts = [
            f"{name_of({name: fit[name] for name in names})}: n50 {threshold_words(fit)}"
            for fit in fits.to_dict("records")
        ]
        return "; ".join(parts) + "."

    def complexity(self) -> Section:
        """Success against n, a panel for each problem."""
        trials, fits = self.material.judged, self.material.thresholds
        series = self.material.series_keys
        if len(series) > MOST_CURVES:
            words = (
                f"{len(series)} configurations are too many curves to tell apart; the table of thresholds has them all."
            )
            return {"panels": [], "note": words}
        by = [*self.material.panels, *self.material.series]
        rates = success_rates(trials, by, self.material.tolerance)
        keys = keys_of(rates, self.material.panels)
        panels = []
        for key in keys[:MOST_PANELS]:
            mine, fitted = matching(rates, key), matching(fits, key)

            def draw(figure: Figure, key: Key = key, mine: pd.DataFrame = mine, fitted: pd.DataFrame = fitted) -> None:
                axes = figure.subplots()
                success_panel(axes, mine, fitted, series)
                draw_predictions(axes, matching(trials, key))
                axes.set(xlabel="measurements $n$", ylabel="success")

            label = f"Success against n, {name_of(key)}. {self._summary(fitted, self.material.series)}"
            panels.append(self._panel(name_of(key), draw, (_NARROW, 1.75), label, mine, fitted))
        return {"panels": panels, "note": _left_out(len(keys), len(panels), "problems")}

    def laws(self) -> Section:
        """n50 against every law that takes more than one value."""
        fits = self.material.fits
        if fits is None or len(fits.thresholds) < 2 or len(self.material.series_keys) > MOST_CURVES:
            return {"panels": [], "note": ""}
        panels, notes = [], []
        keys = keys_of(fits.laws, fits.series)
        for law in LAWS:
            single = only_value(fits.thresholds, law)
            if single is not None:
                notes.append(f"{PREDICTION_NAMES[law]} has one value ({number(single)}) in this sweep.")
                continue

            def draw(figure: Figure, law: str = law) -> None:
                upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
                law_panel(upper, lower, law, fits.thresholds, fits.laws, keys)
                upper.set_ylabel("measured $n_{50}$")
                lower.set_ylabel("$n_{50}$ / fit")
                low, high = upper.get_ylim()
                plain_ticks(upper.yaxis, low, high, 5)
                ratio_ticks(lower)

            label = f"n50 against {PREDICTION_NAMES[law]}"
            shown = fits.thresholds, fits.laws
            panels.append(self._panel(PREDICTION_NAMES[law], draw, (_NARROW, 2.5), label, *shown))
        if int(fits.laws["n_shapes"].max()) < 4:
            notes.insert(0, "Fewer than four shapes were measured, too few to tell the laws apart.")
        return {"panels": panels, "note": " ".join(notes)}

    def heat_maps(self) -> Section:
        """n50 over the two fields that vary most; the relative error where there is no transition."""
        trials = self.material.judged
        names = [
            name
            for name in fields.varying_fields(trials)
            if name not in ("method", *(("n",) if self.material.over_n else ()))
        ]
        if len(names) < 2 or (self.material.over_n and set(names) <= set(PROBLEM_FIELDS)):
            return {"panels": [], "note": ""}  # the phase diagrams show these
        value = fields.FITTED if self.material.over_n else "relative_error"
        x, y = names[:2]
        try:
            facets = fields.facet_of(trials, None, (x, y))
            table = fields.field_table(trials, [x, y, *facets], value, tolerance=self.material.tolerance)
            scales = fields.scales_of(table, {"x": x, "y": y, "value": value}, None)
            norm = fields.norm_of(table["value"], value, "value" in scales)
        except FlatdistError as error:
            return {"panels": [], "note": str(error)}
        panels = []
        for key in keys_of(table, facets)[:MOST_PANELS]:

            def draw(figure: Figure, key: Key = key) -> None:
                axes = figure.subplots()
                fields.heat_panel(axes, matching(table, key), x, y, norm, scales, levels=table)
                axes.set(xlabel=fields.axis_name(x), ylabel=fields.axis_name(y))

            title = ", ".join(
                part for part in (name_of(key) if key else "", plain(fields.value_name(value, None))) if part
            )
            rows = table[y].map(as_value).nunique()
            size = _WIDE, 0.7 + 0.3 * min(max(rows, 3), 12)
            panels.append(self._panel(title, draw, size, f"{title} over {x} and {y}", table))
        left = fields.pooled(trials, [x, y, *facets, *(["n"] if self.material.over_n else [])])
        return {"panels": panels, "note": " ".join(words.split(";")[0] + "." for words in left), "x": x, "y": y}

    def frames(self, packed: Packed) -> tuple[list[dict[str, str]], list[dict[str, Any]]]:
        """Empty axes for the curves of any cell, the same for all, so that cells compare; the page draws the lines.

        Returns:
            Titles and markup; and for the script, where the axes lie: ``x`` and ``y`` in the SVG's units against
            ``xlog`` and ``ylog``, decadic logarithms.
        """
        steps = [step for some in packed.steps for step in some if step > 0]
        shown, places = [], []
        for place, (name, title) in enumerate(MEASURES.items()):
            last = place == len(MEASURES) - 1
            height = 1.25 if last else 1.0
            box: dict[str, Any] = {"measure": name}

            def draw(figure: Figure, place: int = place, last: bool = last, box: dict[str, Any] = box) -> None:
                height = figure.get_figheight()
                axes = figure.add_axes((0.135, 0.32 / height if last else 0.06, 0.86, 0.88 / height))
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.set_xlim(min(steps), max(steps) * 1.02 if len(set(steps)) > 1 else max(steps) * 2)
                low, high = 10.0 ** packed.low[place], 10.0 ** packed.high[place]
                axes.set_ylim(low / 1.1, high * 1.1)
                if high < 100 * low:
                    plain_ticks(axes.yaxis, low, high, 5)
                left, right = axes.get_xlim()
                plain_ticks(axes.xaxis, left, right, 5)
                if last:
                    axes.set_xlabel("step")
                else:
                    axes.xaxis.set_major_formatter(NullFormatter())
                axes.spines[["top", "right"]].set_visible(False)
                corners = axes.transData.transform(
                    [(axes.get_xlim()[0], axes.get_ylim()[0]), (axes.get_xlim()[1], axes.get_ylim()[1])]
                )
                points = corners * 72.0 / figure.dpi
                top = 72.0 * height
                box["x"] = [round(float(value), 2) for value in points[:, 0]]
                box["y"] = [round(top - float(value), 2) for value in points[:, 1]]
                box["xlog"] = [round(float(np.log10(value)), 5) for value in axes.get_xlim()]
                box["ylog"] = [round(float(np.log10(value)), 5) for value in axes.get_ylim()]

            label = f"{title} over the steps of the chosen cells"
            svg = self.inliner.inline(draw, (3.1, height), label).replace("<svg ", f'<svg data-label="{label}" ', 1)
            shown.append({"title": title, "svg": svg})
            places.append(box)
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
        lines = [_level("nuclear_norm", group["nuclear_norm_truth"].median(), "truth", "truth")]
        norm = least.get(keyed.loc[group.index[0]])
        if norm is not None and np.isfinite(norm):
            trace = flattest_trace(float(norm), int(first["d_out"]), int(first["d_in"]), int(first["depth"]))
            lines.append(_level("nuclear_norm", norm, "minimum nuclear norm", "least"))
            lines.append(_level("hessian_trace", trace, "Lemma 4 at the minimum nuclear norm", "lemma"))
        found[str(row)] = [line for line in lines if line["value"] > 0]
    return found


def _level(measure: str, value: Any, label: str, dash: str) -> dict[str, Any]:
    return {"measure": measure, "value": float(value), "label": label, "dash": dash}


def _left_out(found: int, drawn: int, what: str) -> str:
    return (
        f"{drawn} of {counted(found, what.removesuffix('s'))} are drawn; report on a part of the sweep for the others."
        if found > drawn
        else ""
    )


def first_cell(material: Material, has_curves: Sequence[bool]) -> int:
    """The cell that is shown at first: of those with curves, the one nearest to the transition."""
    if material.judged.empty:
        return 0
    rates = material.labelled.groupby("cell_row")["success"].mean()
    rates = rates[rates.index >= 0]
    trained = rates[[has_curves[int(str(row))] for row in rates.index]]
    rates = trained if len(trained) else rates
    return int(str((rates - 0.5).abs().idxmin())) if len(rates) else 0


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    value = tuple(value) if isinstance(value, list) else value
    return None if value is None or value != value else value  # noqa: PLR0124 - NaN
