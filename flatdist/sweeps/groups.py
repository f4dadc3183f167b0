"""Groups: sweeps that choose n, or the number of replicates, from what the store holds; each group separately."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELDS, Cell
from flatdist.sweeps.rounds import Request, Round, RoundLog, recorded_rounds, rounds_of
from flatdist.sweeps.rules import Known, Plain, Rule, Run, Span, UntilInterval, half_width
from flatdist.sweeps.sweep import Outlook, Rounds, Sweep
from flatdist.threshold.recovery import recovered

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.store.documents import SweepRecord

DIGITS = 12
IDENTITY = "groups"
UNUSED = 10**9  # numbers that no replicate has
STAND_INS = 4  # different n at which a group's runs to come are forecast
Key = tuple[str, int]  # cell id, replicate


@dataclass(frozen=True)
class Group:
    """Cells that differ only in n."""

    rule: Rule  # chooses their runs
    span: Span  # the allowed n
    fields: Mapping[str, Any]  # what the cells have in common, as JSON; a field that depends on n by its expression
    at: Callable[[int], Cell] = field(repr=False, compare=False)
    _cells: dict[int, Cell] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cell(self, n: int) -> Cell:
        """The cell with n measurements."""
        if n not in self._cells:
            self._cells[n] = self.at(n)
        return self._cells[n]

    @cached_property
    def key(self) -> str:
        """Identity of the question that recorded runs belong to: the fields, the range and the definition of success.

        A larger budget, a tighter precision or more replicates continue from the existing runs. So do files before a
        field: at its default it is left out, as it is from a cell's identity.
        """
        is_new = {name: field.metadata["added_later"] and (None, field.default) for name, field in FIELDS.items()}
        fields = {name: value for name, value in self.fields.items() if not is_new[name] or value not in is_new[name]}
        content = [fields, self.cell(self.span.values[0]).numerics, list(self.rule.identity(self.span))]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Groups(Sweep):
    """The groups of a sweep; its plain cells are groups of one cell each.

    What one group requests depends only on its own results. So recorded runs belong to the group they name, whatever
    other groups the sweep has gained or lost.
    """

    groups: tuple[Group, ...]
    chooses = True
    asks_replicates = True

    @property
    def identity(self) -> str:
        """The same for all: recorded requests name their group."""
        return IDENTITY

    @cached_property
    def by_key(self) -> Mapping[str, Group]:
        """The groups by their identity."""
        return {group.key: group for group in self.groups}

    @property
    def choosing(self) -> tuple[Group, ...]:
        """The groups that choose something."""
        return tuple(group for group in self.groups if group.rule.chooses)

    def current(self, rounds: Sequence[Round]) -> list[Round]:
        """Recorded rounds without requests that this sweep no longer makes."""
        kept = []
        for one in rounds:
            requests = [wanted for request in one.requests if (wanted := self._wanted(request)) is not None]
            if requests:
                kept.append(Round(tuple(requests)))
        return kept

    def merged(self, recorded: Sequence[Round], rounds: Sequence[Round], part: Groups) -> list[Round]:
        """The record after a part of the sweep, which requests what the whole would, has run some rounds.

        They replace the record of the part's groups; groups that only the part has are dropped.
        """
        others = dataclasses.replace(self, groups=tuple(g for g in self.groups if g.key not in part.by_key))
        return [*others.current(recorded), *self.current(rounds)]

    def _wanted(self, request: Request) -> Request | None:
        """The part of a recorded request that the sweep still makes."""
        group = self.by_key.get(str(request.note.get("group")))
        if group is None:
            return None
        if not isinstance(group.rule, Plain) or request.replicates[-1] < group.rule.replicates:
            return request
        fewer = tuple(r for r in request.replicates if r < group.rule.replicates)
        return dataclasses.replace(request, replicates=fewer) if fewer else None

    def recorded(self, store: Store) -> Groups:
        """The sweep with the cells that it lists and the runs of its recorded rounds."""
        listed = (group for group in self.groups if isinstance(group.rule, Plain | UntilInterval))
        cells = {cell.cell_id: cell for group in listed for cell in map(group.cell, group.span.values)}
        rounds = self.current(recorded_rounds(store, self.name, IDENTITY))
        asked = {cell_id: set(range(self.replicates)) for cell_id in cells}
        return self._requesting(cells, asked, [request for one in rounds for request in one.requests])

    def expected(self, store: Store) -> Groups:
        """With stand-ins for the n that will be chosen."""
        cells = {cell.cell_id: cell for cell in self.cells}
        asked = {cell_id: set(self.replicates_of(cell_id)) for cell_id in cells}
        return self._requesting(cells, asked, [one for state in self.states(store) for one in state.stand_ins()])

    def _requesting(self, cells: dict[str, Cell], asked: dict[str, set[int]], more: Iterable[Request]) -> Groups:
        """The sweep with some cells, their replicates, and more requests."""
        for request in more:
            cells.setdefault(request.cell.cell_id, request.cell)
            asked.setdefault(request.cell.cell_id, set()).update(request.replicates)
        usual = set(range(self.replicates))
        own = {cell_id: frozenset(numbers) for cell_id, numbers in asked.items() if numbers != usual}
        return dataclasses.replace(self, cells=tuple(cells.values()), asked=own)

    def states(self, store: Store) -> list[GroupState]:
        """The progress of each choosing group, from the store; unfinished runs count as if they had failed."""
        rounds = self.current(recorded_rounds(store, self.name, IDENTITY))
        return GroupStrategy(self.choosing).states(rounds, store)

    def outlook(self, store: Store) -> Outlook:
        """How many groups are finished, and what the others may still request."""
        states = self.states(store)
        widths = [state.width for state in states if not state.is_finished]
        counts: dict[str, Any] = {
            "groups": len(states),
            "finished": sum(state.is_finished for state in states),
            "asked": sum(len(state.known.asked) for state in states),
            "expected": sum(state.left[0] for state in states),
            "at_most": sum(state.left[1] for state in states),
            "widest": max((width for width in widths if width is not None), default=None),
        }
        text = f"groups: {self.name}: {counts['finished']:,} of {counts['groups']:,} finished"
        text += f", {counts['asked']:,} runs requested so far"
        if counts["widest"] is not None:
            text += f", widest interval +-{counts['widest']:.1%}"
        stand_ins = "at stand-ins for the n that will be chosen"
        if counts["at_most"] > counts["expected"]:
            text += f"; about {counts['expected']:,} more are expected, {stand_ins}, at most {counts['at_most']:,}"
        elif counts["at_most"]:
            text += f"; the other {counts['at_most']:,} are forecast {stand_ins}"
        beyond = []
        for state in states:
            (expected, most), values = state.left, state.group.span.values
            if most > expected:
                beyond.append((state.group.cell(values[len(values) // 2]), most - expected))
        counts["groups finished"] = f"{counts['finished']:,} of {counts['groups']:,}"
        may_ask = counts["finished"] < counts["groups"]
        return Outlook(text, counts, may_ask, counts["expected"], beyond, ("groups finished",))

    def rounds(self, store: Store, limit: int | None = None) -> Rounds:
        """Until no group asks for more; those of a part are recorded for the groups that the whole sweep has."""
        whole = self.whole() if self.whole is not None else self
        every = whole if isinstance(whole, Groups) else dataclasses.replace(self, groups=())
        own = every.by_key.keys() & self.by_key.keys()
        merge = None if every.by_key == self.by_key else lambda old, new: every.merged(old, new, self)
        log = RoundLog(store, self.name, self.source, None, IDENTITY, keep=bool(own), current=self.current, merge=merge)
        strategy = GroupStrategy(self.groups)
        note = ""
        if len(own) < len(self.by_key):
            changed = f"{len(self.by_key) - len(own):,} of {len(self.by_key):,} groups"
            note = (
                f"{self.name}: --set or --where changes {changed} (another range of n is another group); "
                "their rows are stored, their rounds are not recorded"
            )

        def outcome() -> str:
            states = strategy.states(log.rounds, store)
            choosing = [state for state in states if state.group.rule.chooses]
            finished = [state for state in choosing if not state.next_runs()]
            runs = sum(len(state.known.success) for state in states)
            text = f"{self.name}: {len(finished):,} of {len(choosing):,} groups finished with {runs:,} runs"
            spent = sum(state.group.rule.budget_spent(state.group.span, state.known) for state in finished)
            return text + (f"; {spent:,} of them spent their budget before reaching the precision" if spent else "")

        return Rounds(strategy, log, strategy.describe, outcome, None, note, limit)


@dataclass(frozen=True)
class GroupState:
    """The progress of one group."""

    group: Group
    known: Known  # its runs

    @cached_property
    def left(self) -> tuple[int, int]:
        """How many more runs are expected, and how many there can be."""
        return self.group.rule.left(self.group.span, self.known)

    @property
    def is_finished(self) -> bool:
        """Whether it requests nothing more."""
        return self.left[1] == 0

    @property
    def width(self) -> float | None:
        """Half-width of n50's interval on log n; None without results, or where n50 is not searched."""
        wanted = self.known.success and self.group.rule.precision is not None
        return half_width(self.group.span, self.known) if wanted else None

    def next_runs(self) -> list[Run]:
        """What it requests next."""
        return self.group.rule.ask(self.group.span, self.known)

    def stand_ins(self) -> list[Request]:
        """Requests of the expected runs, at a few n across the range, with numbers that no replicate has."""
        values = self.group.span.values
        left = self.left[0]
        if isinstance(self.group.rule, UntilInterval):  # the first ones of each cell are known in advance
            left -= len(Plain(self.group.rule.least).ask(self.group.span, self.known))
        parts = max(0, min(STAND_INS, left, len(values)))
        requests = []
        for part in range(parts):
            n = values[(2 * part + 1) * len(values) // (2 * parts)]
            count = left * (part + 1) // parts - left * part // parts
            requests.append(Request(self.group.cell(n), tuple(range(UNUSED, UNUSED + count))))
        return requests


class GroupStrategy:
    """Requests the next runs of every unfinished group."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = {group.key: group for group in groups}
        self._rows: dict[Key, tuple[float | None, str | None]] = {}  # read once: a row never changes
        self._open: list[float | None] = []  # of groups with further runs: the half-width of their intervals

    def states(self, rounds: Sequence[Round], store: Store) -> list[GroupState]:
        """The progress of each group, from the rounds and the stored rows."""
        asked: dict[str, list[tuple[Run, Key]]] = {key: [] for key in self._groups}
        for request in (request for one in rounds for request in one.requests):
            if (runs := asked.get(str(request.note.get("group")))) is not None:
                cell = request.cell
                runs += [(Run(cell.n, r), (cell.cell_id, r)) for r in request.replicates]
        ids = {key[0] for runs in asked.values() for _, key in runs if key not in self._rows}
        if ids:
            frame = store.trials(sorted(ids), columns=["cell_id", "replicate", "relative_error", "status"])
            errors = frame["relative_error"].astype(float).tolist()
            statuses = frame["status"].astype(object).where(frame["status"].notna(), None).tolist()
            found = zip(frame["cell_id"].tolist(), frame["replicate"].tolist(), strict=True)
            self._rows |= dict(
                zip(((str(i), int(r)) for i, r in found), zip(errors, statuses, strict=True), strict=True)
            )
        states = []
        for name, group in self._groups.items():
            known = [(run, self._rows[key]) for run, key in asked[name] if key in self._rows]
            tolerance = group.rule.tolerance
            success = {run: tolerance is None or recovered(*row, tolerance) for run, row in known}
            states.append(GroupState(group, Known([run for run, _ in asked[name]], success)))
        return states

    def next_round(self, rounds: Sequence[Round], store: Store) -> list[Request]:
        """The next runs of all groups."""
        requests: list[Request] = []
        self._open = []
        for state in self.states(rounds, store):
            replicates: dict[int, list[int]] = {}
            for run in state.next_runs():
                replicates.setdefault(run.n, []).append(run.replicate)
            note = {"group": state.group.key}
            requests += [Request(state.group.cell(n), tuple(sorted(r)), note) for n, r in sorted(replicates.items())]
            if replicates and state.group.rule.chooses:
                self._open.append(state.width)
        return requests

    def describe(self, requests: Sequence[Request]) -> str:
        """The latest round, as text."""
        text = f"{sum(len(request.replicates) for request in requests):,} runs"
        if total := sum(group.rule.chooses for group in self._groups.values()):
            text += f", {total - len(self._open):,} of {total:,} groups finished"
        widths = [width for width in self._open if width is not None]
        return text + (f", widest interval +-{max(widths):.1%}" if widths else "")


def recorded_replicates(record: SweepRecord) -> Mapping[str, set[int]] | None:
    """Configuration id -> numbers of the replicates that a recorded grouped sweep requested; None for other sweeps."""
    rounds = rounds_of(record, IDENTITY)
    if rounds is None:
        return None
    wanted: dict[str, set[int]] = {}
    for one in rounds:
        for request in one.requests:
            wanted.setdefault(request.cell.configuration_id, set()).update(request.replicates)
    return wanted
