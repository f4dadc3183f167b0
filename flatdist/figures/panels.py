"""Panels, series and legends: how a table of groups becomes the axes, colours and words of a figure."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Self

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from flatdist.errors import FitError
from flatdist.figures.style import (
    COLUMN_WIDTH,
    FAINT,
    HEAT,
    OVER_HEAT,
    PAGE_WIDTH,
    PREDICTION_LINES,
    PREDICTIONS,
    UP,
    color_of,
    despine,
    marker_of,
    method_label,
    method_rank,
    themed,
)
from flatdist.fits.grouping import as_value, matching, null_name
from flatdist.theory import prediction

TIMES, PRIME, DELTA = "\N{MULTIPLICATION SIGN}", "\N{PRIME}", "\N{GREEK SMALL LETTER DELTA}"
MANY = 4  # panels

_NAMES = {
    "d_out": "$d'$", "d_in": "$d$", "rank": "$r$", "depth": "depth", "init_scale": "init", "label_noise_std": "noise",
    "learning_rate": "rate", "observation_noise_std": "observation noise", "spectral_tail": "spectral tail",
    "batch_size": "batch",
}  # fmt: skip

Key = Mapping[Any, Any]


class Panels:
    """A figure's axes, one for each key; within its context everything is drawn in the figures' style.

        with Panels(keys, ax, row_height=1.25, rest=0.9) as panels:
            for axes, key in panels:  # titled with the key's words
                ...

    Args:
        keys: what the panels show.
        ax: axes to draw into, which needs a single key; None for a figure of its own.
        row_height, rest: inches per row of panels, and for legend and labels.
        most_in_column: more panels than this make two columns and a page's width.
        columns, width: number of columns and inches, if the data do not determine them.
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
        width: float | None = None,
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
            despine(ax)
            self.columns, self.flat = 1, [ax]
            return
        self.columns = columns or (1 if len(self.keys) <= most_in_column else 2)
        rows = -(-len(self.keys) // self.columns)
        self._stack.enter_context(themed())
        width = width or (COLUMN_WIDTH if self.columns == 1 else PAGE_WIDTH)
        self.figure = Figure(figsize=(width, rows * row_height + rest), layout="constrained")
        self.flat = list(self.figure.subplots(rows, self.columns, squeeze=False, **subplots).flat)
        for axes in self.flat[len(self.keys) :]:
            axes.set_axis_off()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[tuple[Axes, Key]]:
        for axes, key in zip(self.flat, self.keys, strict=False):
            self.title(axes, key)
            yield axes, key

    @property
    def result(self) -> Any:
        """What a figure function returns: the figure, or the axes that it was given."""
        return self.figure if self._own else self.flat[0]

    def title(self, axes: Axes, key: Key, remark: str = "") -> None:
        """Title a panel with its key and a remark, unless the caller has titled the axes."""
        if self._own or not axes.get_title():
            text = f"{describe(key)}   ({remark})" if remark else describe(key)
            # Mathtext is parsed anew for every format: a second or two where there are many panels.
            axes.set_title(plain(text) if len(self.keys) > MANY else text, loc="left", pad=3)

    def color_bar(self, norm: Any, label: str, **settings: Any) -> None:
        """The scale of a heat map's colours, beside all panels."""
        axes = self.flat if self._own else self.flat[0]
        figure: Any = self.flat[0].get_figure()
        scale = mpl.cm.ScalarMappable(norm=norm, cmap=HEAT)
        bar = figure.colorbar(scale, ax=axes, location="right", aspect=24, pad=0.02, **settings)
        bar.set_label(label)
        bar.outline.set_linewidth(0.4)

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

    def without_markup(formula: re.Match[str]) -> str:
        text = formula[1].replace("\\times", TIMES).replace("\\delta", DELTA).replace("\\,", " ").replace("'", PRIME)
        return re.sub(r"[{}_\\]", "", text)

    return re.sub(r"\$([^$]*)\$", without_markup, text)


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
        value = null_name(name, key.get("method")) if value is None else value
        if value is not None:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            words = _NAMES.get(name, "" if name in ("ensemble", "ground_truth") else name)
            parts.append(f"{words[:-1]} = {shown}$" if words.endswith("$") else f"{words} {shown}".strip())
    return ", ".join(parts)


def keys_of(table: pd.DataFrame, columns: Sequence[str]) -> list[dict[str, Any]]:
    """Distinct keys of a table in the order of the figures: methods by rank, the rest by value."""
    found = {tuple(as_value(value) for value in row): None for row in table[list(columns)].itertuples(index=False)}
    keys = [dict(zip(columns, values, strict=True)) for values in found]
    return sorted(keys, key=lambda key: [_place(name, value) for name, value in key.items()])


def _place(name: str, value: Any) -> tuple[int, float, str]:
    if name == "method":
        return method_rank(value), 0.0, str(value)
    if value is None:
        return 2, 0.0, ""
    if isinstance(value, tuple):  # a list of widths
        return 0, float(len(value)), str([f"{entry:012.3f}" for entry in value])
    number = isinstance(value, (int, float)) or hasattr(value, "item")
    return (0, float(value), "") if number and not isinstance(value, str) else (1, 0.0, str(value))


def tiles(axes: Axes, x: np.ndarray, y: np.ndarray, values: np.ndarray, norm: Any, gid: str | None) -> None:
    """A row of a heat map: ``values``, (k,), between the edges x, (k + 1,), and y, (2,); none where not finite."""
    axes.pcolormesh(
        x, y, np.ma.masked_invalid(values)[None, :], norm=norm, cmap=HEAT, edgecolors=OVER_HEAT, linewidth=0.15, gid=gid
    )


def styled(keys: Sequence[Key]) -> list[tuple[int, Key]]:
    """Keys with the number of their colour and marker: the method's own if no method occurs twice, else in order."""
    methods = [key.get("method") for key in keys]
    own = [method_rank(method) for method in methods if isinstance(method, str)]
    numbers = own if len(set(own)) == len(keys) else range(len(keys))
    return list(zip(numbers, keys, strict=True))


def series_rows(
    table: pd.DataFrame, keys: Sequence[Key], order: str | None = None
) -> Iterator[tuple[int, pd.DataFrame]]:
    """The rows of each series in the order of a column, with its number as by :func:`styled`."""
    for index, key in styled(keys):
        rows = matching(table, key)
        yield index, rows if order is None else rows.sort_values(order)


def points(axes: Axes, index: int, x: Any, y: Any, low: Any, high: Any, **style: Any) -> None:
    """The points of a series, numbered as by :func:`styled`, with bars from low to high."""
    look: dict[str, Any] = {"color": color_of(index), "marker": marker_of(index), "elinewidth": 0.7}
    axes.errorbar(x, y, yerr=[y - low, high - y], **look | style)


def series_handles(keys: Sequence[Key], nameless: str = "all trials", **style: Any) -> list[Line2D]:
    """Legend entries of the series."""
    return [
        Line2D(
            [], [], **{"color": color_of(index), "marker": marker_of(index), "label": describe(key) or nameless} | style
        )
        for index, key in styled(keys)
    ]


def prediction_handles(names: Collection[str], **style: Any) -> list[Line2D]:
    """Legend entries of those of :data:`PREDICTIONS` that are named."""
    looks = {name: PREDICTION_LINES[name] for name in PREDICTIONS if name in names}
    return [
        Line2D([], [], linestyle=dashes, color=grey, label=prediction(name).label, **style)
        for name, (dashes, grey) in looks.items()
    ]


def arrow_handle(label: str, arrow: str = UP) -> Line2D:
    """Legend entry of the arrows at the bounds of censored values."""
    return Line2D([], [], color=FAINT, marker=arrow, linestyle="", label=label)


def legend_above(figure: Figure, handles: Sequence[Any], ncols: int = 2, **settings: Any) -> None:
    """A legend above all axes in at most ``ncols`` columns, fewer where the figure is too narrow.

    The figure, which has room for the legend in ``ncols`` columns, grows by the rows that fewer add; blank handles,
    which fill up columns, are then left out.
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


def count_words(values: Any) -> str:
    """Counts as a range: ``8``, or ``4-8`` if they differ."""
    counts = sorted(set(values))
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]}-{counts[-1]}"
