"""Results as DataFrames: what notebooks and analyses read."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.errors import StoreError
from flatdist.store.filters import Where
from flatdist.store.frame import rows_to_frame
from flatdist.store.location import is_local
from flatdist.store.store import Store

if TYPE_CHECKING:
    import pandas as pd


def load_trials(
    store: Store | str | os.PathLike[str],
    sweep: str | os.PathLike[str] | None = None,
    where: Where = None,
    columns: Sequence[str] | None = None,
    all_numerics: bool = False,
) -> pd.DataFrame:
    """Return one row a replicate.

    Args:
        store: a folder, a URI such as ``s3://bucket/folder``, or an open store.
        sweep: only the cells of this sweep: its name, if the store has a record of it, or the path of a sweep file;
            None for everything in the store.
        where: only rows that satisfy it, for instance ``{"rank": 2}``, ``[("n", ">", 40)]`` or
            ``"rank == 2 and n > 1.5*dof"``; see :mod:`flatdist.store.filters`.
        columns: only these columns.
        all_numerics: also rows that older numerics computed, where newer ones exist.

    Returns:
        Columns of :data:`flatdist.columns.TRIALS`, sorted by cell and replicate; each replicate once.

    Raises:
        StoreError: the store, the sweep or a column does not exist.
        SweepError: the sweep file cannot be read.
    """
    opened = _existing(store)
    return opened.trials(_cells(opened, sweep), where, columns, all_numerics, follow_configurations=not _is_file(sweep))


def load_history(
    store: Store | str | os.PathLike[str],
    sweep: str | os.PathLike[str] | None = None,
    where: Where = None,
    columns: Sequence[str] | None = None,
    all_numerics: bool = False,
) -> pd.DataFrame:
    """Return the measurements along the training, of which every replicate has ``evaluations``.

    Arguments are those of :func:`load_trials`; ``where`` and ``columns`` may name columns of trials too, for instance
    ``columns=["cell_id", "replicate", "step", "relative_error", "rank"]``.

    Returns:
        Columns of :data:`flatdist.columns.HISTORY`, sorted by cell, replicate and step.
    """
    opened = _existing(store)
    return opened.history(
        _cells(opened, sweep), where, columns, all_numerics, follow_configurations=not _is_file(sweep)
    )


def trials_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of trials that are in no store, as :func:`load_trials` would."""
    return rows_to_frame("trials", rows)


def history_frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Return rows of history that are in no store, as :func:`load_history` would."""
    return rows_to_frame("history", rows)


def _existing(store: Store | str | os.PathLike[str]) -> Store:
    opened = store if isinstance(store, Store) else Store(store)
    if is_local(opened.uri) and not os.path.isdir(opened.uri):
        raise StoreError(f"store {opened.uri}: there is no such folder; run a sweep into it first, or give --store")
    return opened


def _is_file(sweep: str | os.PathLike[str] | None) -> bool:
    """Whether a sweep is meant as a file: a path, or text that looks like one."""
    if sweep is None:
        return False
    return not isinstance(sweep, str) or sweep.endswith((".yaml", ".yml")) or "/" in sweep or os.sep in sweep


def _cells(store: Store, sweep: str | os.PathLike[str] | None) -> list[str] | None:
    if sweep is None:
        return None
    if not _is_file(sweep):
        return list(store.load_sweep(str(sweep)).cell_ids)
    from flatdist.sweepfile import load_sweep

    loaded = load_sweep(Path(sweep))
    if loaded.search is not None:
        from flatdist.search import with_recorded_cells

        loaded = with_recorded_cells(loaded, store)
    return [cell.cell_id for cell in loaded.cells]
