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
    """A requested cell and its replicates."""

    cell: Cell
    replicates: tuple[int, ...]
    note: Mapping[str, Any] = field(default_factory=dict)  # the strategy's, as JSON


@dataclass(frozen=True)
class Rung:
    """A comparison of a round's cells after some steps."""

    step: int
    values: Mapping[int, float]  # number of the request -> its value
    stopped: tuple[int, ...]  # requests that were stopped there


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


def _to_json(rounds: Sequence[Round]) -> dict[str, Any]:
    """Rounds as JSON: a table of cells without n, their common fields, and references to the table."""
    kinds: dict[str, dict[str, Any]] = {}
    numbers: dict[str, int] = {}
    listed = []
    for one in rounds:
        requests = []
        for request in one.requests:
            values = {name: getattr(request.cell, name) for name in FIELDS if name != "n"}
            fields = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
            kind = {"fields": fields, "note": dict(request.note)}
            key = json.dumps(kind, sort_keys=True)
            kinds.setdefault(key, kind)
            requests.append([numbers.setdefault(key, len(numbers)), request.cell.n, list(request.replicates)])
        rungs = []
        for rung in one.rungs:
            shown = [[index, value if math.isfinite(value) else str(value)] for index, value in rung.values.items()]
            rungs.append({"step": rung.step, "values": shown, "stopped": list(rung.stopped)})
        listed.append({"requests": requests, "rungs": rungs})
    table = [*kinds.values()]
    first = table[0]["fields"] if table else {}
    common = {name: v for name, v in first.items() if all(kind["fields"][name] == v for kind in table)}
    for kind in table:
        kind["fields"] = {name: v for name, v in kind["fields"].items() if name not in common}
    return {"common": common, "kinds": table, "rounds": listed}


def _from_json(content: Mapping[str, Any]) -> list[Round]:
    """The rounds that :func:`_to_json` described."""
    rounds = []
    for one in content["rounds"]:
        requests = []
        for number, n, replicates in one["requests"]:
            kind = content["kinds"][number]
            cell = Cell(**content["common"], **kind["fields"], n=n)
            requests.append(Request(cell, tuple(replicates), dict(kind["note"])))
        rungs = (Rung(int(r["step"]), {int(index): float(value) for index, value in r["values"]}, tuple(r["stopped"]))
                 for r in one["rungs"])  # fmt: skip
        rounds.append(Round(tuple(requests), tuple(rungs)))
    return rounds


class Strategy(Protocol):
    """Chooses what to run from the rounds and the store; depends only on its arguments, so it needs no memory."""

    def next_round(self, rounds: Sequence[Round], store: Store) -> Sequence[Request]:
        """What to run next, given that all earlier rounds have ended; nothing if the search is finished."""


class RoundLog:
    """The rounds of one adaptive sweep, recorded with the sweep under its name.

    Args:
        store: where.
        name, source: of the sweep and its file.
        replicates: of each cell; None where every request has its own.
        identity: of the search; rounds recorded for another one are ignored.
        keep: whether new rounds are recorded.
        current: selects the recorded rounds that are still wanted.
        merge: from what is recorded and the rounds of a part of the sweep to what is to be recorded.
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
            content = {"format": FORMAT, "search": self._identity, **_to_json(rounds)}
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
    """The rounds that a store has recorded for a search, with as many replicates of every cell as it wants by now."""
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
        return _from_json(content)
    except (LookupError, TypeError, ValueError, CellError) as error:
        damage = f"the record of the rounds of sweep {record.name!r} is damaged: {error}; rename the sweep"
        raise StoreError(damage) from error
