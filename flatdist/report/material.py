"""What a report is made of: the sweep, its rows, and the fits that several sections need."""

from __future__ import annotations

import argparse
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from flatdist.cells.cell import FIELDS
from flatdist.errors import FitError
from flatdist.figures.command import Request
from flatdist.fits.grouping import configuration_columns, panel_columns, series_columns
from flatdist.fits.success import label_success, resolve_tolerance
from flatdist.fits.threshold import fit_thresholds

if TYPE_CHECKING:
    from flatdist.sweeps import Sweep

SHAPE = ("d_out", "d_in", "rank")
MEASURES: Mapping[str, str] = {
    "train_loss": "train loss",
    "population_loss": "test loss",
    "nuclear_norm": "nuclear norm",
    "hessian_trace": "trace of the Hessian",
}
"""Columns of the history that training curves show, and what they are called."""


@dataclass(frozen=True)
class Material:
    """One sweep's rows, read once.

    Attributes:
        sweep: with the cells that it asks for; a search's are those it has asked for so far.
        request: where the rows are from and where the pictures go, as the figure commands take it.
        trials: one row a replicate; empty where nothing is done.
        history: of those, the columns of :data:`MEASURES` and ``train_loss_max``.
        failures: every recorded failure of the sweep's cells, those of replicates that succeeded later too.
    """

    sweep: Sweep
    request: Request
    trials: pd.DataFrame
    history: pd.DataFrame
    failures: pd.DataFrame

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The trials of methods that estimate the ground truth; a probe of a problem neither succeeds nor diverges."""
        error = pd.to_numeric(self.trials["relative_error"])
        estimates = error.notna() | (self.trials["status"] == "diverged")
        return self.trials[self.trials["method"].isin(set(self.trials.loc[estimates, "method"]))]

    @cached_property
    def tolerance(self) -> float:
        """Relative error below which a replicate is a success, the same for all methods."""
        return resolve_tolerance(self.judged, self.request.tolerance)

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """The judged trials with ``success``, ``diverged`` and ``unconverged``.

        Raises:
            FitError: there are none.
        """
        if self.judged.empty:
            raise FitError("no method of this sweep estimates the ground truth, so there is no success to show")
        return label_success(self.judged, self.tolerance)

    @cached_property
    def panels(self) -> list[str]:
        """Fields of the problem that vary: what makes a panel of its own."""
        return panel_columns(self.judged)

    @cached_property
    def series(self) -> list[str]:
        """The method and its fields that vary: what makes a colour of its own."""
        return series_columns(self.judged)

    @property
    def naming(self) -> list[str]:
        """Columns whose values name a configuration."""
        return [*self.series, *self.panels]

    @cached_property
    def configuration(self) -> list[str]:
        """Everything that tells one point of a figure from another, but n."""
        return list(dict.fromkeys([*self.series, *self.panels, *SHAPE]))

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """n50 of every configuration, from :func:`flatdist.fits.threshold.fit_thresholds`."""
        return fit_thresholds(self.judged, self.configuration, self.tolerance, link=self.request.link)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The sweep's cells in its order, one row each: ``cell_id``, ``configuration_id`` and every field."""
        rows = [
            {"cell_id": cell.cell_id, "configuration_id": cell.configuration_id, **cell.row()}
            for cell in self.sweep.cells
        ]
        return pd.DataFrame(rows, columns=["cell_id", "configuration_id", *FIELDS])

    @cached_property
    def varying(self) -> list[str]:
        """Fields that tell the sweep's cells apart."""
        if self.cells.empty:
            return []
        return [*configuration_columns(self.cells), *(["n"] if self.cells["n"].nunique() > 1 else [])]

    def cell_of_trials(self) -> pd.Series:
        """For each trial, its cell's row in :attr:`cells`; rows of older numerics belong to the cell of today."""
        by_id = {key: row for row, key in enumerate(self.cells["cell_id"])}
        by_configuration = {key: row for row, key in enumerate(self.cells["configuration_id"])}
        rows = [
            by_id.get(cell, by_configuration.get(configuration, -1))
            for cell, configuration in zip(self.trials["cell_id"], self.trials["configuration_id"], strict=True)
        ]
        return pd.Series(rows, index=self.trials.index, dtype=int)


def wanted_replicates(sweep: Sweep, cell_id: str) -> Collection[int]:
    """The replicates that a cell is to have; none of a cell that a search stopped early."""
    return () if cell_id in sweep.stopped else sweep.replicates_of(cell_id)


def gather(
    sweep: Sweep,
    named: str | os.PathLike[str],
    store: str,
    out: Path,
    *,
    tolerance: float | None = None,
    link: str = "auto",
) -> Material:
    """Read what the store has of a sweep.

    Args:
        sweep: the sweep.
        named: how it was asked for: the path of its file, or its name.
        store: folder or URI of the results.
        out: folder for the pictures.
        tolerance: of a success; None for the default of the methods present.
        link: of the threshold fits.

    Raises:
        StoreError: the store cannot be read.
    """
    import flatdist
    from flatdist.store import Store

    trials = flatdist.load_trials(store, named)
    columns = ["cell_id", "replicate", "step", *MEASURES, "train_loss_max"]
    history = flatdist.load_history(store, named, columns=columns)
    failures = Store(store).failures([cell.cell_id for cell in sweep.cells])
    options = argparse.Namespace()
    request = Request(os.fspath(named), sweep.name, store, None, out, tolerance, link, options)
    return Material(sweep, request, trials, history, failures)
