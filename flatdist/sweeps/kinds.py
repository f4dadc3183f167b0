"""The kinds of sweeps behind one protocol: listed in a file, searched, or grouped by n.

Commands ask a :class:`~flatdist.sweeps.Sweep` what it has asked for, what it is expected to ask for, how far it is, and
for its rounds; which kind it is, they need not know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flatdist.sweeps.adaptive.recorded import count_groups, group_states, with_recorded_runs
from flatdist.sweeps.adaptive.recorded import with_stand_ins as with_expected_runs
from flatdist.sweeps.adaptive.sweep import AdaptiveSweep, GroupStrategy
from flatdist.sweeps.search.early_stopping import EarlyStopping, RungValues
from flatdist.sweeps.search.metric import Metric, rank
from flatdist.sweeps.search.recorded import with_recorded_cells
from flatdist.sweeps.search.recorded import with_stand_ins as with_expected_cells
from flatdist.sweeps.search.rounds import Request, RoundLog, Strategy
from flatdist.sweeps.search.spec import Search
from flatdist.sweeps.search.strategy import SearchStrategy

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.store import Store
    from flatdist.sweeps.sweep import Sweep


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
    """What running a sweep round by round needs.

    Attributes:
        strategy: chooses the next round from the recorded ones and the store.
        log: the rounds so far, recorded as they begin.
        describe: a new round in words.
        outcome: the sweep in words once no round is left to run, or it was stopped.
        halving: early stopping; None for none.
        note: what the user should know before the rounds begin.
        limit: run only the first so many cells; None for all.
    """

    strategy: Strategy
    log: RoundLog
    describe: Callable[[Sequence[Request]], str]
    outcome: Callable[[], str]
    halving: Halving | None = None
    note: str = ""
    limit: int | None = None


@dataclass(frozen=True)
class Outlook:
    """How far a sweep is with choosing its runs; nothing to say of one that lists its cells.

    Attributes:
        text: one line for people; empty for none.
        counts: for programs.
        may_ask: whether more rounds may follow.
        expected: runs that are expected to follow.
        beyond: (typical cell, number) of the runs that may follow beyond the expected ones.
        headings: of the columns that tables of sweeps show for it beside the usual ones.
    """

    text: str = ""
    counts: Mapping[str, Any] = field(default_factory=dict)
    may_ask: bool = False
    expected: int = 0
    beyond: Sequence[tuple[Cell, int]] = ()
    headings: Sequence[str] = ()


class Kind(Protocol):
    """How a sweep comes by its cells and replicates."""

    @property
    def ranking(self) -> tuple[Metric, str]:
        """What its cells are ranked by, and whether the ``min`` or the ``max`` is best."""

    def recorded(self, sweep: Sweep, store: Store) -> Sweep:
        """The sweep with the cells and replicates that it has asked for so far."""

    def expected(self, sweep: Sweep, store: Store) -> Sweep:
        """A recorded sweep with stand-ins for what it is expected to ask for: what a forecast needs."""

    def outlook(self, sweep: Sweep, store: Store) -> Outlook:
        """How far a recorded sweep is."""

    def rounds(self, sweep: Sweep, whole: Sweep, store: Store, limit: int | None) -> Rounds | None:
        """Its rounds, recorded as those of the whole sweep that the file describes; None for a sweep without any."""


class Listed:
    """The file lists the cells."""

    ranking = (Metric("relative_error"), "min")

    def recorded(self, sweep: Sweep, store: Store) -> Sweep:
        """The sweep itself."""
        return sweep

    expected = recorded

    def outlook(self, sweep: Sweep, store: Store) -> Outlook:
        """Nothing to say."""
        return Outlook()

    def rounds(self, sweep: Sweep, whole: Sweep, store: Store, limit: int | None) -> Rounds | None:
        """None: everything is known from the start."""
        return None


@dataclass(frozen=True)
class Searched:
    """A search suggests the cells."""

    search: Search

    @property
    def ranking(self) -> tuple[Metric, str]:
        """What it searches for."""
        return self.search.metric, self.search.mode

    def recorded(self, sweep: Sweep, store: Store) -> Sweep:
        """The sweep with the cells suggested so far."""
        return with_recorded_cells(sweep, store)

    def expected(self, sweep: Sweep, store: Store) -> Sweep:
        """With random draws for the suggestions to come."""
        return with_expected_cells(sweep)

    def outlook(self, sweep: Sweep, store: Store) -> Outlook:
        """How much of the budget is spent."""
        search = self.search
        left = max(0, search.budget - len(sweep.cells))
        text = f"search: {sweep.name}: {len(sweep.cells)} of {search.budget} cells suggested so far"
        if sweep.stopped:
            text += f", {len(sweep.stopped)} of them stopped early"
        if left:
            text += f"; the other {left} stand for what {search.searcher} will suggest, {search.round_size} a round"
        if search.early_stopping is not None:
            text += "; early stopping makes it shorter"
        return Outlook(text, may_ask=left > 0, headings=("stopped",))

    def rounds(self, sweep: Sweep, whole: Sweep, store: Store, limit: int | None) -> Rounds:
        """Until the budget is spent; another search than the file's, as ``--where`` makes it, is not recorded."""
        search = self.search
        if limit is not None:
            search = dataclasses.replace(search, budget=min(search.budget, limit))
        own = whole.search is not None and whole.search.identity == search.identity
        log = RoundLog(store, sweep.name, sweep.source, sweep.replicates, search.identity, keep=own)
        halving = None
        if search.early_stopping is not None:
            halving = Halving(search.early_stopping, RungValues(store, search.metric, search.worst), search.mode)
        return Rounds(
            SearchStrategy(search, sweep.replicates),
            log,
            lambda requests: f"{len(requests)} cells",
            lambda: self._best(log, store),
            halving,
            "" if own else f"{sweep.name}: this is another search than the file's; its rounds are not recorded",
        )

    def _best(self, log: RoundLog, store: Store) -> str:
        search = self.search
        cells = {request.cell.cell_id: request.cell for request in log.requests()}
        ranked = rank(store, list(cells), search.metric, highest=search.mode == "max") if cells else []
        if not ranked:
            return ""
        cell_id, middle, low, high, _ = ranked[0]
        values = ((domain.field, getattr(cells[cell_id], domain.field)) for domain in search.domains)
        at = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values
        )
        found = f"{middle:.4g} (95 % interval {low:.4g} to {high:.4g})"
        return f"best so far: median {search.metric.text} {found} at {at}; 'flatdist best' ranks all"


