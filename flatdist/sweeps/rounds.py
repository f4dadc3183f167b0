"""Rounds: what a sweep that chooses its runs has requested so far, as the store records it.

A round is recorded before it runs, so that a killed search resumes with the same cells. Anything that chooses
cells from earlier results can use them: a strategy sees the recorded rounds and the store, and says what to run next.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flatdist.cells.cell import FIELDS, Cell
from flatdist.errors import CellError, StoreError

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.store.documents import SweepRecord

FORMAT = 2
_ATTEMPTS = 5


@dataclass(frozen=True)
class Request:
    """A requested cell and its replicates.

    Attributes:
        cell: the cell.
        replicates: their numbers.
        note: the strategy's note about it, as JSON.
    """

    cell: Cell
    replicates: tuple[int, ...]
    note: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rung:
    """A comparison of a round's cells after some steps.

    Attributes:
        step: at which.
        values: number of the request -> its value.
        stopped: requests that were stopped there.
    """

    step: int
    values: Mapping[int, float]
    stopped: tuple[int, ...]


@dataclass(frozen=True)
class Stopped:
    """Where a cell was stopped early: the rung, in steps, and its value there."""

    step: int
    value: float


@dataclass(frozen=True)
class Round:
    """Cells requested together, and the rungs at which they were compared."""

    requests: tuple[Request, ...]
    rungs: tuple[Rung, ...] = ()

    def stopped(self) -> dict[int, Stopped]:
        """The requests that were stopped early."""
        return {index: Stopped(rung.step, rung.values[index]) for rung in self.rungs for index in rung.stopped}

    def rungs_to_json(self) -> list[dict[str, Any]]:
        """The rungs as JSON."""
        return [
            {
                "step": rung.step,
                "values": [[i, value if math.isfinite(value) else str(value)] for i, value in rung.values.items()],
                "stopped": list(rung.stopped),
            }
            for rung in self.rungs
        ]


def rounds_to_json(rounds: Sequence[Round]) -> dict[str, Any]:
    """Rounds as JSON: a table of cells without n, their common fields, and references to the table."""
    kinds: dict[str, int] = {}
    table: list[dict[str, Any]] = []
    listed = []
    for one in rounds:
        requests = []
        for request in one.requests:
            kind = {"fields": _fields(request.cell), "note": dict(request.note)}
            number = kinds.setdefault(json.dumps(kind, sort_keys=True), len(kinds))
            if number == len(table):
                table.append(kind)
            requests.append([number, request.cell.n, list(request.replicates)])
        listed.append({"requests": requests, "rungs": one.rungs_to_json()})
    first = table[0]["fields"] if table else {}
    common = {name: v for name, v in first.items() if all(kind["fields"][name] == v for kind in table)}
    for kind in table:
        kind["fields"] = {name: v for name, v in kind["fields"].items() if name not in common}
    return {"common": common, "kinds": table, "rounds": listed}


def rounds_from_json(content: Mapping[str, Any]) -> list[Round]:
    """The rounds that :func:`rounds_to_json` described, or the first format."""
    common = content["common"]
    rounds = []
    for one in content["rounds"]:
        if content["format"] == 1:
            requests = [
                Request(Cell(**common, **r["fields"]), tuple(r["replicates"]), dict(r["note"])) for r in one["requests"]
            ]
        else:
            requests = []
            for number, n, replicates in one["requests"]:
                kind = content["kinds"][number]
                requests.append(Request(Cell(**common, **kind["fields"], n=n), tuple(replicates), dict(kind["note"])))
        rungs = tuple(
            Rung(int(r["step"]), {int(index): float(value) for index, value in r["values"]}, tuple(r["stopped"]))
            for r in one["rungs"]
        )
        rounds.append(Round(tuple(requests), rungs))
    return rounds


class Strategy(Protocol):
    """Chooses what to run from the rounds and the store; depends only on its arguments, so it needs no memory."""

    def next_round(self, rounds: Sequence[Round], store: Store) -> Sequence[Request]:
        """What to run next, given that all earlier rounds have ended; nothing if the search is finished."""


class RoundLog:
    """The rounds of one adaptive sweep, recorded with the sweep under its name.

    Args:
        store: where.
        name: of the sweep.
        source: text of its file.
        replicates: of each cell; None where every request has its own.
        identity: of the search; rounds recorded for another one are ignored.
        keep: whether new rounds are recorded.
        current: selects the recorded rounds that are still wanted; None for all.
        merge: from what is recorded now and these rounds to what is to be recorded, where these are of a part of the
            sweep; None records these.
    """

    def __init__(
        self,
        store: Store,
        name: str,
        source: str,
        replicates: int | None,
        identity: str,
        *,
        keep: bool = True,
        current: Callable[[Sequence[Round]], list[Round]] | None = None,
        merge: Callable[[Sequence[Round], Sequence[Round]], list[Round]] | None = None,
    ) -> None:
        self._store, self._name, self._source, self._replicates = store, name, source, replicates
        self._identity, self._keep, self._merge = identity, keep, merge
        recorded = self._recorded()
        self.rounds: list[Round] = recorded if current is None else current(recorded)

    def add(self, new: Round) -> None:
        """Begin a round, or adopt the one that another driver of the same search has begun meanwhile."""
        ahead = self._ahead()
        self.rounds.append(ahead[len(self.rounds)] if len(ahead) > len(self.rounds) else new)
        self.save()

    def replace_round(self, number: int, new: Round) -> None:
        """Change a round: one more rung."""
        self.rounds[number] = new
        self.save()

    def save(self) -> None:
        """Record all rounds; durable on return. Another part's rounds that were recorded meanwhile are kept."""
        if self._ahead():
            return
        for _ in range(_ATTEMPTS if self._keep else 0):
            rounds = self.rounds if self._merge is None else self._merge(self._recorded(), self.rounds)
            ids = list(dict.fromkeys(request.cell.cell_id for one in rounds for request in one.requests))
            content = {"format": FORMAT, "search": self._identity, **rounds_to_json(rounds)}
            self._store.sweeps.save(self._name, self._source, ids, self._replicates or 0, content)
            if self._merge is None or self._merge(self._recorded(), self.rounds) == self._recorded():
                return

    def _ahead(self) -> list[Round]:
        """The recorded rounds, if another driver of the same search is ahead; else none."""
        if not self._keep or self._merge is not None:
            return []
        recorded = self._recorded()
        pairs = list(zip(recorded, self.rounds, strict=False))
        same = all(one.requests == mine.requests and one.rungs[: len(mine.rungs)] == mine.rungs for one, mine in pairs)
        further = sum(1 + len(one.rungs) for one in recorded) > sum(1 + len(mine.rungs) for mine in self.rounds)
        return recorded if same and further and len(recorded) >= len(self.rounds) else []

    def _recorded(self) -> list[Round]:
        return recorded_rounds(self._store, self._name, self._identity, self._replicates)

    def requests(self) -> Iterator[Request]:
        """All requests so far."""
        for one in self.rounds:
            yield from one.requests


