"""Results as DataFrames: what notebooks and analyses read."""

from __future__ import annotations

import contextlib
import math
import os
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.cells.cell import FIELDS, OLD, Cell, null_word
from flatdist.cells.columns import HISTORY, column_names
from flatdist.errors import FlatdistError, StoreError
from flatdist.expressions import CELL_NAMES, ExpressionError, Row, Where, parse_where
from flatdist.store.location import is_local
from flatdist.store.schema import SOMETIMES_NULL
from flatdist.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.sweeps import Sweep


def load_trials(
    store: Store | str | os.PathLike[str],
    sweep: str | os.PathLike[str] | None = None,
    where: Where = None,
    columns: Sequence[str] | None = None,
    all_numerics: bool = False,
    *,
    tolerance: float | None = None,
    fill: bool = False,
) -> pd.DataFrame:
    """Return the trials, one row per replicate.

    Args:
        store: a folder, a URI such as ``s3://bucket/folder``, or an open store.
        sweep: only the cells of this sweep: its name, if the store has a record of it, or the path of its file; None
            for everything in the store.
        where: only rows that satisfy this condition (:mod:`flatdist.expressions`), such as ``{"rank": 2}``,
            ``[("n", ">", 40)]`` or ``"rank == 2 and n > 1.5*dof"``.
        columns: only these columns.
        all_numerics: also rows of older numerics that newer ones replace.
        tolerance: adds the column ``success``: the relative error is below it and the replicate did not diverge.
        fill: replace nulls of cell fields by the words they stand for, so that ``groupby`` keeps their rows: ``auto``
            and ``full``, or ``none`` if the method has no such field. These columns then have dtype ``object``;
            otherwise their dtype does not depend on the rows loaded.

    Returns:
        Columns of :data:`flatdist.cells.columns.TRIALS`, sorted by cell and replicate; each replicate once. For a named
        sweep, ``attrs`` hold how many replicates it requests of each method (``wanted``), how many of those satisfy
        ``where`` (``asked``), and the progress of a sweep that still chooses its runs (``outlook``). Analyses use this
        to report what is missing and to keep one tolerance for all methods.

    Raises:
        StoreError: the store, the sweep or a column does not exist, or the tolerance is not a positive number.
        SweepError: the sweep file cannot be read.

    Example:
        >>> import flatdist
        >>> spec = {"name": "tiny", "replicates": 2, "axes": {"n": [5, 9]},
        ...         "fixed": {"d_out": 3, "d_in": 3, "rank": 1, "method": "min_nuclear_norm"}}
        >>> _ = flatdist.sweep(spec, "there", executor="inline", display="none", probe=False)
        >>> load_trials("there", "tiny", where="n == 9", columns=["replicate", "status"]).to_dict("list")
        {'replicate': [0, 1], 'status': ['converged', 'converged']}
    """
    if tolerance is not None and not 0.0 < tolerance < math.inf:
        raise StoreError(f"tolerance={tolerance!r} is not a relative error; allowed: a positive number such as 1e-2")
    opened = _existing(store)
    selection = _Selection.of(opened, sweep)
    wanted = read = [columns] if isinstance(columns, str) else columns
    if wanted is not None:
        of_success = ("relative_error", "status") if tolerance is not None else ()
        read = [*dict.fromkeys([*wanted, *of_success, *(("method", "flatdist_version") if fill else ())])]
    frame = selection.read(opened.trials, where, read, all_numerics)
    frame.attrs |= selection.attributes(where)
    if tolerance is not None:
        succeeded = (frame["relative_error"] < tolerance) & (frame["status"] != "diverged")
        frame["success"] = succeeded.to_numpy(dtype=bool)
    if fill:
        _fill_nulls(frame)
    if wanted is None:
        return frame
    return frame[[*dict.fromkeys(wanted), *(("success",) if tolerance is not None else ())]]


def _fill_nulls(frame: pd.DataFrame) -> None:
    """Give every null of a cell field its word, in place."""
    old = frame["flatdist_version"] == OLD
    for name in SOMETIMES_NULL & set(FIELDS) & set(frame.columns):
        whole = FIELDS[name].metadata["kind"].arrow.startswith("int")
        column = frame[name].astype("Int64" if whole else object).astype(object)
        missing = frame[name].isna()
        for method in frame.loc[missing, "method"].unique():
            of_method = missing & (frame["method"] == method)
            column = column.mask(of_method, null_word(name, method, None) or "none")
            column = column.mask(of_method & old, null_word(name, method, OLD) or "none")
        frame[name] = column


def load_history(
    store: Store | str | os.PathLike[str],
    sweep: str | os.PathLike[str] | None = None,
    where: Where = None,
    columns: Sequence[str] | None = None,
    all_numerics: bool = False,
) -> pd.DataFrame:
    """Return the history of training: ``evaluations`` rows per replicate.

    Arguments are those of :func:`load_trials`; ``where`` and ``columns`` may also name columns of trials, for instance
    ``columns=["cell_id", "replicate", "step", "relative_error", "rank"]``.

    Returns:
        Columns of :data:`flatdist.cells.columns.HISTORY`, sorted by cell, replicate and step.

    Example:
        >>> import flatdist
        >>> spec = {"name": "two", "replicates": 1,
        ...         "fixed": {"d_out": 3, "d_in": 3, "rank": 1, "n": 6, "steps": 20, "evaluations": 3}}
        >>> _ = flatdist.sweep(spec, "there", executor="inline", display="none", probe=False)
        >>> load_history("there", "two", columns=["step"])["step"].tolist()
        [0, 10, 20]
    """
    opened = _existing(store)
    wanted = column_names(HISTORY) if columns is None else [columns] if isinstance(columns, str) else columns
    return _Selection.of(opened, sweep).read(opened.history, where, wanted, all_numerics)


