"""What a report is made of: the sweep, its rows, and the fits that several sections need."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.command import Request
from analysis.grouping import configuration_columns
from analysis.layout import panel_columns, series_columns
from analysis.success import label_success, resolve_tolerance
from analysis.threshold import fit_thresholds

if TYPE_CHECKING:
    from flatdist.sweepfile import Sweep

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
    def tolerance(self) -> float:
        """Relative error below which a replicate is a success, the same for all methods."""
        return resolve_tolerance(self.trials, self.request.tolerance)

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """The trials with ``success``, ``diverged`` and ``unconverged``."""
        return label_success(self.trials, self.tolerance)

    @cached_property
    def panels(self) -> list[str]:
        """Fields of the problem that vary: what makes a panel of its own."""
        return panel_columns(self.trials)

    @cached_property
    def series(self) -> list[str]:
        """The method and its fields that vary: what makes a colour of its own."""
        return series_columns(self.trials)

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
        """n50 of every configuration, from :func:`analysis.fit_thresholds`."""
        return fit_thresholds(self.trials, self.configuration, self.tolerance, link=self.request.link)

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The sweep's cells in its order, one row each: ``cell_id``, ``configuration_id`` and every field."""
        rows = [
            {"cell_id": cell.cell_id, "configuration_id": cell.configuration_id, **cell.row()}
            for cell in self.sweep.cells
        ]
        return pd.DataFrame(rows)

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


def gather(
    sweep: Sweep,
    named: str | os.PathLike[str],
    store: str,
    out: Path,
    *,
    tolerance: float | None = None,
    link: str = "logit",
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
