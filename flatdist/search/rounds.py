"""Rounds: what an adaptive sweep has asked for so far, as the store records it.

A round is recorded before it runs, so that a search that was killed goes on with the same cells. Anything that chooses
cells from earlier results can use them: a strategy sees the recorded rounds and the store, and says what to run next.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flatdist.cell import FIELDS, Cell
from flatdist.errors import CellError, StoreError

if TYPE_CHECKING:
    from flatdist.store import Store

FORMAT = 1


@dataclass(frozen=True)
class Request:
    """A cell that is asked for, and the replicates wanted of it.

    Attributes:
        cell: the cell.
        replicates: their numbers.
        note: what the strategy wants to remember of it, as JSON.
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
        stopped: requests that did not go on.
    """

    step: int
    values: Mapping[int, float]
    stopped: tuple[int, ...]


@dataclass(frozen=True)
class Stopped:
    """Where a cell was stopped early: at which rung, in steps, and with which value."""

    step: int
    value: float


@dataclass(frozen=True)
class Round:
    """Cells asked for together, and the rungs they have been compared at."""

    requests: tuple[Request, ...]
    rungs: tuple[Rung, ...] = ()

    def stopped(self) -> dict[int, Stopped]:
        """The requests that were stopped early."""
        return {index: Stopped(rung.step, rung.values[index]) for rung in self.rungs for index in rung.stopped}

    def to_json(self, common: Mapping[str, Any]) -> dict[str, Any]:
        """The round as JSON; fields that all recorded cells have in common are written once, beside the rounds."""
        return {
            "requests": [
                {
                    "cell_id": request.cell.cell_id,
                    "fields": {name: v for name, v in _fields(request.cell).items() if name not in common},
                    "replicates": list(request.replicates),
                    "note": dict(request.note),
                }
                for request in self.requests
            ],
            "rungs": [
                {
                    "step": rung.step,
                    "values": [[i, value if math.isfinite(value) else str(value)] for i, value in rung.values.items()],
                    "stopped": list(rung.stopped),
                }
                for rung in self.rungs
            ],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any], common: Mapping[str, Any]) -> Round:
        """The round that :meth:`to_json` described."""
        requests = tuple(
            Request(Cell(**common, **one["fields"]), tuple(one["replicates"]), dict(one["note"]))
            for one in content["requests"]
        )
        rungs = tuple(
            Rung(
                int(one["step"]),
                {int(index): float(value) for index, value in one["values"]},
                tuple(one["stopped"]),
            )
            for one in content["rungs"]
        )
        return cls(requests, rungs)


class Strategy(Protocol):
    """Chooses what to run from what there is; a function of its arguments alone, so that it needs no memory."""

    def next_round(self, rounds: Sequence[Round], store: Store) -> Sequence[Request]:
        """What to run next, given that all earlier rounds have ended; nothing where the search is finished."""


class RoundLog:
    """The rounds of one adaptive sweep, recorded with the sweep under its name.

    Args:
        store: where.
        name: of the sweep.
        source: text of its file.
        replicates: of each cell; None where every request has its own.
        identity: of the search; rounds recorded for another one are left alone.
        keep: whether new rounds are recorded.
    """

    def __init__(
        self, store: Store, name: str, source: str, replicates: int | None, identity: str, *, keep: bool = True
    ) -> None:
        self._store, self._name, self._source, self._replicates = store, name, source, replicates
        self._identity, self._keep = identity, keep
        self.rounds: list[Round] = recorded_rounds(store, name, identity, replicates)

    def add(self, new: Round) -> None:
        """Begin a round."""
        self.rounds.append(new)
        self.save()

    def replace_round(self, number: int, new: Round) -> None:
        """Change a round: one more rung."""
        self.rounds[number] = new
        self.save()

    def save(self) -> None:
        """Record all rounds; durable on return."""
        if not self._keep:
            return
        ids = list(dict.fromkeys(request.cell.cell_id for request in self.requests()))
        fields = [_fields(request.cell) for request in self.requests()]
        common = {name: v for name, v in fields[0].items() if all(one[name] == v for one in fields)} if fields else {}
        rounds = [one.to_json(common) for one in self.rounds]
        content = {"format": FORMAT, "search": self._identity, "common": common, "rounds": rounds}
        self._store.save_sweep(self._name, self._source, ids, self._replicates or 0, content)

    def requests(self) -> Iterator[Request]:
        """All requests so far."""
        for one in self.rounds:
            yield from one.requests


def recorded_rounds(store: Store, name: str, identity: str, replicates: int | None = None) -> list[Round]:
    """The rounds that a store has recorded for a search; none where it has none, or those of another search.

    Args:
        store: the store.
        name: of the sweep.
        identity: of the search.
        replicates: replicates wanted of every cell by now; None leaves them as recorded.

    Raises:
        StoreError: the record is damaged.
    """
    if name not in store.sweep_names():
        return []
    content = store.load_sweep(name).rounds
    if not isinstance(content, dict) or content.get("search") != identity:
        return []
    try:
        if content["format"] != FORMAT:
            raise StoreError(f"the rounds of sweep {name!r} were recorded by a newer flatdist; use that one")
        rounds = [Round.from_json(one, content["common"]) for one in content["rounds"]]
    except (KeyError, TypeError, ValueError, CellError) as error:
        raise StoreError(f"the record of the rounds of sweep {name!r} is damaged: {error}; rename the sweep") from error
    if replicates is None:
        return rounds
    wanted = tuple(range(replicates))
    return [
        dataclasses.replace(one, requests=tuple(dataclasses.replace(r, replicates=wanted) for r in one.requests))
        for one in rounds
    ]


def _fields(cell: Cell) -> dict[str, Any]:
    """All fields of a cell as JSON."""
    values = {name: getattr(cell, name) for name in FIELDS}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
