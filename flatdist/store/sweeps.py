"""Sweep records: what a sweep's name means, kept in the store so that it can be loaded by name anywhere.

A record is named by its content; a numbered pointer, created exclusively, says which record is the latest. The highest
number holds, so "latest" needs no clock.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flatdist.errors import StoreError, did_you_mean
from flatdist.store.filesystem import Filesystem
from flatdist.store.layout import (
    SWEEPS,
    digest,
    stem,
    sweep_folder,
    sweep_order_folder,
    sweep_order_path,
    sweep_record_path,
)
from flatdist.store.location import redact

FORMAT = 1
_ATTEMPTS = 100


@dataclass(frozen=True)
class SweepRecord:
    """One version of a sweep.

    Attributes:
        name: the sweep's name.
        source: text of the sweep file.
        cell_ids: its resolved cells, in the sweep's order.
        replicates: how many each gets.
        rounds: what an adaptive sweep has asked for so far; None for a plain one.
        number: counts the versions, from 1.
    """

    name: str
    source: str
    cell_ids: tuple[str, ...]
    replicates: int
    rounds: Any = None
    number: int = 0


class SweepRecords:
    """The sweep records of one store."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files

    def save(self, name: str, source: str, cell_ids: Sequence[str], replicates: int, rounds: Any = None) -> None:
        """Make this the latest version of a sweep; saving the latest version again writes nothing."""
        content = {
            "format": FORMAT,
            "name": name,
            "source": redact(source),
            "cell_ids": list(cell_ids),
            "replicates": int(replicates),
            "rounds": rounds,
        }
        data = json.dumps(content, separators=(",", ":")).encode()
        record = digest(data)
        path = sweep_record_path(name, record)
        for _ in range(_ATTEMPTS):
            number = self._latest_number(name)
            if number and self._pointer(name, number) == record:
                return
            if not any(info.path == path for info in self._files.list(sweep_folder(name))):
                self._files.write(path, data)
            if self._files.create(sweep_order_path(name, number + 1), json.dumps({"record": record}).encode()):
                return
        raise StoreError(f"store {self._files.uri}: sweep {name!r} is being saved by too many others; try again")

    def load(self, name: str) -> SweepRecord:
        """Return the latest version of a sweep.

        Raises:
            StoreError: the store has no such sweep; names those it has.
        """
        number = self._latest_number(name)
        if number == 0:
            names = self.names()
            known = f"it has {', '.join(names)}" if names else "it has none yet"
            raise StoreError(
                f"store {self._files.uri} has no sweep {name!r}{did_you_mean(name, names)}; {known}. "
                "Run the sweep first, or give the path of its file"
            )
        path = sweep_record_path(name, self._pointer(name, number))
        try:
            values = json.loads(self._files.read(path))
            return SweepRecord(
                str(values["name"]),
                str(values["source"]),
                tuple(str(cell) for cell in values["cell_ids"]),
                int(values["replicates"]),
                values["rounds"],
                number,
            )
        except (ValueError, KeyError, TypeError, FileNotFoundError) as error:
            raise StoreError(
                f"store {self._files.uri}: {path} is missing or damaged; run the sweep again, which writes it anew"
            ) from error

    def names(self) -> list[str]:
        """Return the names of the sweeps in the store, sorted."""
        paths = (info.path.split("/") for info in self._files.list(SWEEPS))
        return sorted({parts[1] for parts in paths if len(parts) == 4 and parts[2] == "order"})

    def take_in(self, other: SweepRecords) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Take in the latest versions of another store's sweeps; a name that this store has keeps its meaning.

        Returns:
            The names taken in, and those that both stores have.
        """
        mine = set(self.names())
        theirs = other.names()
        for name in theirs:
            if name not in mine:
                record = other.load(name)
                self.save(name, record.source, record.cell_ids, record.replicates, record.rounds)
        return tuple(name for name in theirs if name not in mine), tuple(name for name in theirs if name in mine)

    def _latest_number(self, name: str) -> int:
        names = (stem(info.path) for info in self._files.list(sweep_order_folder(name)))
        return max((int(number) for number in names if number.isdigit()), default=0)

    def _pointer(self, name: str, number: int) -> str:
        path = sweep_order_path(name, number)
        try:
            record = json.loads(self._files.read(path))["record"]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(
                f"store {self._files.uri}: {path} is damaged; delete it, and run the sweep again"
            ) from error
        if not (isinstance(record, str) and record.isalnum()):
            raise StoreError(f"store {self._files.uri}: {path} names {record!r}, which is no record; delete it")
        return record
