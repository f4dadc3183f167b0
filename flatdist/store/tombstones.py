"""Tombstones: which results no longer count, said without clocks.

Every row carries its key's *generation*: how often the key had been invalidated when its run began. A tombstone
(cell_id, replicate, generation) voids all rows of the key up to that generation. What runs afterwards carries the next
generation, and counts; what was running meanwhile carries the old one, and does not, whenever it arrives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from flatdist.errors import StoreError
from flatdist.store.filesystem import Filesystem
from flatdist.store.layout import TOMBSTONES, digest, tombstone_path

Key = tuple[str, int]  # (cell_id, replicate)


class Generations:
    """The current generation of every key: 0, or one more than the highest tombstone's."""

    def __init__(self, voided: Mapping[Key, int]) -> None:
        self._voided = voided

    def __getitem__(self, key: Key) -> int:
        return self._voided.get(key, -1) + 1

    def __bool__(self) -> bool:
        return bool(self._voided)

    @property
    def voided(self) -> Mapping[Key, int]:
        """Key -> the highest generation that no longer counts."""
        return self._voided


class Tombstones:
    """The tombstones of one store; files are immutable, so each is read once."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files
        self._read: dict[str, list[tuple[str, int, int]]] = {}

    def generations(self) -> Generations:
        """Read the tombstones that are there now."""
        voided: dict[Key, int] = {}
        for info in self._files.list(TOMBSTONES):
            for cell_id, replicate, generation in self._entries(info.path):
                key = (cell_id, replicate)
                voided[key] = max(generation, voided.get(key, -1))
        return Generations(voided)

    def add(self, entries: Iterable[tuple[str, int, int]]) -> None:
        """Void (cell_id, replicate, generation) entries; adding the same ones again changes nothing."""
        content = json.dumps(sorted(entries), separators=(",", ":")).encode()
        self._files.write(tombstone_path(digest(content)), content)

    def _entries(self, path: str) -> list[tuple[str, int, int]]:
        if path not in self._read:
            try:
                entries = json.loads(self._files.read(path))
                self._read[path] = [(str(cell), int(replicate), int(number)) for cell, replicate, number in entries]
            except (ValueError, TypeError) as error:
                raise StoreError(
                    f"store {self._files.uri}: {path} is not a list of (cell_id, replicate, generation); invalidated "
                    "rows would count again without it: restore the file, or delete it if that is meant"
                ) from error
        return self._read[path]
