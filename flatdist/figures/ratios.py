"""n50 over a prediction or another method's n50: one ratio per shape, one panel per depth, one colour per series."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels, arrow_handle, keys_of, label_size, series_handles, styled
from flatdist.figures.style import INK, UNMEASURED, color_of, despine, marker_of, method_label, plain_ticks
from flatdist.figures.words import shown
from flatdist.fits.grouping import matching
from flatdist.fits.ratios import MARGIN, series_of, summarise
from flatdist.fits.ratios import ratios as ratio_table
from flatdist.fits.shapes import SHAPE, predicted
from flatdist.fits.success import require_columns, resolve_tolerance
from flatdist.fits.threshold import fit_thresholds
from flatdist.theory import SAMPLE_COMPLEXITIES, prediction

_SPREAD = 0.012  # series of one shape are set side by side, by this much of log x
_TICKS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0, 5.0)


def ratios(
    trials: pd.DataFrame,
    *,
    over: str = "statdim",
    margin: float = MARGIN,
    tolerance: float | None = None,
    link: str = "auto",
    table: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Any:
    """Draw the ratios against the statistical dimension of the shape and rank.

    Over a prediction the interval is n50's own. Over a method both thresholds are uncertain; their intervals are
    combined as if independent, which is conservative if the methods were run on the same problems.

    Args:
        trials: one row per replicate, with the shapes.
        over: a prediction's name, or a method.
        margin: half-width of the band around 1.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        link: of the threshold fits.
        table: from :func:`flatdist.fits.ratios.ratios`; fitted here by default.
        ax: axes for a single panel; by default a new figure with all panels.

    Returns:
        The figure, or ``ax``.

    Raises:
        FitError: missing columns, ``over`` is neither, a margin beyond 0 to 1, or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.ratios(figures.example_trials(sizes=(8, 12))).axes[0].get_xlabel()
        'statistical dimension of the shape and rank'
    """
    series = series_of(trials)
    if table is None:
        table = _table(trials, over, resolve_tolerance(trials, tolerance), link)
    keys = list(styled(keys_of(table, [name for name in series if name != "depth"])))
    parts = panels_of(table)
    x = predicted("statdim", table)
    limits = _limits(table, margin)
    handles: list[Any] = series_handles([key for _, key in keys], "all", linestyle="")
    handles.append(Patch(color=UNMEASURED, label=f"within {100 * margin:g} %"))
    if table["ratio"].isna().any():
        handles.append(arrow_handle("censored: bound"))
    rest = 0.55 + 0.13 * -(-len(handles) // 2)
    depths = [{} if depth is None else {"depth": depth} for depth, _ in parts]
    with Panels(depths, ax, row_height=1.25, rest=rest, columns=1, sharex=True, sharey=True) as panels:
        for (axes, depth), (_, part) in zip(panels, parts, strict=True):
            axes.axhspan(1.0 - margin, 1.0 + margin, color=UNMEASURED, linewidth=0, zorder=0)
            axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
            axes.set_yscale("log")
            axes.set_ylim(*limits)
            for place, (index, key) in enumerate(keys):
                shift = np.exp(_SPREAD * (place - 0.5 * (len(keys) - 1)))
                _points(axes, matching(part, key), shift, index, limits)
            if depth:
                panels.title(axes, f"depth {depth['depth']}")
            despine(axes)
        label = _ratio_label(over)
        if ax is None:
            panels.figure.supylabel(label, fontsize=label_size())
        else:
            ax.set_ylabel(label)
        first, last = panels.flat[0], panels.flat[-1]
        ticks = [tick for tick in _TICKS if limits[0] <= tick <= limits[1]]
        first.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        first.minorticks_off()
        last.set_xscale("log")
        last.set_xlim(x.min() / 1.08, x.max() * 1.08)
        plain_ticks(last.xaxis, x.min(), x.max())
        last.set_xlabel("statistical dimension of the shape and rank")
        panels.legend(handles)
    return panels.result


def panels_of(table: pd.DataFrame) -> list[tuple[int | None, pd.DataFrame]]:
    """The table split by depth, with methods without a depth in every part."""
    depths = [key["depth"] for key in keys_of(table, ["depth"])] if "depth" in table else []
    known = [depth for depth in depths if depth is not None]
    if not known:
        return [(None, table)]
    without = matching(table, {"depth": None})
    return [(int(depth), pd.concat([without, matching(table, {"depth": depth})])) for depth in known]


def _table(trials: pd.DataFrame, over: str, tolerance: float, link: str) -> pd.DataFrame:
    require_columns(trials, SHAPE, "needed columns")
    return ratio_table(fit_thresholds(trials, _grouping(trials), tolerance, link=link), over)


def _grouping(trials: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys([*series_of(trials), *SHAPE]))


def _limits(table: pd.DataFrame, margin: float) -> tuple[float, float]:
    """Range of the ratio axis: all ratios and the band, and intervals as far as they are not much wider."""
    known = table["ratio"].dropna()
    low, high = min(known.min(), 1.0 - margin) if len(known) else 0.5, max([*known, 1.0 + margin])
    ends = table[["ratio_low", "ratio_high"]].to_numpy(dtype=float)
    ends = ends[np.isfinite(ends) & (ends > 0.8 * low) & (ends < 1.25 * high)]
    return min([low, *ends]) / 1.02, max([high, *ends]) * 1.02


def _points(axes: Axes, table: pd.DataFrame, shift: float, index: int, limits: tuple[float, float]) -> None:
    if table.empty:
        return
    x = predicted("statdim", table) * shift
    ratio, low, high = (table[name].to_numpy(dtype=float) for name in ("ratio", "ratio_low", "ratio_high"))
    known = ~np.isnan(ratio)
    ends = np.clip([low[known], high[known]], *limits)
    axes.errorbar(
        x[known], ratio[known], yerr=[ratio[known] - ends[0], ends[1] - ratio[known]], color=color_of(index),
        marker=marker_of(index), linestyle="", elinewidth=0.7, markersize=3, markeredgewidth=0.2,
        markeredgecolor="white", zorder=3,
    )  # fmt: skip
    arrows = (("$\\uparrow$", low, (low > 0) & np.isinf(high)), ("$\\downarrow$", high, np.isfinite(high) & (low <= 0)))
    for marker, bound, usable in arrows:
        shown_here = ~known & usable
        at = np.clip(bound[shown_here], *limits)
        axes.plot(x[shown_here], at, color=color_of(index), marker=marker, linestyle="", markersize=5)


def _ratio_label(over: str) -> str:
    if over in SAMPLE_COMPLEXITIES:
        return "$n_{50}$ / " + {"statdim": "stat. dim."}.get(over, prediction(over).label)
    return f"$n_{{50}}$ / {method_label(over)}'s"


def make(
    trials: pd.DataFrame,
    context: Context,
    *,
    over: str = "statdim",
    margin: float = MARGIN,
    tolerance: float | None = None,
    link: str = "auto",
) -> Drawn:
    """The figure, a summary of the shapes, and the ratios as a file."""
    if not 0.0 < margin < 1.0:
        raise FitError(f"margin={margin!r} is not a relative distance; allowed: between 0 and 1, such as {MARGIN}")
    tolerance = resolve_tolerance(trials, tolerance)
    table = _table(trials, over, tolerance, link)
    series = series_of(trials)
    titles = {name: f"{name} at {100 * margin:g} %" for name in ("equivalent", "different")}
    summary = shown(summarise(table, series, margin)).rename(columns=titles)
    by = _grouping(trials)
    settings = {"tolerance": tolerance, "link": link, "level": 0.95, "by": by, "over": over, "margin": margin}
    figure = ratios(trials, over=over, margin=margin, table=table)
    stem = f"ratios_{over}"
    return Drawn({stem: figure}, {f"n50 over {over}": summary}, settings, files={stem: table})
