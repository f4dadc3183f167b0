"""One style for every figure: width of a paper's column, colours safe for colour-blind readers, how files are saved."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flatdist.cells.cell import FIELDS
from flatdist.errors import FitError
from flatdist.figures.tracing import file_metadata, file_stem
from flatdist.machine.files import atomic
from flatdist.methods import METHODS

COLUMN_WIDTH = 3.4  # inches, one column of a two-column paper
PAGE_WIDTH = 7.0
FORMATS = ("png", "svg", "pdf")
RESOLUTION = 300  # dots per inch

# Okabe and Ito's palette, distinguishable with common colour-vision deficiencies; without yellow, which is too light.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
UP, DOWN = "$\\uparrow$", "$\\downarrow$"  # markers at the bounds of censored values
METHOD_ORDER = (
    "label_noise_sgd",
    "minibatch_sgd",
    "min_nuclear_norm",
    "min_frobenius_norm",
    "min_hessian_trace",
    "gradient_descent",
    "sam",
)
HEAT = "cividis"  # success from 0 to 1; reads the same in grey
N50 = "#E5007D"  # used by no series and by no part of the heat map's scale
INK, FAINT, PALE, UNMEASURED = "#222222", "#777777", "#bbbbbb", "#dddddd"
# White and black that stay so on a dark page are one bit off those that follow its theme; no eye or printer sees it.
OVER_HEAT, EDGE_OVER_HEAT = "#fffffe", "#000001"

# How each prediction is drawn, everywhere: (dash pattern, grey level).
DASHED, DOTTED = (0, (5, 2)), (0, (1, 1.5))
PREDICTION_LINES: Mapping[str, tuple[Any, str]] = {
    "statdim": ("-", INK),
    "rsum": (DASHED, INK),
    "dof": (DOTTED, INK),
    "entries": ((0, (5, 1.5, 1, 1.5)), INK),
    "statdim_upper": ("-", "#999999"),
    "statdim_asymptotic": (DASHED, "#999999"),
}
PREDICTIONS = ("dof", "rsum", "statdim", "entries")  # drawn beside measured successes, in the order of legends

_SETTINGS: dict[Any, Any] = {
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "Bitstream Vera Sans", "sans-serif"],
    "font.size": 7.5,
    "text.color": ".15",
    "axes.axisbelow": True,
    "axes.edgecolor": ".15",
    "axes.labelcolor": ".15",
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 6.5,
    "legend.frameon": False,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "lines.solid_capstyle": "round",
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    "grid.linewidth": 0.4,
    **{f"{axis}tick.{name}": value for axis in "xy" for name, value in {
        "color": ".15", "labelsize": 6.5, "major.width": 0.6, "major.size": 2.5}.items()},
    "xtick.minor.size": 1.5,
    "figure.constrained_layout.use": False,  # figures ask for a layout themselves
    "figure.autolayout": False,
    "svg.hashsalt": "flatdist",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}  # fmt: skip


def themed() -> Any:
    """Context in which figures are made and saved: ticks, thin lines, print size."""
    return mpl.rc_context(_SETTINGS)


def color_of(index: int) -> str:
    """Colour of the index-th series."""
    return COLORS[index % len(COLORS)]


def marker_of(index: int) -> str:
    """Marker of the index-th series, so that colour is never the only difference."""
    return MARKERS[index % len(MARKERS)]


def despine(*many: Axes) -> None:
    """Remove the top and right borders."""
    for axes in many:
        axes.spines[["top", "right"]].set_visible(False)


def log_axes(*many: Axes) -> None:
    """Make both axes logarithmic."""
    for axes in many:
        axes.set_xscale("log")
        axes.set_yscale("log")


def plain_ticks(axis: Axis, low: float, high: float, most: int = 8) -> None:
    """At most ``most`` round numbers instead of powers, on a logarithmic axis that rarely spans a decade."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    candidates = np.array([float(f"{m}e{e}") for e in decades for m in (1, 1.5, 2, 3, 4, 5, 7)])
    inside = candidates[(candidates >= low * 0.97) & (candidates <= high * 1.03)]
    while len(inside) > most:
        inside = inside[::2]
    if len(inside) < 2:
        inside = np.unique([float(f"{low:.2g}"), float(f"{high:.2g}")])
    axis.set_ticks(list(inside), labels=[f"{value:g}" for value in inside])
    axis.set_minor_locator(NullLocator())


def edges(values: np.ndarray, logarithmic: bool = False) -> np.ndarray:
    """Edges of cells around increasing values, at neighbours' means, geometric on a logarithmic axis; (k + 1,)."""
    if len(values) == 1:
        (value,) = values
        return np.array([value / 1.05, value * 1.05] if logarithmic else [value - 0.5, value + 0.5])
    at = np.log(values) if logarithmic else values
    middles = (at[1:] + at[:-1]) / 2
    ends = np.concatenate(([2 * at[0] - middles[0]], middles, [2 * at[-1] - middles[-1]]))
    return np.exp(ends) if logarithmic else ends


def method_label(method: str) -> str:
    """A method's label in figures."""
    return METHODS[method].label if method in METHODS else str(method)


def method_rank(method: str) -> int:
    """Place of a method in every legend."""
    return METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)


# What a page knows of a figure's marks: an artist's gid in the SVG. Printed figures carry none.
_marking = False


@contextmanager
def marked() -> Iterator[None]:
    """Context in which :func:`mark` names artists, for a page that makes them answer to pointer and keyboard."""
    global _marking  # noqa: PLW0603
    before, _marking = _marking, True
    try:
        yield
    finally:
        _marking = before


def mark(kind: str, row: Mapping[Any, Any] | pd.Series, n: Any = ()) -> str | None:
    """The gid of an artist: its kind, the cell fields of its row, and the n of each of its parts if it has several.

    None outside :func:`marked`. A collection's parts keep their order in the SVG, so part i is that of ``n[i]``.
    """
    if not _marking:
        return None
    key = {name: value for name, value in dict(row).items() if name in FIELDS or name in ("name", "law")}
    plain = lambda value: value.item() if hasattr(value, "item") else str(value)  # noqa: E731
    return "mark:" + json.dumps([kind, key, list(n)], default=plain)


def save_figure(
    figure: Figure,
    folder: str | os.PathLike[str],
    name: str,
    origin: Mapping[str, Any],
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write a figure in several formats, each whole or not at all, with its origin in the file's metadata.

    Args:
        figure: what to draw.
        folder: made where it does not exist.
        name: of the files; where the origin holds a filter, the file names carry it too.
        origin: from :func:`flatdist.figures.origin`.
        formats: of :data:`FORMATS`.

    Returns:
        The paths, in the order of ``formats``.

    Raises:
        FitError: an unknown format.
    """
    unknown = [extension for extension in formats if extension not in FORMATS]
    if unknown or not formats:
        raise FitError(f"no figure format is named {', '.join(unknown) or ''!r}; allowed: {', '.join(FORMATS)}")
    metadata = file_metadata(name, origin)
    stem = file_stem(name, origin.get("where"))
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # remarks on the age of the fonts it embeds
    paths = []
    with themed():
        engine = figure.get_layout_engine()
        if engine is not None:
            engine.execute(figure)
            figure.set_layout_engine(None)  # the layout is settled, and need not be solved for every format
        for extension in formats:
            path = Path(folder) / f"{stem}.{extension}"
            with atomic(path) as temporary:
                figure.savefig(temporary, format=extension, dpi=RESOLUTION, metadata=metadata[extension])
            paths.append(path)
    return paths
