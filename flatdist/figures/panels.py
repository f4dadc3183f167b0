"""Panels, series and legends: how a table of groups becomes the axes, colours and words of a figure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.errors import FitError
from flatdist.figures.style import (
    COLUMN_WIDTH,
    HEAT,
    PAGE_WIDTH,
    PREDICTION_LINES,
    color_of,
    marker_of,
    method_label,
    method_rank,
    themed,
)
from flatdist.fits.grouping import as_value, null_name
from flatdist.theory import prediction

TIMES, PRIME, DELTA = "\N{MULTIPLICATION SIGN}", "\N{PRIME}", "\N{GREEK SMALL LETTER DELTA}"
MANY = 4  # panels

_NAMES = {
    "d_out": "$d'$",
    "d_in": "$d$",
    "rank": "$r$",
    "depth": "depth",
    "init_scale": "init",
    "label_noise_std": "noise",
    "learning_rate": "rate",
    "observation_noise_std": "observation noise",
    "spectral_tail": "spectral tail",
    "batch_size": "batch",
}

Key = Mapping[Any, Any]


class Panels:
    """A figure's axes, one for each key; within its context everything is drawn in the figures' style.

        with Panels(keys, ax, row_height=1.25, rest=0.9) as panels:
            for axes, key in panels:
                ...

    Args:
        keys: what the panels show.
        ax: axes to draw into, which needs a single key; None for a figure of its own.
        row_height, rest: inches per row of panels, and for legend and labels.
        most_in_column: more panels than this make two columns and a page's width.
        columns: number of columns, if the data determine it.
        subplots: further arguments of ``Figure.subplots``.
    """

    def __init__(
        self,
        keys: Sequence[Key],
        ax: Axes | None = None,
        *,
        row_height: float = 1.4,
        rest: float = 0.5,
        most_in_column: int = 5,
        columns: int | None = None,
        **subplots: Any,
    ) -> None:
        self.keys, self._own = list(keys), ax is None
        self._stack = ExitStack()
        if ax is not None:
            if len(self.keys) != 1:
                varying = [name for name in self.keys[0] if len({as_value(key[name]) for key in self.keys}) > 1]
                raise FitError(
                    f"these rows differ in {', '.join(varying)} and make {len(self.keys)} panels, but ax= takes one; "
                    "select one of them, or leave ax out for a figure of all"
                )
            self.columns, self.flat = 1, [ax]
            return
        self.columns = columns or (1 if len(self.keys) <= most_in_column else 2)
        rows = -(-len(self.keys) // self.columns)
        self._stack.enter_context(themed())
        size = (COLUMN_WIDTH if self.columns == 1 else PAGE_WIDTH, rows * row_height + rest)
        self.figure = Figure(figsize=size, layout="constrained")
        self.flat = list(self.figure.subplots(rows, self.columns, squeeze=False, **subplots).flat)
        for axes in self.flat[len(self.keys) :]:
            axes.set_axis_off()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[tuple[Axes, Key]]:
        return iter(list(zip(self.flat, self.keys, strict=False)))

    @property
    def result(self) -> Any:
        """What a figure function returns: the figure, or the axes that it was given."""
        return self.figure if self._own else self.flat[0]

    def color_bar(self, norm: Any, label: str, **settings: Any) -> None:
        """The scale of a heat map's colours, beside all panels."""
        axes = self.flat if self._own else self.flat[0]
        figure: Any = self.flat[0].get_figure()
        scale = mpl.cm.ScalarMappable(norm=norm, cmap=HEAT)
        bar = figure.colorbar(scale, ax=axes, location="right", aspect=24, pad=0.02, **settings)
        bar.set_label(label)
        bar.outline.set_linewidth(0.4)

    def title(self, axes: Axes, text: str) -> None:
        """Set a panel's title, unless the caller has titled the axes."""
        if self._own or not axes.get_title():
            # Mathtext is parsed anew for every format: a second or two where there are many panels.
            text = plain(text) if len(self.keys) > MANY else text
            axes.set_title(text, loc="left", pad=3)

    def label(self, x: str, y: str) -> None:
        """Name the axes: y in the first column, x below the last panel of each."""
        last = len(self.keys)
        for axes in self.flat[:: self.columns]:
            axes.set_ylabel(y)
        for axes in self.flat[max(last - self.columns, 0) : last]:
            axes.set_xlabel(x)
            axes.tick_params(labelbottom=True)

    def legend(self, handles: Sequence[Any], **settings: Any) -> None:
        """A legend above the panels, or within the axes that were given."""
        if self._own:
            legend_above(self.figure, handles, **settings)
        elif handles:
            self.flat[0].legend(handles=list(handles), **settings | {"ncols": 1})


def plain(text: str) -> str:
    """Mathtext as plain text: ``$d' = 3$`` becomes d′ = 3."""
    return re.sub(r"\$([^$]*)\$", lambda found: _without_markup(found[1]), text)


