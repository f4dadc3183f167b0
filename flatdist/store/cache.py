"""The index of a store, kept between reads: immutable files are read once, however often a store is looked at."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from flatdist.store.filesystem import Filesystem
from flatdist.store.index import INDEX_COLUMNS
from flatdist.store.layout import stem
from flatdist.store.manifest import Snapshot
from flatdist.store.parts import Unreadable
from flatdist.store.read import load_index, load_part_rows

if TYPE_CHECKING:
    import pyarrow as pa


class IndexCache:
    """The columns that decide which rows hold, for the files of the last snapshot."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files
        self._rows: pa.Table | None = None
        self._sources: set[str] = set()

    def load(self, snapshot: Snapshot) -> tuple[pa.Table, list[Unreadable]]:
        """Return the index rows of a snapshot, and the parts that could not be read, in whatever column."""
        parts = [stem(info.path) for info in snapshot.parts]
        segments = {segment.name: segment for segment in snapshot.manifest.segments}
        new = [name for name in parts if name not in self._sources]
        loaded = load_part_rows(self._files, "trials", new, INDEX_COLUMNS, whole=True)
        compacted = load_index(self._files, [segments[name] for name in segments if name not in self._sources])
        self._replace(compacted, loaded.table, {*parts, *segments})
        bad = {stem(problem.path) for problem in loaded.unreadable}
        self._sources = {*parts, *segments} - bad
        assert self._rows is not None
        return self._rows, list(loaded.unreadable)

    def load_segments(self, snapshot: Snapshot) -> pa.Table:
        """Return the index rows of the compacted files alone."""
        rows, _ = self.load(Snapshot(snapshot.manifest, (), (), snapshot.generations))
        return rows

    def _replace(self, compacted: pa.Table, parts: pa.Table, current: Collection[str]) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        tables = [compacted, parts]
        if self._rows is not None:
            kept = self._rows
            if not self._sources <= set(current):
                inside = pc.is_in(kept.column("source").cast(pa.string()), pa.array(sorted(current), pa.string()))
                kept = kept.filter(inside)
            tables.insert(0, kept)
        self._rows = pa.concat_tables(tables, promote_options="default").unify_dictionaries().combine_chunks()
