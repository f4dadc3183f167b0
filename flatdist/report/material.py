"""What a report is made of: the sweep, its rows, and the fits that several parts need."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pandas as pd

from flatdist.cells.cell import FIELDS
from flatdist.errors import FitError, FlatdistError
from flatdist.figures.panels import keys_of
from flatdist.fits.grouping import SHAPE, as_value, configuration_columns, panel_columns, series_columns
from flatdist.fits.scaling import Fits, fit_all
from flatdist.fits.success import common_tolerance, label_success, resolve_tolerance
from flatdist.fits.threshold import fit_thresholds

if TYPE_CHECKING:
    from flatdist.sweeps import Sweep

MEASURES: Mapping[str, str] = {
    "train_loss": "train loss", "population_loss": "test loss", "nuclear_norm": "nuclear norm",
    "hessian_trace": "trace of the Hessian",
}  # fmt: skip
"""Columns of the history that training curves show, and what they are called."""


@dataclass(frozen=True)
class Settings:
    """How a report is made.

    Attributes:
        named: the sweep as the user named it: the path of its file, or its name.
        store: folder or URI of the results.
        tolerance: relative error of a success; None for the default of the methods present.
        link: success curve of the threshold fits; ``auto`` chooses by evidence.
    """

    named: str
    store: str
    tolerance: float | None = None
    link: str = "auto"


@dataclass(frozen=True)
class Material:
    """One sweep's rows, read once.

    Attributes:
        sweep: with the cells that it asks for; a search's are those it has asked for so far.
        settings: where the rows are from and how they are judged.
        trials: one row per replicate; empty if nothing is done.
        history: of those, the columns of :data:`MEASURES`.
        failures: every recorded failure of the sweep's cells, those of replicates that succeeded later too.
    """

    sweep: Sweep
    settings: Settings
    trials: pd.DataFrame
    history: pd.DataFrame
    failures: pd.DataFrame

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The trials of methods that estimate the ground truth; probes of a problem neither succeed nor diverge."""
        if self.trials.empty:
            return self.trials
        error = pd.to_numeric(self.trials["relative_error"])
        estimates = error.notna() | (self.trials["status"] == "diverged")
        return self.trials[self.trials["method"].isin(set(self.trials.loc[estimates, "method"]))]

    @cached_property
    def tolerance(self) -> float:
        """Relative error below which a replicate is a success, the same for all methods."""
        chosen = self.settings.tolerance
        present = self.judged["method"].unique() if len(self.judged) else ()
        methods = {*present, *(cell.method for cell in self.sweep.cells)}  # also those that have no rows yet
        return common_tolerance(methods) if chosen is None else resolve_tolerance(self.judged, chosen)

    @cached_property
    def labelled(self) -> pd.DataFrame:
        """The judged trials with ``success``, ``diverged``, ``unconverged``, and ``cell_row`` in :attr:`cells`.

        Raises:
            FitError: there are none.
        """
        if self.judged.empty:
            raise FitError("no method of this sweep estimates the ground truth, so there is no success to show")
        return label_success(self.judged, self.tolerance).assign(cell_row=self.cell_rows.loc[self.judged.index])

    @cached_property
    def panels(self) -> list[str]:
        """Fields of the problem that vary: what makes a panel of its own."""
        return panel_columns(self.judged)

    @cached_property
    def series(self) -> list[str]:
        """The method and its fields that vary: what makes a colour of its own."""
        return series_columns(self.judged)

    @cached_property
    def series_keys(self) -> list[dict[str, Any]]:
        """The series, in the order of legends."""
        return keys_of(self.judged, self.series) if len(self.judged) else []

    @cached_property
    def configuration(self) -> list[str]:
        """Everything that tells one point of a figure from another, but n."""
        return list(dict.fromkeys([*self.series, *self.panels, *SHAPE]))

    @cached_property
    def over_n(self) -> bool:
        """Whether any configuration was measured at several n, so that there is a transition to place."""
        if self.judged.empty:
            return False
        groups = self.judged[[*self.configuration, "n"]].map(as_value).groupby(self.configuration, dropna=False)
        return bool(groups["n"].nunique().max() > 1)

    @cached_property
    def thresholds(self) -> pd.DataFrame:
        """n50 of every configuration."""
        return fit_thresholds(self.judged, self.configuration, self.tolerance, link=self.settings.link)

    @cached_property
    def fits(self) -> Fits | None:
        """Laws and widths; None where there is nothing to fit."""
        try:
            return fit_all(self.judged, self.tolerance, self.settings.link)
        except FlatdistError:
            return None

    @cached_property
    def cells(self) -> pd.DataFrame:
        """The sweep's cells in its order, one row each: ``cell_id``, ``configuration_id`` and every field."""
        ids = ("cell_id", "configuration_id")
        rows = [{**{name: getattr(cell, name) for name in ids}, **cell.row()} for cell in self.sweep.cells]
        return pd.DataFrame(rows, columns=[*ids, *FIELDS])

    @cached_property
    def varying(self) -> list[str]:
        """Fields that vary among the sweep's cells, the method first and n last."""
        names = sorted(configuration_columns(self.cells), key=lambda name: name != "method") if len(self.cells) else []
        return [*names, *(["n"] if self.cells["n"].nunique() > 1 else [])]

    @cached_property
    def cell_rows(self) -> pd.Series:
        """For each trial, its cell's row in :attr:`cells`, else -1; rows of older numerics are of the cell of today."""
        rows = pd.Series(-1, index=self.trials.index, dtype=int)
        for name in ("configuration_id", "cell_id"):
            places = {key: row for row, key in enumerate(self.cells[name])}
            rows = self.trials[name].map(places).fillna(rows).astype(int)
        return rows

    @cached_property
    def done(self) -> set[tuple[str, int]]:
        """The (cell, replicate) of every trial."""
        return set(zip(self.trials["cell_id"], self.trials["replicate"], strict=True))

    def wanted(self, cell_id: str) -> Collection[int]:
        """The requested replicates of a cell; none of a cell that a search stopped early."""
        return () if cell_id in self.sweep.stopped else self.sweep.replicates_of(cell_id)


def gather(sweep: Sweep, settings: Settings) -> Material:
    """Read a sweep's rows from the store.

    Raises:
        StoreError: the store cannot be read.
    """
    import flatdist
    from flatdist.store import Store

    store = Store(settings.store)  # read once for all three
    trials = flatdist.load_trials(store, settings.named)
    history = flatdist.load_history(store, settings.named, columns=["cell_id", "replicate", "step", *MEASURES])
    return Material(sweep, settings, trials, history, store.failures([cell.cell_id for cell in sweep.cells]))
