"""A sweep, and the protocol by which it gets its cells.

A plain :class:`Sweep` lists its cells; its subclasses, searches and groups of cells, choose them round after round.
Commands ask any of them for the cells requested so far, those still expected, its progress and its rounds.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flatdist.cells.cell import FIELD_TYPES, Cell
from flatdist.errors import SweepError, counted
from flatdist.sweeps.early_stopping import Halving
from flatdist.sweeps.metric import Metric
from flatdist.sweeps.rounds import Request, RoundLog, Stopped, Strategy

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.store import Store
    from flatdist.sweepfile.choices import Domain

_SHOWN = 12  # values of a field in a notebook


class Runner(Protocol):
    """The ways to run what a sweep chooses; each returns the exit status."""

    def in_rounds(self, rounds: Rounds) -> int:
        """Round after round, each to its end."""

    def under_scheduler(self, search: Any, log: RoundLog) -> int:
        """Cell after cell as slots become free, stopped by Ray Tune's scheduler."""


@dataclass(frozen=True)
class Rounds:
    """Everything needed to run a sweep round by round."""

    strategy: Strategy  # chooses the next round from the recorded ones and the store
    log: RoundLog  # the rounds so far, recorded as they begin
    describe: Callable[[Sequence[Request]], str]  # a new round as text
    outcome: Callable[[], str]  # the sweep as text, once no round is left or it was stopped
    halving: Halving | None = None  # early stopping
    note: str = ""  # for the user, before the rounds begin
    limit: int | None = None  # run only this many cells

    def run(self, runner: Runner) -> int:
        """Run what is left, in the way that suits the sweep."""
        return runner.in_rounds(self)


@dataclass(frozen=True)
class Outlook:
    """The progress of a sweep that chooses its runs; empty for one that lists its cells."""

    text: str = ""  # one line for people
    counts: Mapping[str, Any] = field(default_factory=dict)  # for programs
    may_ask: bool = False  # whether more rounds may follow
    expected: int = 0  # runs that are expected to follow
    beyond: Sequence[tuple[Cell, int]] = ()  # (typical cell, number) of the runs that may follow beyond those
    headings: Sequence[str] = ()  # of the extra columns that tables of sweeps show for it


@dataclass(frozen=True, repr=False, kw_only=True)
class Sweep:
    """A sweep whose file lists its cells, expressions resolved.

    Attributes:
        name: names it in a store.
        description: one line.
        replicates: replicates of each cell, numbered from 0.
        cells: unique by ``cell_id``, in the order of the file: the last axis varies fastest. Those of a sweep that
            chooses its cells are those that a store has recorded, plus those that the file lists.
        left_out: candidates that ``where`` excluded.
        source: the file's text.
        path: the file, or None where the sweep came as text.
        repeated: candidates that equal an earlier cell because a field does not matter to the method.
        stopped: cell id -> where a search stopped it early.
        asked: cell id -> numbers of its replicates, if they are not the first ``replicates``.
        changes: field -> value that ``--set`` gives every cell; the name says so where the sweep lists its cells.
        whole: makes the sweep that the file describes, without ``--set`` and ``--where``.
    """

    name: str
    description: str
    replicates: int
    cells: tuple[Cell, ...]
    left_out: int = 0
    source: str
    path: Path | None
    repeated: int = 0
    stopped: Mapping[str, Stopped] = field(default_factory=dict, compare=False)
    asked: Mapping[str, Collection[int]] = field(default_factory=dict, compare=False)
    whole: Callable[[], Sweep] | None = field(default=None, compare=False)
    changes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    chooses = False  # cells or replicates, round after round
    asks_replicates = False  # requests single replicates, so the store may hold others of its cells

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}, {counted(len(self.cells), 'cell')}, {counted(self.replicates, 'replicate')} each)"

    def _repr_html_(self) -> str:
        rows = ""
        for name, kind in FIELD_TYPES.items():
            values = [*dict.fromkeys(getattr(cell, name) for cell in self.cells)]
            if len(values) > 1:
                shown = [str(kind.word if value is None else value) for value in values[:_SHOWN]]
                shown += ["..."] if len(values) > _SHOWN else []
                rows += f"<tr><th>{name}</th><td>{html.escape(', '.join(shown))}</td></tr>"
        return f"<table><caption>{html.escape(repr(self))} {html.escape(self.description)}</caption>{rows}</table>"

    @property
    def identity(self) -> str:
        """What its recorded rounds belong to."""
        return ""

    @property
    def ranking(self) -> tuple[Metric, str]:
        """What its cells are ranked by, and whether the ``min`` or the ``max`` is best."""
        return Metric("relative_error"), "min"

    @property
    def searched(self) -> tuple[Domain, ...]:
        """The fields that it searches."""
        return ()

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The values of the other fields of a search, as far as the file gives them."""
        return {}

    def replicates_of(self, cell_id: str) -> Collection[int]:
        """The numbers of the replicates requested of a cell."""
        return self.asked.get(cell_id, range(self.replicates))

    def listed(self) -> tuple[Cell, ...]:
        """Its cells, of a sweep whose file decides them; SweepError for others."""
        if self.chooses:
            raise SweepError(f"sweep {self.name!r} chooses its runs from stored results; run it with 'flatdist sweep'")
        return self.cells

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep only the rows this sweep requested: all rows of its cells, where it lists them."""
        if not self.asks_replicates:
            return frame
        keys = zip(frame["cell_id"], frame["replicate"], strict=True)
        own = [row for row, (cell, r) in enumerate(keys) if int(r) in self.replicates_of(str(cell))]
        return frame.iloc[own].reset_index(drop=True)

    def check(self, without_ray: str | None) -> None:
        """Reject what cannot run here; ``without_ray`` says in words what asked for a run without Ray."""

    def recorded(self, store: Store) -> Sweep:
        """The sweep with the cells and replicates that a store has recorded for it."""
        return self

    def expected(self, store: Store) -> Sweep:
        """A recorded sweep with stand-ins for the runs it is expected to request, for forecasts."""
        return self

    def outlook(self, store: Store) -> Outlook:
        """The progress of a recorded sweep that chooses its runs."""
        return Outlook()

    def record(self, store: Store) -> bool:
        """Record in a store what the sweep's name means from now on; False if its rounds do that as they begin."""
        if not self.chooses:
            ids = [cell.cell_id for cell in self.cells]
            store.sweeps.save(self.name, self.source, ids, self.replicates, changes=self.changes)
        return not self.chooses

    def rounds(self, store: Store, limit: int | None = None) -> Rounds | None:
        """Its rounds, recorded under the whole sweep that the file describes; None for a sweep that lists its cells."""
        return None
