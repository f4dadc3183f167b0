"""Results as DataFrames: what notebooks and analyses read."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.cells.columns import HISTORY, column_names
from flatdist.errors import StoreError
from flatdist.expressions import Where
from flatdist.store.location import is_local
from flatdist.store.schema import rows_to_frame
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
            ``"rank == 2 and n > 1.5*dof"``; see :mod:`flatdist.expressions`.
        columns: only these columns.
        all_numerics: also rows that older numerics computed, where newer ones exist.

    Returns:
        Columns of :data:`flatdist.cells.columns.TRIALS`, sorted by cell and replicate; each replicate once.

    Raises:
        StoreError: the store, the sweep or a column does not exist.
        SweepError: the sweep file cannot be read.
    """
    opened = _existing(store)
    asked = _Asked.of(opened, sweep)
    frame = opened.trials(
        asked.cell_ids, where, asked.columns(columns), all_numerics, follow_configurations=not _is_file(sweep)
    )
    return asked.among(frame, columns)


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
        Columns of :data:`flatdist.cells.columns.HISTORY`, sorted by cell, replicate and step.
    """
    opened = _existing(store)
    asked = _Asked.of(opened, sweep)
    frame = opened.history(
        asked.cell_ids,
        where,
        asked.columns(columns, of_history=True),
        all_numerics,
        follow_configurations=not _is_file(sweep),
    )
    return asked.among(frame, columns, of_history=True)


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


@dataclass(frozen=True)
class _Asked:
    """What a sweep asks for.

    Attributes:
        cell_ids: its cells; None for everything in the store.
        replicates: configuration id -> numbers of its replicates, where the sweep chose them; None for all there are.
    """

    cell_ids: list[str] | None
    replicates: Mapping[str, Collection[int]] | None = None

    @classmethod
    def of(cls, store: Store, sweep: str | os.PathLike[str] | None) -> _Asked:
        """What a sweep asks for, by its name or its file."""
        if sweep is None:
            return cls(None)
        if not _is_file(sweep):
            record = store.load_sweep(str(sweep))
            if record.rounds is None:
                return cls(list(record.cell_ids))
            from flatdist.sweeps.adaptive.recorded import recorded_replicates

            return cls(list(record.cell_ids), recorded_replicates(record))
        from flatdist.sweeps import load_sweep

        loaded = load_sweep(Path(sweep)).recorded(store)
        cells = {cell.configuration_id: loaded.replicates_of(cell.cell_id) for cell in loaded.cells}
        return cls([cell.cell_id for cell in loaded.cells], cells if loaded.asks_replicates else None)

    def columns(self, wanted: Sequence[str] | None, *, of_history: bool = False) -> Sequence[str] | None:
        """The columns to read: also those that say which rows the sweep chose."""
        if self.replicates is None or (wanted is None and not of_history):
            return wanted
        wanted = column_names(HISTORY) if wanted is None else [wanted] if isinstance(wanted, str) else wanted
        return list(dict.fromkeys([*wanted, "configuration_id", "replicate"]))

    def among(self, frame: pd.DataFrame, wanted: Sequence[str] | None, *, of_history: bool = False) -> pd.DataFrame:
        """The rows that the sweep chose, with the wanted columns."""
        if self.replicates is None:
            return frame
        keys = zip(frame["configuration_id"], frame["replicate"], strict=True)
        mask = [int(replicate) in self.replicates.get(str(cell), ()) for cell, replicate in keys]
        kept = frame.loc[[row for row, holds in enumerate(mask) if holds]]
        if wanted is not None or of_history:
            names = column_names(HISTORY) if wanted is None else [wanted] if isinstance(wanted, str) else wanted
            kept = kept[list(dict.fromkeys(names))]
        return kept.reset_index(drop=True)
