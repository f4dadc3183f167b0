"""Groups: sweeps that choose n, or the number of replicates, from what the store holds; each group separately."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELDS, Cell
from flatdist.sweeps.rounds import Request, Round, RoundLog, recorded_rounds, rounds_of
from flatdist.sweeps.rules import Known, Plain, Rule, Run, Span, UntilInterval, half_width
from flatdist.sweeps.sweep import Kind, Outlook, Rounds, Sweep
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
    """Cells that differ only in n.

    Attributes:
        rule: chooses their runs.
        span: the allowed n.
        fields: what the cells have in common, as JSON; a field that depends on n by its expression.
        at: n -> the cell.
    """

    rule: Rule
    span: Span
    fields: Mapping[str, Any]
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
        fields = {name: value for name, value in self.fields.items() if not _is_new(name, value)}
        content = [fields, self.cell(self.span.values[0]).numerics, list(self.rule.identity(self.span))]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:DIGITS]


def _is_new(name: str, value: Any) -> bool:
    """Whether a field was declared later and has its default here."""
    return bool(FIELDS[name].metadata["added_later"]) and value in (None, FIELDS[name].default)


@dataclass(frozen=True)
class Groups(Kind):
    """The groups of a sweep; its plain cells are groups of one cell each.

    What one group requests depends only on its own results. So recorded runs belong to the group they name, whatever
    other groups the sweep has gained or lost.
    """

    groups: tuple[Group, ...]
    identity = IDENTITY
    chooses = True
    asks_replicates = True

    @cached_property
    def by_key(self) -> Mapping[str, Group]:
        """The groups by their identity."""
        return {group.key: group for group in self.groups}

    @cached_property
    def choosing(self) -> tuple[Group, ...]:
        """The groups that choose something."""
        return tuple(group for group in self.groups if group.rule.chooses)

    @cached_property
    def listed(self) -> tuple[Cell, ...]:
        """The cells that the file lists: all but those whose n is chosen."""
        fixed = (group for group in self.groups if isinstance(group.rule, Plain | UntilInterval))
        return tuple(group.cell(n) for group in fixed for n in group.span.values)

    def current(self, rounds: Sequence[Round]) -> list[Round]:
        """Recorded rounds without requests that this sweep no longer makes."""
        kept = []
        for one in rounds:
            requests = [wanted for request in one.requests if (wanted := self._wanted(request)) is not None]
            if requests:
                kept.append(Round(tuple(requests)))
        return kept

    def merged(self, recorded: Sequence[Round], rounds: Sequence[Round], part: Groups) -> list[Round]:
        """The record of this sweep after a part of it has run some rounds.

        What one group requests depends only on its own runs, so a part requests what the whole would: its rounds
        replace the record of its groups. Groups that only the part has are dropped.
        """
        others = Groups(tuple(group for group in self.groups if group.key not in part.by_key))
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

    def recorded(self, sweep: Sweep, store: Store) -> Sweep:
        """The sweep with the cells that it lists and the runs of its recorded rounds."""
        rounds = self.current(recorded_rounds(store, sweep.name, IDENTITY))
        return with_requests(sweep, self.listed, [request for one in rounds for request in one.requests])

    def expected(self, sweep: Sweep, store: Store) -> Sweep:
        """With stand-ins for the n that will be chosen."""
        requests = [Request(cell, tuple(sorted(sweep.replicates_of(cell.cell_id)))) for cell in sweep.cells]
        later = [request for state in self.states(sweep, store) for request in state.stand_ins()]
        return with_requests(sweep, (), [*requests, *later])

    def states(self, sweep: Sweep, store: Store) -> list[GroupState]:
        """The progress of each choosing group, from the store; unfinished runs count as if they had failed."""
        strategy = GroupStrategy(Groups(self.choosing))
        known = strategy.known(self.current(recorded_rounds(store, sweep.name, IDENTITY)), store)
        return [
            GroupState(group, known[key], *group.rule.left(group.span, known[key]))
            for key, group in strategy.sweep.by_key.items()
        ]

    def outlook(self, sweep: Sweep, store: Store) -> Outlook:
        """How many groups are finished, and what the others may still request."""
        states = self.states(sweep, store)
        looking = [state for state in states if state.known.success and state.group.rule.precision is not None]
        counts: dict[str, Any] = {
            "groups": len(states),
            "finished": sum(state.is_finished for state in states),
            "asked": sum(len(state.known.asked) for state in states),
            "expected": sum(state.expected for state in states),
            "at_most": sum(state.most for state in states),
            "widest": max((state.width for state in looking if not state.is_finished), default=None),
        }
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

    def record(self, sweep: Sweep, store: Store) -> bool:
        """Recorded round by round."""
        return False

    def rounds(self, sweep: Sweep, store: Store, limit: int | None) -> Rounds:
        """Until no group asks for more; those of a part are recorded for the groups that the whole sweep has."""
        whole = sweep.whole().kind if sweep.whole is not None else self
        every = whole if isinstance(whole, Groups) else Groups(())
        own = every.by_key.keys() & self.by_key.keys()
        log = RoundLog(
            store,
            sweep.name,
            sweep.source,
            None,
            self.identity,
            keep=bool(own),
            current=self.current,
            merge=None if every.by_key == self.by_key else lambda old, new: every.merged(old, new, self),
        )
        strategy = GroupStrategy(self)
        note = ""
        if len(own) < len(self.by_key):
            changed = f"{len(self.by_key) - len(own):,} of {len(self.by_key):,} groups"
            note = (
                f"{sweep.name}: --set or --where changes {changed} (another range of n is another group); "
                "their rows are stored, their rounds are not recorded"
            )

        def outcome() -> str:
            known = strategy.known(log.rounds, store)
            finished = [g for g in self.choosing if not g.rule.ask(g.span, known[g.key])]
            runs = sum(len(one.success) for one in known.values())
            text = f"{sweep.name}: {len(finished):,} of {len(self.choosing):,} groups finished with {runs:,} runs"
            spent = sum(group.rule.budget_spent(group.span, known[group.key]) for group in finished)
            return text + (f"; {spent:,} of them spent their budget before reaching the precision" if spent else "")

        return Rounds(strategy, log, strategy.describe, outcome, None, note, limit)


@dataclass(frozen=True)
class GroupState:
    """The progress of one group.

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
        """Whether it requests nothing more."""
        return self.most == 0

    @property
    def width(self) -> float:
        """Half-width of n50's interval on log n."""
        return half_width(self.group.span, self.known)

    def stand_ins(self) -> list[Request]:
        """Requests of the expected runs, at a few n across the range, with numbers that no replicate has."""
        values = self.group.span.values
        left = self.expected
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

    def __init__(self, sweep: Groups) -> None:
        self.sweep = sweep
        self._rows: dict[Key, tuple[float | None, str | None]] = {}  # read once: a row never changes
        self._open: dict[str, float] = {}  # groups with further runs, and the half-width of their intervals

    def next_round(self, rounds: Sequence[Round], store: Store) -> list[Request]:
        """The next runs of all groups; a function of the rounds and the stored rows."""
        requests: list[Request] = []
        self._open = {}
        known = self.known(rounds, store)
        for key, group in self.sweep.by_key.items():
            runs = group.rule.ask(group.span, known[key])
            requests += requests_of(group, runs)
            if runs and group.rule.precision is not None and known[key].success:
                self._open[key] = half_width(group.span, known[key])
            elif runs and group.rule.chooses:
                self._open[key] = math.nan
        return requests

    def known(self, rounds: Sequence[Round], store: Store) -> dict[str, Known]:
        """What is known of each group, by its key."""
        asked: dict[str, list[tuple[Run, Key]]] = {key: [] for key in self.sweep.by_key}
        for one in rounds:
            for request in one.requests:
                runs = asked.get(str(request.note.get("group")))
                if runs is not None:
                    cell = request.cell
                    runs += [(Run(cell.n, r), (cell.cell_id, r)) for r in request.replicates]
        self._read([key for runs in asked.values() for _, key in runs], store)
        return {name: self._of(self.sweep.by_key[name], runs) for name, runs in asked.items()}

    def describe(self, requests: Sequence[Request]) -> str:
        """The latest round, as text."""
        runs = sum(len(request.replicates) for request in requests)
        text = f"{runs:,} runs"
        total = len(self.sweep.choosing)
        if total:
            text += f", {total - len(self._open):,} of {total:,} groups finished"
        widths = [width for width in self._open.values() if not math.isnan(width)]
        if widths:
            text += f", widest interval +-{max(widths):.1%}"
        return text

    def _of(self, group: Group, runs: Sequence[tuple[Run, Key]]) -> Known:
        tolerance = group.rule.tolerance
        if tolerance is None:
            return Known([run for run, _ in runs], {run: True for run, key in runs if key in self._rows})
        success = {run: recovered(*self._rows[key], tolerance) for run, key in runs if key in self._rows}
        return Known([run for run, _ in runs], success)

    def _read(self, keys: Sequence[Key], store: Store) -> None:
        ids = {cell_id for cell_id, replicate in keys if (cell_id, replicate) not in self._rows}
        if not ids:
            return
        frame = store.trials(sorted(ids), columns=["cell_id", "replicate", "relative_error", "status"])
        errors = frame["relative_error"].astype(float).tolist()
        statuses = frame["status"].astype(object).where(frame["status"].notna(), None).tolist()
        found = zip(frame["cell_id"].tolist(), frame["replicate"].tolist(), strict=True)
        self._rows |= dict(zip(((str(i), int(r)) for i, r in found), zip(errors, statuses, strict=True), strict=True))


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


def requests_of(group: Group, runs: Sequence[Run]) -> list[Request]:
    """A group's runs as requests, one for each n."""
    replicates: dict[int, list[int]] = {}
    for run in runs:
        replicates.setdefault(run.n, []).append(run.replicate)
    note = {"group": group.key}
    return [Request(group.cell(n), tuple(sorted(numbers)), note) for n, numbers in sorted(replicates.items())]


def recorded_replicates(record: SweepRecord) -> Mapping[str, set[int]] | None:
    """Configuration id -> numbers of the replicates that a recorded grouped sweep requested; None for other sweeps.

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
