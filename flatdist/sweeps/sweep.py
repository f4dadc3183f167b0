"""A sweep, and the protocol by which it gets its cells: a list in a file, a search, or groups of cells.

Commands ask a :class:`Sweep` for the cells requested so far, those still expected, its progress and its rounds,
whatever its kind.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELDS, Cell
from flatdist.errors import SweepError, counted
from flatdist.sweeps.early_stopping import EarlyStopping, RungValues
from flatdist.sweeps.metric import Metric
from flatdist.sweeps.rounds import Request, RoundLog, Stopped, Strategy
from flatdist.sweeps.searchers import Domain

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.store import Store


@dataclass(frozen=True)
class Halving:
    """How the cells of a round are stopped early.

    Attributes:
        rule: the rungs, and which cells continue.
        values: of cells at rungs.
        mode: ``min`` or ``max``.
    """

    rule: EarlyStopping
    values: RungValues
    mode: str


@dataclass(frozen=True)
class Rounds:
    """Everything needed to run a sweep round by round.

    Attributes:
        strategy: chooses the next round from the recorded ones and the store.
        log: the rounds so far, recorded as they begin.
        describe: a new round as text.
        outcome: the sweep as text, once no round is left or it was stopped.
        halving: early stopping; None for none.
        note: a remark for the user before the rounds begin.
        limit: run only this many cells; None for all.
        scheduled: whether Ray Tune's scheduler decides in place of rounds; the strategy is a search then.
    """

    strategy: Strategy
    log: RoundLog
    describe: Callable[[Sequence[Request]], str]
    outcome: Callable[[], str]
    halving: Halving | None = None
    note: str = ""
    limit: int | None = None
    scheduled: bool = False


@dataclass(frozen=True)
class Outlook:
    """The progress of a sweep that chooses its runs; empty for one that lists its cells.

    Attributes:
        text: one line for people; empty for none.
        counts: for programs.
        may_ask: whether more rounds may follow.
        expected: runs that are expected to follow.
        beyond: (typical cell, number) of the runs that may follow beyond the expected ones.
        headings: of the extra columns that tables of sweeps show for it.
    """

    text: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)
    may_ask: bool = False
    expected: int = 0
    beyond: Sequence[tuple[Cell, int]] = ()
    headings: Sequence[str] = ()


class Kind:
    """How a sweep gets its cells and replicates; for this base class the file lists them.

    Attributes:
        identity: what its recorded rounds belong to.
        chooses: whether it chooses cells or replicates itself, round after round.
        asks_replicates: whether it requests single replicates, so the store may hold others of its cells.
        fixed: values that all its cells share, as far as the file fixes them for a search.
        domains: the fields it searches.
        ranking: what its cells are ranked by, and whether the ``min`` or the ``max`` is best.
    """

    identity: str = ""
    chooses = False
    asks_replicates = False
    fixed: Mapping[str, Any] = {}
    domains: tuple[Domain, ...] = ()
    ranking: tuple[Metric, str] = (Metric("relative_error"), "min")

    def check(self, without_ray: str | None) -> None:
        """Check that the sweep can run here.

        Args:
            without_ray: what asked for a run without Ray, in words; None for a run on Ray.

        Raises:
            LaunchError: a package that it needs is missing.
            SweepError: it needs Ray, and the run has none.
        """

    def recorded(self, sweep: Sweep, store: Store) -> Sweep:
        """The sweep with the cells and replicates requested so far."""
        return sweep

    def expected(self, sweep: Sweep, store: Store) -> Sweep:
        """A recorded sweep with stand-ins for the runs it is expected to request, for forecasts."""
        return sweep

    def outlook(self, sweep: Sweep, store: Store) -> Outlook:
        """How far a recorded sweep is."""
        return Outlook()

    def record(self, sweep: Sweep, store: Store) -> bool:
        """Record in a store what the sweep's name means; False if its rounds do that as they begin."""
        ids = [cell.cell_id for cell in sweep.cells]
        store.sweeps.save(sweep.name, sweep.source, ids, sweep.replicates, changes=sweep.changes)
        return True

    def rounds(self, sweep: Sweep, store: Store, limit: int | None) -> Rounds | None:
        """Its rounds, recorded under the whole sweep that the file describes; None if it has none."""
        return None


