"""An adaptive sweep with the runs that the store says it has asked for, and with those that are expected to follow."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.sweeps.adaptive.choosing import UntilInterval
from flatdist.sweeps.adaptive.fitted import half_width
from flatdist.sweeps.adaptive.group import Group
from flatdist.sweeps.adaptive.rules import Known, Plain
from flatdist.sweeps.adaptive.sweep import IDENTITY, AdaptiveSweep, GroupStrategy
from flatdist.sweeps.search.rounds import Request, Round, recorded_rounds, rounds_of

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.store.documents import SweepRecord
    from flatdist.sweeps import Sweep

UNUSED = 10**9  # replicates from here on are nobody's
STAND_INS = 4  # different n at which a group's runs to come are forecast


def with_recorded_runs(sweep: Sweep, store: Store) -> Sweep:
    """The sweep with the cells that it lists and the runs of its recorded rounds."""
    assert sweep.adaptive is not None
    rounds = current_rounds(sweep, store)
    requests = [request for one in rounds for request in one.requests]
    return with_requests(sweep, sweep.adaptive.listed, requests)


def current_rounds(sweep: Sweep, store: Store) -> list[Round]:
    """The recorded rounds, as far as the sweep still asks for them."""
    assert sweep.adaptive is not None
    return sweep.adaptive.current(recorded_rounds(store, sweep.name, sweep.adaptive.identity))


def with_requests(sweep: Sweep, plain: Iterable[Cell], requests: Iterable[Request]) -> Sweep:
    """The sweep with some cells of all its replicates, and some runs of others."""
    cells = {cell.cell_id: cell for cell in plain}
    asked: dict[str, set[int]] = {cell_id: set(range(sweep.replicates)) for cell_id in cells}
    for request in requests:
        cells.setdefault(request.cell.cell_id, request.cell)
        asked.setdefault(request.cell.cell_id, set()).update(request.replicates)
    usual = set(range(sweep.replicates))
    own = {cell_id: frozenset(numbers) for cell_id, numbers in asked.items() if numbers != usual}
    return dataclasses.replace(sweep, cells=tuple(cells.values()), asked=own)


@dataclass(frozen=True)
class GroupState:
    """How far one group is.

    Attributes:
        group: it.
        known: its runs.
        expected: how many more are expected.
        most: how many more there can be.
    """

    group: Group
    known: Known
    expected: int
    most: int

    @property
    def is_finished(self) -> bool:
        """Whether it asks for nothing more."""
        return self.most == 0

    @property
    def width(self) -> float:
        """Half-width of n50's interval on log n."""
        return half_width(self.group.span, self.known)

    def stand_ins(self) -> list[Request]:
        """Requests of the expected runs, at a few n across the range, with numbers that no replicate has."""
        values = self.group.span.values
        left = self.expected
        if isinstance(self.group.rule, UntilInterval):  # the first ones of each cell are no secret
            left -= len(Plain(self.group.rule.least).ask(self.group.span, self.known))
        parts = max(0, min(STAND_INS, left, len(values)))
        requests = []
        for part in range(parts):
            n = values[(2 * part + 1) * len(values) // (2 * parts)]
            count = left * (part + 1) // parts - left * part // parts
            requests.append(Request(self.group.cell(n), tuple(range(UNUSED, UNUSED + count))))
        return requests


def group_states(sweep: Sweep, store: Store) -> list[GroupState]:
    """How far each choosing group is, from the store alone; runs that are yet to end count as if they had failed."""
    assert sweep.adaptive is not None
    strategy = GroupStrategy(AdaptiveSweep(sweep.adaptive.choosing))
    known = strategy.known(current_rounds(sweep, store), store)
    states = []
    for key, group in strategy.sweep.by_key.items():
        states.append(GroupState(group, known[key], *group.rule.left(group.span, known[key])))
    return states


def with_stand_ins(sweep: Sweep, states: Sequence[GroupState]) -> Sweep:
    """A recorded sweep for a forecast: with stand-ins for the runs that are expected to follow."""
    requests = [Request(cell, tuple(sorted(sweep.replicates_of(cell.cell_id)))) for cell in sweep.cells]
    later = [request for state in states for request in state.stand_ins()]
    return with_requests(sweep, (), [*requests, *later])


def count_groups(states: Sequence[GroupState]) -> dict[str, Any]:
    """How many groups there are and are finished, their runs, and the widest interval of the others."""
    looking = [state for state in states if state.known.success and state.group.rule.precision is not None]
    open_widths = [state.width for state in looking if not state.is_finished]
    return {
        "groups": len(states),
        "finished": sum(state.is_finished for state in states),
        "asked": sum(len(state.known.asked) for state in states),
        "expected": sum(state.expected for state in states),
        "at_most": sum(state.most for state in states),
        "widest": max(open_widths, default=None),
    }


def recorded_replicates(record: SweepRecord) -> Mapping[str, set[int]] | None:
    """Configuration id -> numbers of the replicates that a recorded adaptive sweep asked for; None of other sweeps.

    Raises:
        StoreError: the record is damaged.
    """
    rounds = rounds_of(record, IDENTITY)
    if rounds is None:
        return None
    wanted: dict[str, set[int]] = {}
    for one in rounds:
        for request in one.requests:
            wanted.setdefault(request.cell.configuration_id, set()).update(request.replicates)
    return wanted
