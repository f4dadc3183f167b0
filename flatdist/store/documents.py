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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from flatdist.errors import StoreError, did_you_mean
from flatdist.store import layout
from flatdist.store.filesystem import Damaged, Filesystem, warn_damaged
from flatdist.store.layout import SWEEPS, TOMBSTONES, digest, stem
from flatdist.store.location import redact

Key = tuple[str, int]  # (cell_id, replicate)
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
    """Read a JSON file and interpret it.

    Args:
        files: the storage.
        path: the file.
        meaning: interprets the parsed content; any error it raises counts as damage.

    Raises:
        Damaged: the file is not what was written, or ``meaning`` rejects it.
        FileNotFoundError: there is no such file.
    """
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
    """Return a value that is a whole number in range.

    Raises:
        ValueError: it is not.
    """
    if type(value) is not int or not low <= value < high:
        raise ValueError(f"{str(value)[:40]!r} is not a whole number from {low}")
    return value


class Generations:
    """The current generation of every key: 0, or one more than the highest tombstone's."""

    def __init__(self, voided: Mapping[Key, int]) -> None:
        self.voided = voided  # key -> the highest generation that no longer counts

    def __getitem__(self, key: Key) -> int:
        return self.voided.get(key, -1) + 1

    def __bool__(self) -> bool:
        return bool(self.voided)


class Tombstones:
    """The tombstones of one store; files are immutable, so each is read once."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files
        self._read: dict[str, list[tuple[str, int, int]]] = {}

    def generations(self) -> Generations:
        """Read the current tombstones; a damaged one is rewritten from its copy.

        Raises:
            StoreError: both are damaged; rows that they void would count again without them.
        """
        names = {stem(info.path).removesuffix("-copy") for info in self._files.list(TOMBSTONES)}
        voided: dict[Key, int] = {}
        for name in sorted(names):
            if name not in self._read:
                self._read[name] = self._healthy(name)
            for cell_id, replicate, generation in self._read[name]:
                key = (cell_id, replicate)
                voided[key] = max(generation, voided.get(key, -1))
        return Generations(voided)

    def add(self, entries: Iterable[tuple[str, int, int]]) -> None:
        """Void (cell_id, replicate, generation) entries; adding the same ones again changes nothing."""
        content = to_json(sorted(entries))
        for path in layout.tombstone_paths(digest(content)):
            self._files.write(path, content)

    def entries(self, path: str) -> list[tuple[str, int, int]]:
        """Read one file of tombstones.

        Raises:
            Damaged: it is not what was written.
        """
        return read_json(
            self._files,
            path,
            lambda entries: [(str(cell), whole(replicate), whole(number)) for cell, replicate, number in entries],
        )

    def _healthy(self, name: str) -> list[tuple[str, int, int]]:
        found, damaged = None, []
        for path in layout.tombstone_paths(name):
            try:
                found = self.entries(path) if found is None else found
            except Damaged as damage:
                damaged.append(damage)
            except FileNotFoundError:
                continue
        if found is None:
            where = damaged[0].path if damaged else layout.tombstone_paths(name)[0]
            reason = damaged[0].reason if damaged else "it has vanished"
            raise StoreError(
                f"store {self._files.uri}: {where} is damaged ({reason}), and results that were invalidated would "
                "count again without it: restore it from a backup, or delete it and run 'flatdist invalidate' again"
            )
        if damaged:
            warn_damaged(self._files.uri, damaged, "read from the copy")
            with contextlib.suppress(StoreError):
                self.add(found)
        return found


@dataclass(frozen=True)
class SweepRecord:
    """One version of a sweep.

    Attributes:
        name: the sweep's name.
        source: text of the sweep file.
        cell_ids: its resolved cells, in the sweep's order.
        replicates: how many each gets.
        rounds: what an adaptive sweep has requested so far; None for a plain one.
        number: counts the versions, from 1.
        changes: field -> value that ``--set`` gave every cell of the source.
    """

    name: str
    source: str
    cell_ids: tuple[str, ...]
    replicates: int
    rounds: Any = None
    number: int = 0
    changes: Mapping[str, Any] = field(default_factory=dict)


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
        path = f"{layout.sweep_folder(name)}/{record}.json"
        for _ in range(_ATTEMPTS):
            number = max(self._numbers(name), default=0)
            if number and self._is_latest(name, number, record, data):
                return
            self._files.write(path, data)
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
        """Merge the latest versions of another store's sweeps; names that this store has keep its version.

        Returns:
            The names merged, and those that both stores have.
        """
        mine = set(self.names())
        taken = []
        for name in other.names():
            if name not in mine:
                try:
                    record = other.load(name)
                except StoreError as error:
                    warn_damaged(other._files.uri, [Damaged(layout.sweep_folder(name), str(error))], "not taken in")
                    continue
                self.save(name, record.source, record.cell_ids, record.replicates, record.rounds, record.changes)
                taken.append(name)
        return tuple(taken), tuple(name for name in other.names() if name in mine)

    def _numbers(self, name: str) -> list[int]:
        return [int(stem(info.path)) for info in self._files.list(layout.sweep_order_folder(name))]

    def _is_latest(self, name: str, number: int, record: str, data: bytes) -> bool:
        try:
            path = f"{layout.sweep_folder(name)}/{record}.json"
            return self._pointer(name, number) == record and self._files.read(path) == data
        except (Damaged, FileNotFoundError):
            return False

    def _pointer(self, name: str, number: int) -> str:
        def meaning(values: Any) -> str:
            if values.get("number", number) != number or values.get("name", name) != name:
                raise ValueError("it is another pointer's content")
            return str(values["record"])

        return read_json(self._files, _order_path(name, number), meaning)

    def _read(self, name: str, number: int) -> SweepRecord:
        record = self._pointer(name, number)
        path = f"{layout.sweep_folder(name)}/{record}.json"
        if not layout.is_known(path):
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

        return read_json(self._files, path, meaning)


def _order_path(name: str, number: int) -> str:
    return f"{layout.sweep_order_folder(name)}/{number:08d}.json"