@dataclass(frozen=True)
class Grouped:
    """Groups of cells that differ in n ask for runs: boundaries, first successes, replicates until an interval."""

    groups: AdaptiveSweep
    ranking = Listed.ranking

    def recorded(self, sweep: Sweep, store: Store) -> Sweep:
        """The sweep with the cells that it lists and the runs of its recorded rounds."""
        return with_recorded_runs(sweep, store)

    def expected(self, sweep: Sweep, store: Store) -> Sweep:
        """With stand-ins for the n that will be chosen."""
        return with_expected_runs(sweep, group_states(sweep, store))

    def outlook(self, sweep: Sweep, store: Store) -> Outlook:
        """How many groups are finished, and what the others may still ask for."""
        states = group_states(sweep, store)
        counts = count_groups(states)
        text = f"groups: {sweep.name}: {counts['finished']:,} of {counts['groups']:,} finished"
        text += f", {counts['asked']:,} runs requested so far"
        if counts["widest"] is not None:
            text += f", widest interval +-{counts['widest']:.1%}"
        stand_ins = "at stand-ins for the n that will be chosen"
        if counts["at_most"] > counts["expected"]:
            text += f"; about {counts['expected']:,} more are expected, {stand_ins}, at most {counts['at_most']:,}"
        elif counts["at_most"]:
            text += f"; the other {counts['at_most']:,} are forecast {stand_ins}"
        beyond = [
            (state.group.cell(state.group.span.values[len(state.group.span.values) // 2]), state.most - state.expected)
            for state in states
            if state.most > state.expected
        ]
        counts["groups finished"] = f"{counts['finished']:,} of {counts['groups']:,}"
        may_ask = counts["finished"] < counts["groups"]
        return Outlook(text, counts, may_ask, counts["expected"], beyond, ("groups finished",))

    def rounds(self, sweep: Sweep, whole: Sweep, store: Store, limit: int | None) -> Rounds:
        """Until no group asks for more; those of a part are recorded for the groups that the whole sweep has."""
        mine = self.groups
        every = whole.adaptive if whole.adaptive is not None else AdaptiveSweep(())
        own = every.by_key.keys() & mine.by_key.keys()
        log = RoundLog(
            store,
            sweep.name,
            sweep.source,
            None,
            mine.identity,
            keep=bool(own),
            current=mine.current,
            merge=None if every.by_key == mine.by_key else lambda old, new: every.merged(old, new, mine),
        )
        strategy = GroupStrategy(mine)
        note = ""
        if len(own) < len(mine.by_key):
            changed = f"{len(mine.by_key) - len(own):,} of {len(mine.by_key):,} groups"
            note = (
                f"{sweep.name}: --set or --where changes {changed} (another range of n is another group); "
                "their rows are stored, their rounds are not recorded"
            )

        def outcome() -> str:
            known = strategy.known(log.rounds, store)
            finished = [g for g in mine.choosing if not g.rule.ask(g.span, known[g.key])]
            runs = sum(len(one.success) for one in known.values())
            text = f"{sweep.name}: {len(finished):,} of {len(mine.choosing):,} groups finished with {runs:,} runs"
            spent = sum(group.rule.is_spent(group.span, known[group.key]) for group in finished)
            return text + (f"; {spent:,} of them spent their runs before reaching the precision" if spent else "")

        return Rounds(strategy, log, strategy.describe, outcome, None, note, limit)