_SHOWN = 12  # values of a field in a notebook


@dataclass(frozen=True, repr=False)
class Sweep:
    """A sweep, its expressions resolved.

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
        kind: how it gets its cells.
        stopped: cell id -> where a search stopped it early.
        asked: cell id -> numbers of its replicates, if they are not the first ``replicates``.
        changes: field -> value that ``--set`` gives every cell; the name says so where the sweep lists its cells.
        whole: makes the sweep that the file describes, without ``--set`` and ``--where``.
    """

    name: str
    description: str
    replicates: int
    cells: tuple[Cell, ...]
    left_out: int
    source: str
    path: Path | None
    repeated: int = 0
    kind: Kind = field(default_factory=Kind, compare=False)
    stopped: Mapping[str, Stopped] = field(default_factory=dict, compare=False)
    asked: Mapping[str, Collection[int]] = field(default_factory=dict, compare=False)
    whole: Callable[[], Sweep] | None = field(default=None, compare=False, repr=False)
    changes: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __repr__(self) -> str:
        return f"Sweep({self.name!r}, {counted(len(self.cells), 'cell')}, {counted(self.replicates, 'replicate')} each)"

    def _repr_html_(self) -> str:
        rows = ""
        for name, field_ in FIELDS.items():
            word = getattr(field_.metadata["kind"], "word", None)
            values = [*dict.fromkeys(getattr(cell, name) for cell in self.cells)]
            if len(values) > 1:
                shown = [str(word if value is None else value) for value in values[:_SHOWN]]
                shown += ["..."] if len(values) > _SHOWN else []
                rows += f"<tr><th>{name}</th><td>{html.escape(', '.join(shown))}</td></tr>"
        return f"<table><caption>{html.escape(repr(self))} {html.escape(self.description)}</caption>{rows}</table>"

    def record(self, store: Store) -> bool:
        """Record in a store what the sweep's name means from now on; False if its rounds do that as they begin."""
        return self.kind.record(self, store)

    def replicates_of(self, cell_id: str) -> Collection[int]:
        """The numbers of the replicates requested of a cell."""
        return self.asked.get(cell_id, range(self.replicates))

    @property
    def asks_replicates(self) -> bool:
        """Whether it requests single replicates, so the store may hold others of its cells."""
        return self.kind.asks_replicates

    def listed(self) -> tuple[Cell, ...]:
        """Its cells, of a sweep whose file decides them.

        Raises:
            SweepError: it chooses cells or replicates itself, round after round.
        """
        if self.kind.chooses:
            raise SweepError(f"sweep {self.name!r} chooses its runs from stored results; run it with 'flatdist sweep'")
        return self.cells

    def rows(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Keep only the rows this sweep requested: all rows of its cells, where it lists them."""
        if not self.asks_replicates:
            return frame
        keys = zip(frame["cell_id"], frame["replicate"], strict=True)
        own = [row for row, (cell, r) in enumerate(keys) if int(r) in self.replicates_of(str(cell))]
        return frame.iloc[own].reset_index(drop=True)

    def recorded(self, store: Store) -> Sweep:
        """The sweep with the cells and replicates that a store has recorded for it."""
        return self.kind.recorded(self, store)

    def expected(self, store: Store) -> Sweep:
        """A recorded sweep with stand-ins for the runs it is expected to request."""
        return self.kind.expected(self, store)

    def outlook(self, store: Store) -> Outlook:
        """The progress of a recorded sweep that chooses its runs."""
        return self.kind.outlook(self, store)

    def rounds(self, store: Store, limit: int | None = None) -> Rounds | None:
        """Its rounds, to be run one after the other; None for a sweep that lists its cells."""
        return self.kind.rounds(self, store, limit)