def _without_markup(math_text: str) -> str:
    text = math_text.replace("\\times", TIMES).replace("\\delta", DELTA).replace("\\,", " ").replace("'", PRIME)
    return re.sub(r"[{}_\\]", "", text)


def describe(key: Key) -> str:
    """A group's key as figures print it, with the method's label; fields that do not apply are left out.

    >>> describe({"method": "min_nuclear_norm", "rank": 2})
    'min nuclear norm, $r = 2$'
    """
    parts = []
    for name, entry in key.items():
        value = as_value(entry)
        if name == "method":
            parts.append(method_label(value))
            continue
        if value is None:
            value = null_name(name, key.get("method"))
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            known = _NAMES.get(name)
            parts.append(f"{known} {shown}" if known and not known.startswith("$") else _equation(known, name, shown))
    return ", ".join(parts)


def _equation(known: str | None, name: str, shown: str) -> str:
    if known:
        return f"{known[:-1]} = {shown}$"
    return shown if name in ("ensemble", "ground_truth") else f"{name} {shown}"


def keys_of(table: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Distinct keys of a table in the order of the figures: methods by rank, the rest by value."""
    found = {tuple(as_value(value) for value in row): None for row in table[list(columns)].itertuples(index=False)}
    keys = [dict(zip(columns, values, strict=True)) for values in found]
    return sorted(keys, key=lambda key: [_place(name, value) for name, value in key.items()])


def _place(name: str, value: Any) -> tuple[int, Any, str]:
    if name == "method":
        return method_rank(value), 0.0, str(value)
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, tuple):  # a list of widths
        return 0, float(len(value)), str([f"{entry:012.3f}" for entry in value])
    number = isinstance(value, (int, float)) or hasattr(value, "item")
    return (0, float(value), "") if number and not isinstance(value, str) else (1, 0.0, str(value))


def styled(keys: Sequence[Key]) -> list[tuple[int, Key]]:
    """Keys with the number of their colour and marker: the method's own if no method occurs twice, else in order."""
    methods = [key.get("method") for key in keys]
    own = [method_rank(method) for method in methods if isinstance(method, str)]
    numbers = own if len(set(own)) == len(keys) else range(len(keys))
    return list(zip(numbers, keys, strict=True))


def series_handles(keys: Sequence[Key], nameless: str = "all trials", **style: Any) -> list[Line2D]:
    """Legend entries of the series."""
    return [
        Line2D(
            [], [], **{"color": color_of(index), "marker": marker_of(index), "label": describe(key) or nameless} | style
        )
        for index, key in styled(keys)
    ]


def prediction_handles(names: Sequence[str], **style: Any) -> list[Line2D]:
    """Legend entries of predictions."""
    return [
        Line2D([], [], **{"color": PREDICTION_LINES[name][1], "linestyle": PREDICTION_LINES[name][0],
                          "label": prediction(name).label} | style)
        for name in names
    ]  # fmt: skip


def arrow_handle(label: str, arrow: str = "$\\uparrow$") -> Line2D:
    """Legend entry of the arrows at the bounds of censored values."""
    return Line2D([], [], color="#777777", marker=arrow, linestyle="", label=label)


def legend_above(figure: Figure, handles: Sequence[Any], ncols: int = 2, **settings: Any) -> None:
    """A legend above all axes, in fewer columns where the figure is too narrow; the figure grows by the rows this adds.

    Args:
        figure: with room for the legend in ``ncols`` columns.
        handles: with labels; blank ones fill up columns.
        ncols: most columns.
        settings: further arguments of ``Figure.legend``.
    """
    if not handles:
        return
    canvas: Any = FigureCanvasAgg(figure)
    renderer, first = canvas.get_renderer(), 0.0
    for columns in range(ncols, 0, -1):
        some = handles if columns == ncols else [handle for handle in handles if handle.get_label().strip()]
        look = {"columnspacing": 1.2, "loc": "outside upper center", "handles": list(some), **settings}
        legend = figure.legend(ncols=columns, **look)
        box = legend.get_window_extent(renderer)
        first = first or box.height
        if box.width <= figure.bbox.width or columns == 1:
            break
        legend.remove()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + (box.height - first) / figure.dpi)


def two_blocks(left: Sequence[Line2D], right: Sequence[Line2D]) -> list[Line2D]:
    """Handles of a two-column legend, filled up so that each block has a column of its own."""
    rows = max(len(left), len(right))
    return [
        handle for block in (left, right)
        for handle in (*block, *(Line2D([], [], color="none", label=" ") for _ in range(rows - len(block))))
    ]  # fmt: skip


def count_words(values: Any) -> str:
    """Counts as a range: ``8``, or ``4-8`` if they differ."""
    counts = sorted(set(values))
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"


def label_size() -> float:
    """Font size of axis labels, for labels of the whole figure."""
    return float(mpl.rcParams["axes.labelsize"])