def recorded_rounds(store: Store, name: str, identity: str, replicates: int | None = None) -> list[Round]:
    """The rounds that a store has recorded for a search; none if it has none, or only those of another search.

    Args:
        store: the store.
        name: of the sweep.
        identity: of the search.
        replicates: replicates wanted of every cell by now; None leaves them as recorded.

    Raises:
        StoreError: the record is damaged.
    """
    if name not in store.sweeps.names():
        return []
    rounds = rounds_of(store.sweeps.load(name), identity) or []
    if replicates is None:
        return rounds
    wanted = tuple(range(replicates))
    return [
        dataclasses.replace(one, requests=tuple(dataclasses.replace(r, replicates=wanted) for r in one.requests))
        for one in rounds
    ]


def rounds_of(record: SweepRecord, identity: str) -> list[Round] | None:
    """The rounds in a sweep's record; None if it has none, or only those of another search.

    Raises:
        StoreError: the record is damaged.
    """
    content = record.rounds
    if not isinstance(content, dict) or content.get("search") != identity:
        return None
    try:
        if content["format"] > FORMAT:
            raise StoreError(f"the rounds of sweep {record.name!r} were recorded by a newer flatdist; use that one")
        return rounds_from_json(content)
    except (LookupError, TypeError, ValueError, CellError) as error:
        raise StoreError(
            f"the record of the rounds of sweep {record.name!r} is damaged: {error}; rename the sweep"
        ) from error


def _fields(cell: Cell) -> dict[str, Any]:
    values = {name: getattr(cell, name) for name in FIELDS if name != "n"}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
