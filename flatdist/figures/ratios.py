"""Shape by shape, against the statistical dimension: n50 over a prediction or another method's, and first successes.

On nested problems every replicate has its own N, the first n at which it succeeds: is E[N] = delta + 1/2? For
nuclear-norm minimisation with Gaussian measurements, conic kinematics proves this exactly, with delta the statistical
dimension; other methods' N on the same measurement streams show how far they are from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from flatdist.cells.cell import PROBLEM_FIELDS
from flatdist.errors import FitError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Key, Panels, arrow_handle, keys_of, points, series_handles, styled
from flatdist.figures.style import DOWN, INK, UNMEASURED, UP, color_of, method_label, plain_ticks
from flatdist.figures.words import shown
from flatdist.fits.first_success import agreement_lines, mean_first_success, paired_first_success
from flatdist.fits.grouping import SHAPE, configuration_columns, matching, predicted, series_columns
from flatdist.fits.ratios import MARGIN, series_of, summarise
from flatdist.fits.ratios import ratios as ratio_table
from flatdist.fits.success import require_columns, resolve_tolerance
from flatdist.fits.threshold import fit_thresholds
from flatdist.theory import SAMPLE_COMPLEXITIES, prediction

_TICKS = (0.3, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.0, 3.0, 5.0)
_LOOK: dict[str, Any] = {"ls": "", "markersize": 3, "markeredgewidth": 0.2, "markeredgecolor": "white", "zorder": 3}
_ENDS = ("", "_low", "_high")


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
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: missing columns, ``over`` is neither, a margin beyond 0 to 1, or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.ratios(figures.example_trials(sizes=(8, 12))).axes[0].get_xlabel()
        'statistical dimension of the shape and rank'
    """
    if table is None:
        table = _table(trials, over, resolve_tolerance(trials, tolerance), link)
    keys = keys_of(table, [name for name in series_of(trials) if name != "depth"])
    parts = panels_of(table)
    limits = _limits(table, margin)
    handles: list[Any] = series_handles(keys, "all", linestyle="")
    handles.append(Patch(color=UNMEASURED, label=f"within {100 * margin:g} %"))
    if table["ratio"].isna().any():
        handles.append(arrow_handle("censored: bound"))
    rest = 0.55 + 0.13 * -(-len(handles) // 2)
    depths = [{} if depth is None else {"depth": depth} for depth, _ in parts]
    with Panels(depths, ax, row_height=1.25, rest=rest, columns=1, sharex=True, sharey=True) as panels:
        for (axes, _), (_, part) in zip(panels, parts, strict=True):
            axes.axhspan(1.0 - margin, 1.0 + margin, color=UNMEASURED, linewidth=0, zorder=0)
            axes.axhline(1.0, color=INK, linewidth=0.6, zorder=1)
            axes.set_yscale("log")
            axes.set_ylim(*limits)
            for index, rows, x in _side_by_side(part, keys):
                _points(axes, rows, x, index, limits)
        label = f"$n_{{50}}$ / {method_label(over)}'s"
        if over in SAMPLE_COMPLEXITIES:
            label = "$n_{50}$ / " + {"statdim": "stat. dim."}.get(over, prediction(over).label)
        if ax is None:
            panels.figure.supylabel(label, fontsize="medium")
        else:
            ax.set_ylabel(label)
        ticks = [tick for tick in _TICKS if limits[0] <= tick <= limits[1]]
        panels.flat[0].set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        panels.flat[0].minorticks_off()
        _shape_axis(panels.flat[-1], table, "statistical dimension of the shape and rank")
        panels.legend(handles)
    return panels.result


def panels_of(table: pd.DataFrame) -> list[tuple[int | None, pd.DataFrame]]:
    """The table split by depth, with methods without a depth in every part."""
    depths = [key["depth"] for key in keys_of(table, ["depth"])] if "depth" in table else []
    known = [int(depth) for depth in depths if depth is not None]
    without = matching(table, {"depth": None}) if known else table
    return [(depth, pd.concat([without, matching(table, {"depth": depth})])) for depth in known] or [(None, table)]


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


def _side_by_side(table: pd.DataFrame, keys: Sequence[Key]) -> Iterator[tuple[int, pd.DataFrame, np.ndarray]]:
    """Each series that has rows: its number, rows and places, where those of one shape stand beside each other."""
    for place, (index, key) in enumerate(styled(keys)):
        rows = matching(table, key)
        if len(rows):
            yield index, rows, predicted("statdim", rows) * np.exp(0.012 * (place - 0.5 * (len(keys) - 1)))


def _shape_axis(axes: Axes, table: pd.DataFrame, label: str) -> None:
    x = predicted("statdim", table)
    axes.set_xscale("log")
    axes.set_xlim(x.min() / 1.08, x.max() * 1.08)
    plain_ticks(axes.xaxis, x.min(), x.max())
    axes.set_xlabel(label)


def _points(axes: Axes, table: pd.DataFrame, x: np.ndarray, index: int, limits: tuple[float, float]) -> None:
    ratio, low, high = (table[f"ratio{end}"].to_numpy(dtype=float) for end in _ENDS)
    known = ~np.isnan(ratio)
    points(axes, index, x[known], ratio[known], *np.clip([low[known], high[known]], *limits), **_LOOK)
    for arrow, bound, usable in ((UP, low, (low > 0) & np.isinf(high)), (DOWN, high, np.isfinite(high) & (low <= 0))):
        here = ~known & usable
        at = np.clip(bound[here], *limits)
        axes.plot(x[here], at, color=color_of(index), marker=arrow, linestyle="", markersize=5)


def first_success(
    trials: pd.DataFrame, *, reference: str = "min_nuclear_norm", tolerance: float | None = None
) -> Figure:
    """E[N] - (delta + 1/2) and the paired differences of N, in percent of delta, against delta.

    Args:
        trials: of nested problems, with the shapes.
        reference: the method that pairs are compared with.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.

    Raises:
        FitError: columns are missing, the problems are not nested, or nothing pairs with the reference.

    Example:
        >>> from flatdist import figures
        >>> trials = figures.example_trials(sizes=(8, 12)).assign(nested=True)
        >>> len(figures.first_success(trials).axes)
        2
    """
    means, pairs, series = _first_tables(trials, reference, tolerance)
    keys = keys_of(means, series)
    handles = series_handles(keys, "all", linestyle="")
    differences = means.assign(**{f"difference{end}": means[f"mean{end}"] - means["predicted"] for end in _ENDS})
    tables = {"$E[N] - (\\delta + 1/2)$,\n% of $\\delta$": differences}
    if pairs is not None:
        tables[f"$N$ minus {method_label(reference)}'s,\nsame streams, % of $\\delta$"] = pairs
    rest = 0.5 + 0.13 * -(-len(handles) // 2)
    with Panels([{}] * len(tables), row_height=1.6, rest=rest, sharex=True) as panels:
        for axes, (label, table) in zip(panels.flat, tables.items(), strict=True):
            axes.axhline(0.0, color=INK, linewidth=0.6, zorder=1)
            for index, rows, x in _side_by_side(table.dropna(subset=["difference"]), keys):
                percent = [100.0 * rows[f"difference{end}"] / predicted("statdim", rows) for end in _ENDS]
                points(axes, index, x, *percent, **_LOOK)
            axes.set_ylabel(label)
        _shape_axis(axes, means, "statistical dimension $\\delta$ of the shape and rank")
        panels.legend(handles)
    return panels.figure


def _first_tables(
    trials: pd.DataFrame, reference: str, tolerance: float | None
) -> tuple[pd.DataFrame, pd.DataFrame | None, list[str]]:
    """Means and paired differences of N, and the columns that make a series."""
    require_columns(trials, SHAPE, "needed columns")
    tolerance = resolve_tolerance(trials, tolerance)
    problem = [name for name in configuration_columns(trials, but=SHAPE) if name in PROBLEM_FIELDS]
    series = [*series_columns(trials), *problem]
    by = [*series, *SHAPE]
    means = mean_first_success(trials, by, tolerance)
    several = "method" in trials and trials["method"].nunique() > 1
    return means, paired_first_success(trials, by, reference, tolerance) if several else None, series


def make(
    trials: pd.DataFrame,
    context: Context,
    *,
    over: str = "statdim",
    margin: float = MARGIN,
    tolerance: float,
    link: str = "auto",
) -> Drawn:
    """The figure, a summary of the shapes, and the ratios as a file."""
    if not 0.0 < margin < 1.0:
        raise FitError(f"margin={margin!r} is not a relative distance; allowed: between 0 and 1, such as {MARGIN}")
    table = _table(trials, over, tolerance, link)
    titles = {name: f"{name} at {100 * margin:g} %" for name in ("equivalent", "different")}
    summary = shown(summarise(table, series_of(trials), margin)).rename(columns=titles)
    stem, settings = f"ratios_{over}", {"level": 0.95, "by": _grouping(trials)}
    figure = ratios(trials, over=over, margin=margin, table=table)
    return Drawn({stem: figure}, {f"n50 over {over}": summary}, settings, files={stem: table})


def make_first_success(
    trials: pd.DataFrame, context: Context, *, reference: str = "min_nuclear_norm", tolerance: float
) -> Drawn:
    """The figure, the means and the pairs."""
    means, pairs, series = _first_tables(trials, reference, tolerance)
    by = [*series, *SHAPE]
    tables, table = {"first success N": shown(means)}, means
    if pairs is not None:
        tables[f"N minus that of {reference}, same replicates"] = shown(pairs)
        table = means.merge(pairs.drop(columns="standard_error"), on=by, how="left")
    figures = {"first_success": first_success(trials, reference=reference, tolerance=tolerance)}
    return Drawn(figures, tables, {"level": 0.95, "by": by}, agreement_lines(means, series), {"first_success": table})
