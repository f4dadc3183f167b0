"""One look for all figures: a paper's column, colours that colour-blind readers tell apart, origins in the files."""

from __future__ import annotations

import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from flatdist.figures.origin import file_metadata, file_stem
from flatdist.methods import METHODS

COLUMN_WIDTH = 3.4  # inches, one column of a two-column paper
PAGE_WIDTH = 7.0
FORMATS = ("png", "svg", "pdf")
RESOLUTION = 300  # dots per inch

# Okabe and Ito's palette, told apart under the common colour-vision deficiencies; yellow is left out: too light.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
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

# How each prediction is drawn, everywhere: (dash pattern, grey level).
PREDICTION_LINES: Mapping[str, tuple[Any, str]] = {
    "statdim": ("-", "#222222"),
    "rsum": ((0, (5, 2)), "#222222"),
    "dof": ((0, (1, 1.5)), "#222222"),
    "entries": ((0, (5, 1.5, 1, 1.5)), "#222222"),
    "statdim_upper": ("-", "#999999"),
    "statdim_asymptotic": ((0, (5, 2)), "#999999"),
}

_SETTINGS: Mapping[str, Any] = {
    "font.size": 7.5,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "legend.fontsize": 6.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "legend.frameon": False,
    "svg.hashsalt": "flatdist",
    "svg.fonttype": "path",
    "pdf.fonttype": 42,
}


def themed() -> Any:
    """Context in which figures are made and saved: seaborn's ticks style, at print size."""
    settings: dict[Any, Any] = {**sns.axes_style("ticks"), **_SETTINGS}
    return mpl.rc_context(settings)


def color_of(index: int) -> str:
    """Colour of the index-th series."""
    return COLORS[index % len(COLORS)]


def marker_of(index: int) -> str:
    """Marker of the index-th series, so that colour is never the only difference."""
    return MARKERS[index % len(MARKERS)]


def plain_ticks(axis: Axis, low: float, high: float, most: int = 8) -> None:
    """A handful of round tick labels, not powers, on a logarithmic axis that rarely spans a decade.

    Args:
        axis: of an axes whose scale is logarithmic.
        low, high: range of the data.
        most: labels at most.
    """
    inside = round_values(low, high, most)
    axis.set_ticks(list(inside), labels=[f"{value:g}" for value in inside])
    axis.set_minor_locator(NullLocator())


def round_values(low: float, high: float, most: int = 8) -> np.ndarray:
    """Round numbers from low to high, at most so many, about evenly spaced on a logarithmic axis; (k,)."""
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    candidates = np.array([float(f"{m}e{e}") for e in decades for m in (1, 1.5, 2, 3, 4, 5, 7)])
    inside = candidates[(candidates >= low * 0.97) & (candidates <= high * 1.03)]
    while len(inside) > most:
        inside = inside[::2]
    if len(inside) < 2:
        inside = np.unique([float(f"{low:.2g}"), float(f"{high:.2g}")])
    return np.asarray(inside)


def method_label(method: str) -> str:
    """How figures call a method."""
    return METHODS[method].label if method in METHODS else str(method)


def method_rank(method: str) -> int:
    """Place of a method in every legend."""
    return METHOD_ORDER.index(method) if method in METHOD_ORDER else len(METHOD_ORDER)


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
        name: of the files; where the origin says that only some rows were asked for, the names say so too.
        origin: from :func:`flatdist.figures.origin.provenance`.
        formats: of :data:`FORMATS`.

    Returns:
        The paths, in the order of ``formats``.
    """
    metadata = file_metadata(name, origin)
    stem = file_stem(name, origin.get("where"))
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    logging.getLogger("fontTools").setLevel(logging.ERROR)  # remarks on the age of the fonts it embeds
    with themed():
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is settled, and need not be solved for every format
        for extension in formats:
            path = target / f"{stem}.{extension}"
            handle, temporary = tempfile.mkstemp(dir=target, prefix=f".{stem}.", suffix=f".{extension}")
            try:
                with os.fdopen(handle, "wb") as file:
                    figure.savefig(file, format=extension, dpi=RESOLUTION, metadata=metadata[extension])
                Path(temporary).chmod(0o644)
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            paths.append(path)
    return paths