def _existing(store: Store | str | os.PathLike[str]) -> Store:
    opened = store if isinstance(store, Store) else Store(store)
    if is_local(opened.uri) and not os.path.isdir(opened.uri):
        raise StoreError(f"store {opened.uri}: there is no such folder; run a sweep into it first, or give --store")
    return opened


def asked_for(
    store: Store | str | os.PathLike[str], sweeps: Sequence[str | os.PathLike[str]], where: Where = None
) -> dict[str, Any]:
    """The ``attrs`` of the trials of several sweeps together, see :func:`load_trials`."""
    parts = [_Selection.of(_existing(store), sweep) for sweep in sweeps]
    together: dict[Cell, int] = {}
    for part in parts:
        together |= {cell: max(count, together.get(cell, 0)) for cell, count in (part.cells or {}).items()}
    known = all(part.cells is not None for part in parts)
    outlook = "; ".join(part.outlook for part in parts if part.outlook)
    return _Selection(None, cells=together if known else None, outlook=outlook).attributes(where)


@dataclass(frozen=True)
class _Selection:
    """The cells and replicates that a sweep requests."""

    cell_ids: list[str] | None  # None for everything in the store
    replicates: Mapping[str, Collection[int]] | None = None  # by configuration id, where the sweep chose; None for all
    cells: Mapping[Cell, int] | None = None  # how many replicates each cell gets; None if unknown
    outlook: str = ""  # the progress of a sweep that still chooses its runs, in words
    follow: bool = True  # accept the cells' configurations at any numerics, as for a sweep that was recorded

    @classmethod
    def of(cls, store: Store, sweep: str | os.PathLike[str] | None) -> _Selection:
        if sweep is None:
            return cls(None)
        from flatdist.sweeps import Changes, load_sweep, open_sweep, parse_sweep
        from flatdist.sweeps.groups import recorded_replicates

        if isinstance(sweep, str) and not (sweep.endswith((".yaml", ".yml")) or "/" in sweep or os.sep in sweep):
            record = store.sweeps.load(sweep)
            ids = list(record.cell_ids)
            if record.rounds is None:
                cells = None
                with contextlib.suppress(FlatdistError):
                    found = parse_sweep(record.source, name=record.name, changes=Changes(record.changes)).cells
                    if len(found) == len(ids):  # else it was recorded by another version
                        cells = dict.fromkeys(found, record.replicates)
                return cls(ids, cells=cells)
            return cls(ids, recorded_replicates(record), outlook=_outlook(lambda: open_sweep(sweep, store), store))
        loaded = load_sweep(Path(sweep)).recorded(store)
        chosen = {cell: loaded.replicates_of(cell.cell_id) for cell in loaded.cells}
        by_id = {cell.configuration_id: replicates for cell, replicates in chosen.items()}
        return cls(
            [cell.cell_id for cell in chosen],
            by_id if loaded.asks_replicates else None,
            {cell: len(replicates) for cell, replicates in chosen.items()},
            _outlook(lambda: loaded, store),
            follow=False,
        )

    def read(
        self, load: Callable[..., pd.DataFrame], where: Where, columns: Sequence[str] | None, all_numerics: bool
    ) -> pd.DataFrame:
        """The rows that the sweep requests, by a loader of the store."""
        if self.replicates is None:
            return load(self.cell_ids, where, columns, all_numerics, follow_configurations=self.follow)
        read = None if columns is None else [*dict.fromkeys([*columns, "configuration_id", "replicate"])]
        frame = load(self.cell_ids, where, read, all_numerics, follow_configurations=self.follow)
        keys = zip(frame["configuration_id"].tolist(), frame["replicate"].tolist(), strict=True)
        kept = frame[np.array([number in self.replicates.get(cell, ()) for cell, number in keys], bool)]
        return (kept if columns is None else kept[[*dict.fromkeys(columns)]]).reset_index(drop=True)

    def attributes(self, where: Where) -> dict[str, Any]:
        """What :func:`load_trials` notes in ``attrs``."""
        noted: dict[str, Any] = {"outlook": self.outlook} if self.outlook else {}
        if self.cells is not None:
            noted |= {"wanted": _counted(self.cells, None), "asked": _counted(self.cells, where)}
        return {name: value for name, value in noted.items() if value is not None}


def _outlook(load: Callable[[], Sweep], store: Store) -> str:
    """The progress of a sweep that chooses its runs and may request more; empty if unknown."""
    try:
        found = load().outlook(store)
    except FlatdistError:
        return ""
    return found.text if found.may_ask else ""


def _counted(cells: Mapping[Cell, int], where: Where) -> dict[str, int] | None:
    """Requested replicates per method, for the cells that a filter keeps; None if the filter uses results."""
    try:
        conditions = parse_where(where, CELL_NAMES)
        rows = {cell: Row(cell.row()) for cell in cells} if conditions else {}
        kept = [cell for cell in cells if all(one.expression.holds(rows[cell]) for one in conditions)]
    except ExpressionError:
        return None
    counts = Counter({cell.method: 0 for cell in kept})
    for cell in kept:
        counts[cell.method] += cells[cell]
    return dict(counts)
