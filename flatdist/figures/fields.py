"""Any statistic over any fields: heat maps, lines and scatters of whatever a sweep varied.

Columns are named as in the trials table, or computed by the language of sweep files: ``n/entries``, ``n/statdim``,
``rank/d_out``. Numbers are drawn to scale and sort as numbers; texts and lists of widths are placed one after another.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.ticker import LogLocator

from flatdist.errors import FitError, did_you_mean
from flatdist.expressions import DERIVED, DERIVED_FROM, TRIAL_NAMES, ExpressionError, derived, parse, to_value
from flatdist.figures.command import Context, Drawn
from flatdist.figures.panels import Panels, keys_of, plain, series_handles, series_rows, tiles
from flatdist.figures.style import EDGE_OVER_HEAT, OVER_HEAT, UNMEASURED, color_of, edges, mark, marker_of, plain_ticks
from flatdist.figures.words import moment, number, shown
from flatdist.fits.grouping import as_value, configuration_columns, distinct, group_rows, matching
from flatdist.fits.success import label_success, resolve_tolerance, wilson_interval
from flatdist.fits.threshold import fit_thresholds

AGGREGATES = ("mean", "median", "min", "max", "std", "count")
FITTED, SUCCESS = "n50", "success"
_SHARES = {SUCCESS, "diverged", "unconverged"}
_MOST_LEVELS, _MOST_SERIES = 60, 14


def heatmap(
    trials: pd.DataFrame,
    x: str | None = None,
    y: str | None = None,
    value: str = SUCCESS,
    *,
    agg: str | None = None,
    facet: str | None = None,
    log: str | None = None,
    tolerance: float | None = None,
    table: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Any:
    """A statistic over two fields: a panel for each method, or for each value of ``facet``.

    Args:
        trials: one row per replicate.
        x, y: columns, or arithmetic over them such as ``n/entries``; by default the fields that vary most.
        value: column whose statistic is the colour; ``success`` is the share of replicates that succeed, ``n50`` the
            fitted threshold.
        agg: one of :data:`AGGREGATES`; by default the mean for shares and the median for everything else.
        facet: column that makes panels; ``none`` pools everything into one.
        log: which of x, y and value are logarithmic, such as ``x,value``; ``none`` for none; by default those whose
            positive numbers spread widely.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        table: from :func:`field_table`; made here by default.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: a column that is missing, does not vary, or cannot be logarithmic; or several panels for one ``ax``.

    Example:
        >>> import pandas as pd
        >>> from flatdist import figures
        >>> trials = pd.DataFrame({"learning_rate": [0.1, 0.1, 0.3, 0.3], "depth": [2, 3, 2, 3], "n": 9,
        ...                        "replicate": 0, "relative_error": [0.2, 0.5, 0.1, 0.4]})
        >>> figures.heatmap(trials, "learning_rate", "depth", "relative_error").axes[0].get_xlabel()
        'learning_rate'
    """
    x, y = axes_of(trials, x, y)
    if x == y:
        raise FitError(f"a heat map needs two fields, and both axes are {x!r}; `lines` draws over one")
    facets = facet_of(trials, facet, (x, y))
    if table is None:
        table = field_table(trials, [x, y, *facets], value, agg, tolerance)
    scales = scales_of(table, {"x": x, "y": y, "value": value}, log)
    norm = norm_of(table["value"], value, "value" in scales)
    row_height = 0.5 + 0.2 * min(max(table[y].map(as_value).nunique(), 4), 14)
    with Panels(keys_of(table, facets), ax, row_height=row_height, rest=0.35) as panels:
        for axes, key in panels:
            heat_panel(axes, matching(table, key), x, y, norm, scales, levels=table)
        panels.label(axis_name(x), axis_name(y))
        panels.color_bar(norm, value_name(value, agg))
    return panels.result


def lines(
    trials: pd.DataFrame,
    x: str | None = None,
    value: str = SUCCESS,
    *,
    agg: str | None = None,
    color: str | None = None,
    facet: str | None = None,
    log: str | None = None,
    tolerance: float | None = None,
    table: pd.DataFrame | None = None,
    ax: Axes | None = None,
) -> Any:
    """A statistic over one field, with its spread: a line for each value of ``color``.

    Bars are 95 % intervals for shares (Wilson) and ``n50`` (from the fit), and quartiles for everything else.

    Args:
        trials: one row per replicate.
        x: column, or arithmetic over columns; by default the number that varies most.
        value: as in :func:`heatmap`.
        agg: as in :func:`heatmap`.
        color: column whose values are told apart by colour; by default the method and whatever else varies.
        facet: column that makes panels; by default none.
        log: which of x and value are logarithmic, such as ``x,value``; ``none`` for none.
        tolerance: relative error below which a replicate succeeds; default: the loosest of the methods'.
        table: from :func:`field_table`; made here by default.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: a column that is missing, does not vary, or cannot be logarithmic; or several panels for one ``ax``.

    Example:
        >>> from flatdist import figures
        >>> figures.lines(figures.example_trials(ranks=(1, 2)), "rank", "n50").axes[0].get_ylabel()
        '$n_{50}$'
    """
    (x,) = axes_of(trials, x)
    series, facets = series_of(trials, color, (x, facet)), _asked(facet, [])
    if table is None:
        table = field_table(trials, [x, *facets, *series], value, agg, tolerance)
    scales = scales_of(table, {"x": x, "value": value}, log)
    series_keys, places = _series_keys(table, series), _places(table, x)
    keys, rest = keys_of(table, facets), 0.45 + 0.13 * len(series_keys)
    with Panels(keys, ax, row_height=1.6, rest=rest, most_in_column=4, sharey=True) as panels:
        for axes, key in panels:
            mine = matching(table, key).assign(place=lambda rows: rows[x].map(as_value).map(places))
            for index, line in series_rows(mine, series_keys, "place"):
                low, middle, high = (line[name].to_numpy(dtype=float) for name in ("low", "value", "high"))
                bars = [np.maximum(np.nan_to_num(length), 0) for length in (middle - low, high - middle)]
                color, marker = color_of(index), marker_of(index)
                axes.errorbar(line["place"], middle, yerr=bars, color=color, marker=marker, elinewidth=0.6)
            _axis(axes, "x", places, "x" in scales)
            if "value" in scales:
                axes.set_yscale("log")
            if value in _SHARES:
                axes.set_ylim(-0.04, 1.04)
        panels.label(axis_name(x), value_name(value, agg))
        panels.legend(series_handles(series_keys) if series else [])
    return panels.result


def scatter(
    trials: pd.DataFrame,
    x: str = "nuclear_norm",
    y: str = "relative_error",
    *,
    color: str | None = None,
    facet: str | None = None,
    log: str | None = None,
    ax: Axes | None = None,
) -> Any:
    """One column against another, with a point for each replicate.

    Args:
        trials: one row per replicate.
        x, y: columns of numbers, or arithmetic over them.
        color: column whose values are told apart by colour; by default the method.
        facet: column that makes panels; by default none.
        log: which of x and y are logarithmic; ``none`` for none; by default those that spread widely.
        ax: axes for a single panel, which are returned; by default a new figure with all panels.

    Raises:
        FitError: a column is missing, not numeric or cannot be logarithmic, or one ``ax`` got several panels.

    Example:
        >>> import pandas as pd
        >>> from flatdist import figures
        >>> trials = pd.DataFrame({"hessian_trace": [3.0, 4.0], "relative_error": [0.1, 0.2]})
        >>> figures.scatter(trials, "hessian_trace").axes[0].get_ylabel()
        'relative_error'
    """
    series = _asked(color, ["method"] if "method" in trials and trials["method"].nunique() > 1 else [])
    facets = _asked(facet, [])
    table = pd.DataFrame({name: column(trials, name) for name in dict.fromkeys([x, y, *series, *facets])})
    for name in (x, y):
        if not _numeric(table[name]):
            raise FitError(f"{name!r} is not numeric, and a scatter needs numbers; use it as --color or --facet")
    table = table[np.isfinite(table[[x, y]].to_numpy(dtype=float)).all(axis=1)]
    if table.empty:
        raise FitError(f"no replicate has both {x!r} and {y!r}")
    scales = scales_of(table, {"x": x, "y": y}, log)
    series_keys = _series_keys(table, series)
    rest = 0.45 + 0.13 * len(series_keys)
    with Panels(keys_of(table, facets), ax, row_height=2.0, rest=rest, sharex=True, sharey=True) as panels:
        for axes, key in panels:
            for index, rows in series_rows(matching(table, key), series_keys):
                color, marker = color_of(index), marker_of(index)
                axes.scatter(rows[x], rows[y], s=7, alpha=0.7, linewidth=0, color=color, marker=marker)
            axes.set(**{f"{axis}scale": "log" if axis in scales else "linear" for axis in "xy"})
        panels.label(axis_name(x), axis_name(y))
        panels.legend(series_handles(series_keys, linestyle="") if series else [])
    return panels.result


def heat_panel(
    axes: Axes,
    table: pd.DataFrame,
    x: str,
    y: str,
    norm: Normalize,
    scales: set[str],
    levels: pd.DataFrame | None = None,
) -> None:
    """Tiles of one panel's part of a :func:`field_table`, each with its number if there is room.

    ``scales`` are the axes that are logarithmic; ``levels`` the table of all panels, whose values make the axes.
    """
    levels = table if levels is None else levels
    across, up = _places(levels, x), _places(levels, y)
    xs, ys = np.array(list(across.values())), np.array(list(up.values()))
    grid = np.full((len(up), len(across)), np.nan)
    column_of, row_of = ({value: place for place, value in enumerate(values)} for values in (across, up))
    for entry in table.to_dict("records"):
        grid[row_of[as_value(entry[y])], column_of[as_value(entry[x])]] = entry["value"]
    axes.set_facecolor(UNMEASURED)
    known, ends = np.isfinite(grid), edges(ys, "y" in scales)
    own = list(across) == xs.tolist() and len(xs) > 1.5 * known.sum(axis=1).max()  # rows with values of their own
    fixed = {str(name): value for name, value in table.iloc[0].items() if name not in (x, y)}
    for row, level in enumerate(up):
        drawn = known[row] if own else np.full(len(xs), known[row].any())
        if drawn.any():
            parts = [[level, value] for value, here in zip(across, drawn, strict=True) if here]
            gid = mark("heat", {**fixed, "name": [x, y]}, parts)
            tiles(axes, edges(xs[drawn], "x" in scales), ends[row : row + 2], grid[row, drawn], norm, gid)
    if len(across) <= 10 and len(up) <= 16:
        for row, place in zip(*np.nonzero(known), strict=True):
            ink = OVER_HEAT if norm(grid[row, place]) < 0.55 else EDGE_OVER_HEAT
            words = number(grid[row, place], 2)
            axes.text(xs[place], ys[row], words, ha="center", va="center", fontsize=5, color=ink)
    _axis(axes, "x", across, "x" in scales)
    _axis(axes, "y", up, "y" in scales)
    axes.set_xlim(*edges(xs, "x" in scales)[[0, -1]])
    axes.set_ylim(*ends[[0, -1]])


def field_table(
    trials: pd.DataFrame, by: Sequence[str], value: str, agg: str | None = None, tolerance: float | None = None
) -> pd.DataFrame:
    """A statistic of each group: the columns of ``by``, ``value``, ``low``, ``high``, ``count``.

    ``low`` and ``high`` are the 95 % interval of shares and of n50, and quartiles elsewhere.

    Raises:
        FitError: a column is missing or not numeric, or the statistic is unknown.
    """
    if agg is not None and agg not in AGGREGATES:
        raise FitError(f"no statistic is named {agg!r}; allowed: {', '.join(AGGREGATES)}")
    by = list(dict.fromkeys(by))
    named = trials.assign(**{name: column(trials, name) for name in by})
    if value == FITTED:
        if "n" in by:
            raise FitError("n50 is fitted over n, so n cannot be its axis; use value=success over n")
        if agg is not None:
            raise FitError(f"n50 is fitted to the replicates of each group, so it has no {agg}; leave out --agg")
        fits = fit_thresholds(named, by, tolerance)
        largest = fits["d_out"] * fits["d_in"] if {"d_out", "d_in"} <= set(fits) else np.inf
        counts = {"low": fits["n50_low"], "high": np.minimum(fits["n50_high"], largest), "count": fits["n_replicates"]}
        return fits[by].assign(value=fits["n50"], **counts)
    if value in _SHARES:
        named = label_success(named, resolve_tolerance(named, tolerance))
        numbers = named[value].astype(float)
    else:
        numbers = column(trials, value)
        if not _numeric(numbers):
            raise FitError(f"{value!r} is not numeric, so it has no {agg or 'median'}; choose a column of numbers")
    how = agg or ("mean" if value in _SHARES else "median")
    rows = []
    for key, group in group_rows(named.assign(**{"": pd.to_numeric(numbers)}), by):
        known = group[""].dropna()
        low, high = known.quantile([0.25, 0.75]) if len(known) else (np.nan, np.nan)
        if value in _SHARES and len(known) and how == "mean":
            low, high = wilson_interval(int(known.sum()), len(known))
        rows.append({**key, "value": float(known.agg(how)) if len(known) or how == "count" else np.nan,
                     "low": low, "high": high, "count": len(group)})  # fmt: skip
    return pd.DataFrame(rows)


def column(trials: pd.DataFrame, name: str) -> pd.Series:
    """A column by its name, or computed from others by the language of sweep files.

    Nulls that stand for a keyword (a learning rate ``auto``) become that word if the column is not numeric.

    Raises:
        FitError: it is neither a column nor arithmetic over columns.
    """
    if name in trials:
        if isinstance(trials[name].dtype, pd.DatetimeTZDtype):
            return trials[name].map(moment)
        return trials[name].map(as_value) if name == "width" else trials[name]
    try:
        expression = parse(name, TRIAL_NAMES)
        needed = sorted({field for used in expression.names for field in DERIVED_FROM.get(used, (used,))})
        rows = trials[needed].drop_duplicates()
        values = []
        for row in rows.to_dict("records"):
            names = {key: to_value(as_value(entry)) for key, entry in row.items()}
            names |= {key: derived(key, names) for key in expression.names if key in DERIVED}
            value = expression.evaluate(names)
            values.append(np.nan if value is None else float(value))
    except KeyError as error:
        raise FitError(f"{name!r} needs the column {error}, which these trials do not have") from error
    except (ExpressionError, TypeError, ValueError) as error:
        near = did_you_mean(name, [*map(str, trials), *DERIVED, SUCCESS, FITTED])
        near = "" if "did you mean" in str(error) else near
        raise FitError(f"{name!r} is neither a column nor arithmetic over columns{near}: {error}") from error
    merged = trials[needed].merge(rows.assign(**{"": values}), on=needed, how="left")[""]
    return pd.Series(merged.to_numpy(dtype=float), index=trials.index).round(12)


def axes_of(trials: pd.DataFrame, *asked: str | None) -> list[str]:
    """The fields on the axes: as requested, else those with the most values.

    Raises:
        FitError: one does not vary, or too few do.
    """
    fields = varying_fields(trials)
    for name in filter(None, asked):
        values = {as_value(value) for value in distinct(column(trials, name))}
        # A null counts if it has a meaning, such as a learning rate ``auto``.
        values -= set() if name in configuration_columns(trials) and len(values) == 2 else {None}
        if len(values) < 2:
            only = cell_word(min(values)) if values else "no value"
            words = f"these vary: {', '.join(fields)}" if fields else "no field of these trials varies"
            raise FitError(f"{name!r} has one value here ({only}), so there is nothing to draw over it; {words}")
    free = sorted((name for name in fields if name not in asked), key=lambda name: name == "method")
    chosen: list[str] = []
    for wanted in asked:
        if wanted is None and not free:
            raise FitError(
                f"only {chosen[0]} varies in these trials, and a heat map needs two fields; `lines` draws over one"
                if chosen
                else "no field of these trials varies, so there is nothing to draw over; the trials are of one cell"
            )
        chosen.append(free.pop(0) if wanted is None else wanted)
    return chosen


def varying_fields(trials: pd.DataFrame) -> list[str]:
    """Fields that vary among the trials, those with the most values first, numbers before words."""
    names = [*configuration_columns(trials), *(["n"] if "n" in trials and trials["n"].nunique() > 1 else [])]

    def order(name: str) -> tuple[bool, int]:
        return not _numeric(trials[name]), -len({as_value(value) for value in distinct(trials[name])})

    return sorted(names, key=order)


def _asked(name: str | None, default: list[str]) -> list[str]:
    """Columns that a user asked for; ``none`` for none."""
    return default if name is None else [] if name == "none" else [name]


def facet_of(trials: pd.DataFrame, facet: str | None, used: Sequence[str]) -> list[str]:
    """Columns that make panels: the requested one, else the method."""
    several = "method" in trials and trials["method"].nunique() > 1 and "method" not in used
    return _asked(facet, ["method"] if several else [])


def series_of(trials: pd.DataFrame, color: str | None, used: Sequence[str | None]) -> list[str]:
    """Columns that make colours: the requested one, else everything that varies besides the axes and n."""
    free = [name for name in varying_fields(trials) if name not in used and name != "n"]
    return _asked(color, sorted(free, key=lambda name: name != "method"))


def _series_keys(table: pd.DataFrame, series: Sequence[str]) -> list[dict[str, Any]]:
    keys = keys_of(table, series)
    if len(keys) > _MOST_SERIES:
        raise FitError(
            f"{len(keys)} combinations of {', '.join(series)} are too many colours to tell apart ({_MOST_SERIES} at "
            "most); give --color one field, or choose some of the trials with --where"
        )
    return keys


def pooled(trials: pd.DataFrame, used: Sequence[str]) -> list[str]:
    """A remark on the fields that vary within a group and that the statistic pools over.

    A field that ``used`` determines, as a statistical dimension may determine the rank, is not pooled over.
    """
    names = [name for name in varying_fields(trials) if name not in used]
    known = pd.DataFrame({name: column(trials, name).map(as_value) for name in dict.fromkeys([*used, *names])})
    groups = known.drop_duplicates().groupby(list(dict.fromkeys(used)), dropna=False)
    left = ", ".join(name for name in names if (groups[name].nunique(dropna=False) > 1).any())
    return [f"each value pools over {left}; choose one with --where, or show it with --facet"] if left else []


def value_name(value: str, agg: str | None) -> str:
    """Label of the colour or the y axis."""
    if value == FITTED:
        return "$n_{50}$"
    if value == SUCCESS and agg in (None, "mean"):
        return "success"
    return f"{value}, {agg or ('mean' if value in _SHARES else 'median')}"


def axis_name(name: str) -> str:
    """Label of an axis."""
    return {"n": "measurements $n$", "rank": "rank $r$"}.get(name, name)


def cell_word(value: Any) -> str:
    """One value as a tick label."""
    value = as_value(value)
    if isinstance(value, tuple):
        return "-".join(number(part, 6) for part in (value[:1] if len(set(value)) == 1 else value))
    return value if isinstance(value, str) else number(value, 4)


def _numeric(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)


def _places(table: pd.DataFrame, name: str) -> dict[Any, float]:
    """Each value of a column and where it is drawn: numbers at their value, everything else one after another."""
    values = [key[name] for key in keys_of(table, [name])]
    if len(values) > _MOST_LEVELS and None in map(_number_of, values):
        raise FitError(f"{name!r} has {len(values)} values, too many to stand side by side; choose some with --where")
    numbers = [number for number in map(_number_of, values) if number is not None]
    to_scale = len(set(numbers)) == len(values)
    return dict(zip(values, numbers if to_scale else map(float, range(len(values))), strict=True))


def _number_of(value: Any) -> float | None:
    """A number, or the one width of all layers, that is drawn to scale; None for anything else."""
    value = as_value(value)
    value = value[0] if isinstance(value, tuple) and len(set(value)) == 1 else value
    return float(value) if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) else None


def scales_of(table: pd.DataFrame, names: Mapping[str, str], log: str | None) -> set[str]:
    """Which of the axes (x, y, value) are logarithmic: by default those of positive numbers that spread widely.

    Raises:
        FitError: a requested axis holds text or numbers that are not positive.
    """
    chosen = set() if log is None else {part.strip() for part in log.split(",")} - {"none", ""}
    unknown = sorted(chosen - {*names, *names.values()})
    if unknown:
        raise FitError(f"--log {unknown[0]}: no such axis; allowed: {', '.join(names)}, or none")
    found = set()
    for axis, name in names.items():
        entries = np.array(table["value"] if axis == "value" else list(_places(table, name).values()), dtype=float)
        entries = entries[np.isfinite(entries)]
        is_number = axis == "value" or all(_number_of(value) is not None for value in distinct(table[name]))
        positive = is_number and len(entries) > 0 and bool((entries > 0).all())
        if chosen & {axis, name} and not positive:
            what = "holds zero or negative numbers" if is_number else "holds text, not numbers"
            raise FitError(f"{name!r} {what}, so its axis cannot be logarithmic; leave it out of --log")
        by_default = log is None and positive and entries.max() > 8.0 * entries.min() and name not in _SHARES
        if chosen & {axis, name} or by_default:
            found.add(axis)
    return found


def norm_of(column: pd.Series, value: str, logarithmic: bool) -> Normalize:
    """The scale of the colours; over ten decades at most."""
    if value in _SHARES:
        return Normalize(0, 1)
    values = column.to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    low = max(low, high * 1e-10) if logarithmic else low
    if low == high:
        low, high = (low / 1.1, high * 1.1) if low > 0 else (low - 0.5, high + 0.5)
    return LogNorm(low, high) if logarithmic else Normalize(low, high)


def _axis(axes: Axes, which: str, places: Mapping[Any, float], logarithmic: bool) -> None:
    """Ticks at the values if they are few or words, else at round numbers."""
    axis = axes.xaxis if which == "x" else axes.yaxis
    positions = np.array(list(places.values()))
    if logarithmic:
        axes.set(**{f"{which}scale": "log"})
    named = list(places) != positions.tolist()  # a list of widths, or words
    if len(positions) <= 7 or named:
        step = -(-len(positions) // 24)
        words = [cell_word(value) for value in places][::step]
        turned = which == "x" and max(len(word) for word in words) * len(words) > 48
        ha = "center" if which == "x" and not turned else "right"
        axis.set_ticks(positions[::step], labels=words, rotation=40 if turned else 0, ha=ha)
        axes.minorticks_off()
    elif logarithmic and positions[-1] < 1000 * positions[0]:
        plain_ticks(axis, positions[0], positions[-1])
        axes.minorticks_off()
    elif logarithmic:
        axis.set_major_locator(LogLocator(numticks=6))


def make_heatmap(trials: pd.DataFrame, context: Context, **options: Any) -> Drawn:
    """The heat map and its numbers."""
    x, y = axes_of(trials, options.pop("x", None), options.pop("y", None))
    value, agg = options.pop("value", SUCCESS), options.get("agg")
    facets = facet_of(trials, options.get("facet"), (x, y))
    table = field_table(trials, [x, y, *facets], value, agg, options.get("tolerance"))
    figures = {_stem("heatmap", value, x, y): heatmap(trials, x, y, value, **options, table=table)}
    columns, rows = [cell_word(key[x]) for key in keys_of(table, [x])], []
    for facet in keys_of(table, facets):
        for level in reversed(keys_of(matching(table, facet), [y])):
            mine, named = matching(table, {**facet, **level}), {**facet, **level}
            values = dict(zip(map(cell_word, mine[x]), mine["value"], strict=True))
            words = {name: cell_word(entry) for name, entry in named.items()}
            rows.append(words | {name: number(values.get(name)) for name in columns})
    tables = {plain(f"{value_name(value, agg)} over {x} and {y}"): pd.DataFrame(rows)}
    remarks = pooled(trials, [x, y, *facets, *(["n"] if value == FITTED else [])])
    return Drawn(figures, tables, {"x": x, "y": y, "value": value, **options}, remarks)


def make_lines(trials: pd.DataFrame, context: Context, **options: Any) -> Drawn:
    """The lines and their numbers."""
    (x,) = axes_of(trials, options.pop("x", None))
    value, facet = options.pop("value", SUCCESS), options.get("facet")
    by = [x, *_asked(facet, []), *series_of(trials, options.get("color"), (x, facet))]
    table = field_table(trials, by, value, options.get("agg"), options.get("tolerance"))
    figures = {_stem("lines", value, x): lines(trials, x, value, **options, table=table)}
    table = pd.concat([matching(table, key) for key in keys_of(table, by)])  # in the order of the legend and the axis
    text = shown(table.rename(columns={"value": value, "low": f"{value}_low", "high": f"{value}_high"}))
    remarks = pooled(trials, [*by, *(["n"] if value == FITTED else [])])
    return Drawn(figures, {f"{value} over {x}": text}, {"x": x, "value": value, **options}, remarks)


def make_scatter(trials: pd.DataFrame, context: Context, **options: Any) -> Drawn:
    """The scatter."""
    options = {"x": "nuclear_norm", "y": "relative_error", **options}
    return Drawn({_stem("scatter", options["y"], options["x"]): scatter(trials, **options)}, {}, options)


def _stem(*names: str) -> str:
    return "_".join(re.sub(r"\W", "-", name) for name in names)
