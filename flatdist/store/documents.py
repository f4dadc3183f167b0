"""The small JSON files of a store: tombstones and sweep records, each checked against its name or its own digest.

**Tombstones** void results without using clocks. Every row carries its key's *generation*: how often the key had been
invalidated when its run began. A tombstone (cell_id, replicate, generation) voids all rows of the key up to that
generation. Later runs carry the next generation and count; runs already in progress carry the old one and do not,
whenever they arrive. A lost tombstone would revive what it voids, so each is written twice.

**Sweep records** define what a sweep's name means, so that it can be loaded by name anywhere. A record is named by its
content; a numbered pointer, created exclusively, says which record is the latest. The highest number wins, so "latest"
needs no clock.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flatdist.errors import StoreError, did_you_mean
from flatdist.store.filesystem import Damaged, Filesystem, warn_damaged
from flatdist.store.layout import SWEEPS, TOMBSTONES, digest, is_known, order_folder, sweep_folder
from flatdist.store.location import redact

Key = tuple[str, int]  # (cell_id, replicate)
Versioned = tuple[str, int, int]  # (cell_id, replicate, generation)
Generations = Counter[Key]  # the current generation of every key: 0, or one more than its highest tombstone's
Answer = TypeVar("Answer")

FORMAT = 1
_ATTEMPTS = 100
_SEAL = b',"digest":"'  # at the end of a file that holds its own digest
_LONGEST = 1 << 28  # bytes of a JSON file that are parsed


def to_json(values: Any) -> bytes:
    """Return a file's content, the same for equal values."""
    return json.dumps(values, separators=(",", ":")).encode()


def sealed(values: Mapping[str, Any]) -> bytes:
    """Return JSON that contains its own digest, for files whose names cannot."""
    content = to_json(values)
    return content[:-1] + _SEAL + f'{digest(content)}"}}'.encode()


def read_json(files: Filesystem, path: str, meaning: Callable[[Any], Answer]) -> Answer:
    """Read a JSON file and interpret it; raises Damaged if it is not what was written, or ``meaning`` fails on it."""
    data = files.read(path)
    if len(data) > _LONGEST:
        raise Damaged(path, f"{len(data)} bytes are too many for it")
    try:
        values = json.loads(data)
        if isinstance(values, dict) and "digest" in values:
            content, _, seal = data.rpartition(_SEAL)
            if seal != f'{digest(content + b"}")}"}}'.encode():
                raise ValueError("its content is not what was written")
            del values["digest"]
        return meaning(values)
    except Damaged:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise Damaged(path, f"{len(data)} bytes, {type(error).__name__}: {str(error)[:200]}") from error


def whole(value: Any, low: int = 0, high: int = 1 << 31) -> int:
    """Return a value that is a whole number in range; raises ValueError if it is not."""
    if type(value) is not int or not low <= value < high:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number from {low}")
    return value


def read_tombstone(files: Filesystem, path: str) -> list[Versioned]:
    """Read one file of tombstones."""
    return read_json(
        files,
        path,
        lambda entries: [(str(cell), whole(replicate), whole(number)) for cell, replicate, number in entries],
    )


