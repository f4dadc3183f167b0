"""Which replicates are done: the rows that hold, after damaged parts have been named and set aside."""

from __future__ import annotations

from collections.abc import Sequence

from flatdist.store.cache import IndexCache
from flatdist.store.filesystem import Filesystem
from flatdist.store.index import INDEX_COLUMNS, Selection, select
from flatdist.store.layout import part_folder, part_path, stem
from flatdist.store.manifest import Snapshot, take_snapshot
from flatdist.store.parts import Unreadable, read_parts, set_aside, truncated_history, warn_unreadable
from flatdist.store.tombstones import Tombstones


class Acknowledgements:
    """Reads what is acknowledged; each intact part is checked once in the life of this object."""

    def __init__(self, files: Filesystem, tombstones: Tombstones, index: IndexCache) -> None:
        self._files = files
        self._tombstones = tombstones
        self._index = index
        self._intact: set[str] = set()

    def read(self) -> tuple[Snapshot, Selection]:
        """Return a snapshot without damaged parts, and the rows that hold in it.

        A part of which either file is damaged is named in a warning and moved to set-aside/, where the store allows
        it; in any case its replicates count as missing.

        Raises:
            FileNotFoundError: a file vanished since it was listed: read again.
        """
        snapshot = take_snapshot(self._files, self._tombstones)
        index, unreadable = self._index.load(snapshot)
        damaged = [*unreadable, *self._damaged_history(snapshot, {stem(problem.path) for problem in unreadable})]
        if damaged:
            self._set_aside(damaged)
            bad = {stem(problem.path) for problem in damaged}
            parts = tuple(info for info in snapshot.parts if stem(info.path) not in bad)
            snapshot = Snapshot(snapshot.manifest, parts, snapshot.superseded, snapshot.generations)
            index, _ = self._index.load(snapshot)
        segments = {segment.name for segment in snapshot.manifest.segments}
        return snapshot, select(index, segments, snapshot.generations)

    def _damaged_history(self, snapshot: Snapshot, known_bad: set[str]) -> list[Unreadable]:
        """Parts whose trials can be read and whose history is missing or cut short."""
        parts = {stem(info.path) for info in snapshot.parts} - self._intact - known_bad
        if not parts:
            return []
        listed = {stem(info.path): info for info in self._files.list(part_folder("history"))}
        damaged = [Unreadable(part_path("history", part), "is missing") for part in sorted(parts - listed.keys())]
        damaged += truncated_history(self._files, [listed[part] for part in sorted(parts & listed.keys())])
        self._intact |= parts - {stem(problem.path) for problem in damaged}
        return damaged

    def _set_aside(self, problems: Sequence[Unreadable]) -> None:
        """Move both files of damaged parts away, and name them."""
        still = [problem for problem in problems if self._still_damaged(stem(problem.path))]
        paths = [part_path(table, stem(problem.path)) for problem in still for table in ("trials", "history")]
        moved = sum(set_aside(self._files, path) for path in paths)
        outcome = "moved to set-aside/" if moved == len(paths) else "ignored, since they cannot be moved"
        warn_unreadable(self._files.uri, still, f"{outcome}; their replicates count as missing and run again")

    def _still_damaged(self, part: str) -> bool:
        """Look again just before moving: another driver may have set the part aside and run it again meanwhile."""
        try:
            path = part_path("trials", part)
            _, unreadable = read_parts(self._files, "trials", [path], INDEX_COLUMNS, whole=True)
        except FileNotFoundError:
            return False
        folder = part_path("history", part).rsplit("/", 1)[0]
        listed = [info for info in self._files.list(folder) if stem(info.path) == part]
        return bool(unreadable) or not listed or bool(truncated_history(self._files, listed))