class Tombstones:
    """The tombstones of one store; files are immutable, so each is read once."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files
        self._read: dict[str, list[Versioned]] = {}

    def generations(self) -> Generations:
        """Read the current tombstones; a damaged one is rewritten from its copy.

        Raises:
            StoreError: both are damaged; rows that they void would count again without them.
        """
        found = Generations()
        for name in sorted({info.stem.removesuffix("-copy") for info in self._files.list(TOMBSTONES)}):
            if name not in self._read:
                self._read[name] = self._healthy(name)
            for cell_id, replicate, voided in self._read[name]:
                found[cell_id, replicate] = max(voided + 1, found[cell_id, replicate])
        return found

    def add(self, entries: Iterable[Versioned]) -> None:
        """Void (cell_id, replicate, generation) entries; adding the same ones again changes nothing."""
        content = to_json(sorted(entries))
        for path in _copies(digest(content)):
            self._files.write(path, content)

    def _healthy(self, name: str) -> list[Versioned]:
        found, damaged = None, []
        for path in _copies(name):
            try:
                found = read_tombstone(self._files, path) if found is None else found
            except Damaged as damage:
                damaged.append(damage)
            except FileNotFoundError:
                continue
        if found is None:
            first = damaged[0] if damaged else Damaged(_copies(name)[0], "it has vanished")
            raise StoreError(
                f"store {self._files.uri}: {first.path} is damaged ({first.reason}), and results that were invalidated "
                "would count again without it: restore it from a backup, or delete it and run 'flatdist invalidate' "
                "again"
            )
        if damaged:
            warn_damaged(self._files.uri, damaged, "read from the copy")
            with contextlib.suppress(StoreError):
                self.add(found)
        return found


def _copies(name: str) -> tuple[str, str]:
    return f"{TOMBSTONES}/{name}.json", f"{TOMBSTONES}/{name}-copy.json"


@dataclass(frozen=True)
class SweepRecord:
    """One version of a sweep."""

    name: str
    source: str  # text of the sweep file
    cell_ids: tuple[str, ...]  # its resolved cells, in the sweep's order
    replicates: int  # how many each gets
    rounds: Any = None  # what an adaptive sweep has requested so far; None for a plain one
    number: int = 0  # counts the versions, from 1
    changes: Mapping[str, Any] = field(default_factory=dict)  # field -> value that ``--set`` gave every cell


class SweepRecords:
    """The sweep records of one store."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files

    def save(
        self,
        name: str,
        source: str,
        cell_ids: Sequence[str],
        replicates: int,
        rounds: Any = None,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        """Make this the latest version of a sweep; saving the latest version again writes nothing."""
        content = {
            "format": FORMAT,
            "name": name,
            "source": redact(source),
            "cell_ids": list(cell_ids),
            "replicates": int(replicates),
            "rounds": rounds,
        }
        data = to_json(content | ({"changes": dict(changes)} if changes else {}))
        record = digest(data)
        for _ in range(_ATTEMPTS):
            number = max(self._numbers(name), default=0)
            with contextlib.suppress(Damaged, FileNotFoundError):
                if number and self._pointer(name, number) == record and self._files.read(_path(name, record)) == data:
                    return
            self._files.write(_path(name, record), data)
            pointer = sealed({"record": record, "number": number + 1, "name": name})
            if self._files.create(_order_path(name, number + 1), pointer):
                return
        raise StoreError(f"store {self._files.uri}: sweep {name!r} is being saved by too many others; try again")

    def load(self, name: str) -> SweepRecord:
        """Return the latest version of a sweep; damaged ones are reported, and the previous one is used.

        Raises:
            StoreError: the store has no such sweep; the message lists those it has.
        """
        numbers = self._numbers(name)
        for number in sorted(numbers, reverse=True):
            try:
                return self._read(name, number)
            except Damaged as damage:
                outcome = "skipped: the previous record is used until the sweep runs again"
                warn_damaged(self._files.uri, [damage], outcome)
            except FileNotFoundError:
                missing = Damaged(_order_path(name, number), "the record that it names is missing")
                warn_damaged(self._files.uri, [missing], "passed over")
        if numbers:
            raise StoreError(
                f"store {self._files.uri}: every record of sweep {name!r} is damaged; run the sweep again by its file"
            )
        names = self.names()
        known = f"it has {', '.join(names)}" if names else "it has none yet"
        raise StoreError(
            f"store {self._files.uri} has no sweep {name!r}{did_you_mean(name, names)}; {known}. "
            "Run the sweep first, or give the path of its file"
        )

    def names(self) -> list[str]:
        """Return the names of the sweeps in the store, sorted."""
        paths = (info.path.split("/") for info in self._files.list(SWEEPS))
        return sorted({parts[1] for parts in paths if len(parts) == 4})

    def merge(self, other: SweepRecords) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Merge the latest versions of another store's sweeps; return the names merged, and those that both have.

        Names that this store has keep its version.
        """
        mine, theirs = {*self.names()}, other.names()
        merged = []
        for name in theirs:
            if name in mine:
                continue
            try:
                record = other.load(name)
            except StoreError as error:
                warn_damaged(other._files.uri, [Damaged(sweep_folder(name), str(error))], "not taken in")
                continue
            self.save(name, record.source, record.cell_ids, record.replicates, record.rounds, record.changes)
            merged.append(name)
        return tuple(merged), tuple(name for name in theirs if name in mine)

    def _numbers(self, name: str) -> list[int]:
        return [int(info.stem) for info in self._files.list(order_folder(name))]

    def _pointer(self, name: str, number: int) -> str:
        def meaning(values: Any) -> str:
            if values.get("number", number) != number or values.get("name", name) != name:
                raise ValueError("it is another pointer's content")
            return str(values["record"])

        return read_json(self._files, _order_path(name, number), meaning)

    def _read(self, name: str, number: int) -> SweepRecord:
        record = self._pointer(name, number)
        if not is_known(_path(name, record)):
            raise Damaged(_order_path(name, number), f"names {record[:40]!r}, which no record is called")

        def meaning(values: Any) -> SweepRecord:
            if whole(values["format"], 1) > FORMAT:
                raise StoreError(f"sweep {name!r} was recorded by a newer flatdist (format {values['format']}); update")
            if values["name"] != name:
                raise ValueError(f"it is a record of sweep {values['name']!r}")
            cells = tuple(str(cell) for cell in values["cell_ids"])
            changes = {str(field): value for field, value in dict(values.get("changes", {})).items()}
            replicates = whole(values["replicates"])
            return SweepRecord(name, str(values["source"]), cells, replicates, values["rounds"], number, changes)

        return read_json(self._files, _path(name, record), meaning)


def _path(name: str, record: str) -> str:
    return f"{sweep_folder(name)}/{record}.json"


def _order_path(name: str, number: int) -> str:
    return f"{order_folder(name)}/{number:08d}.json"
