"""A store at one moment: the newest manifest, the parts that it does not include, and the contents of their files.

A **manifest** is a numbered list of compacted files; the highest number counts. It is published by creating its number
exclusively, so two compactions cannot both follow the same one. It names an index: one small file that says which rows
its segments hold, so that what is done is known without opening them. The index is trusted only through the manifest
that names it; later parts are read in addition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.errors import StoreError
from flatdist.store import layout, parquet
from flatdist.store.documents import Generations, Tombstones, read_json, sealed, whole
from flatdist.store.filesystem import Damaged, FileInfo, Filesystem, warn_damaged
from flatdist.store.index import INDEX_COLUMNS, Array, Selection, Source
from flatdist.store.layout import manifest_path, part_folder, part_path, segment_folder, segment_path, stem
from flatdist.store.parquet import Seal, SegmentRows
from flatdist.store.schema import empty, plain, with_columns

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = 2  # 1 had neither seals nor an index
_ATTEMPTS = 20

Spans = Sequence[tuple[int, int]] | None


@dataclass(frozen=True)
class Segment:
    """One pair of compacted files: trials, and their history.

    Attributes:
        name: names both files.
        trials: rows of trials.
        history: rows of history.
        seals: table -> what its file must be; empty for those of release 0.1.
        tokens: table -> token of its file in a storage whose tokens stand for the content; else empty.
    """

    name: str
    trials: int
    history: int
    seals: Mapping[str, Seal] = field(default_factory=dict)
    tokens: Mapping[str, str] = field(default_factory=dict)

    def seal(self, table: str) -> Seal | None:
        """What the file of a table must be, where that is known."""
        return self.seals.get(table)


@dataclass(frozen=True)
class Manifest:
    """What compaction has published.

    Attributes:
        number: 0 before the first compaction.
        segments: the compacted files; no key is in two of them.
        superseded: name of a trials part -> token of its file when its rows were taken over, empty where the name
            states the content. A file of that name with another token is a new one, and counts.
        writer: names the compaction that published it.
        index: names the file that says what the segments hold; None in those of release 0.1.
    """

    number: int = 0
    segments: tuple[Segment, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    writer: str = ""
    index: str | None = None

    def to_json(self) -> bytes:
        """Return the file's content."""
        return sealed(
            {
                "format": FORMAT,
                "number": self.number,
                "writer": self.writer,
                "index": self.index,
                "segments": [
                    [
                        one.name,
                        one.trials,
                        one.history,
                        {name: seal.to_json() for name, seal in one.seals.items()},
                        dict(one.tokens),
                    ]
                    for one in self.segments
                ],
                "superseded": dict(sorted(self.superseded.items())),
            }
        )

    @staticmethod
    def from_json(values: Any) -> Manifest:
        """Read a file's content.

        Raises:
            ValueError, TypeError, KeyError: it is not a manifest.
        """
        if whole(values["format"], 1) > FORMAT:
            raise StoreError(f"manifest format {values['format']} is newer than this flatdist reads ({FORMAT}); update")
        segments = []
        for name, trials, history, *rest in values["segments"]:
            if not layout.is_known(segment_path("trials", name)):
                raise ValueError(f"{str(name)[:40]!r} is not the name of a segment")
            seals = {table: Seal.from_json(seal) for table, seal in (rest[0] if rest else {}).items()}
            tokens = {table: str(token) for table, token in (rest[1] if len(rest) > 1 else {}).items()}
            segments.append(Segment(name, whole(trials), whole(history, high=1 << 48), seals, tokens))
        index = values.get("index")
        if index is not None and not layout.is_known(layout.index_path(index)):
            raise ValueError(f"{str(index)[:40]!r} is not the name of an index")
        superseded = {str(name): str(token) for name, token in values["superseded"].items()}
        return Manifest(whole(values["number"], 1), tuple(segments), superseded, str(values["writer"]), index)


@dataclass(frozen=True)
class Snapshot:
    """A consistent view of a store: all rows that count are in the segments and the parts.

    Attributes:
        manifest: the newest manifest.
        newest: the highest number there is; more than the manifest's where that one is damaged.
        parts: trials parts that it does not include.
        superseded: trials parts that it includes and that still exist.
        generations: the current generation of every key.
    """

    manifest: Manifest
    newest: int
    parts: tuple[FileInfo, ...]
    superseded: tuple[FileInfo, ...]
    generations: Generations


def listed_manifests(files: Filesystem) -> dict[int, FileInfo]:
    """Return the manifests that are there, by number."""
    return {int(stem(info.path)): info for info in files.list(layout.MANIFESTS) if int(stem(info.path))}


def read_manifest(files: Filesystem, numbers: Collection[int]) -> Manifest:
    """Return the newest intact manifest, or the empty one.

    The one before the newest still names every row: what it lists is deleted only when it has two successors.
    """
    for number in sorted(numbers, reverse=True):

        def meaning(values: Any, number: int = number) -> Manifest:
            manifest = Manifest.from_json(values)
            if manifest.number != number:
                raise ValueError(f"it is the content of manifest {manifest.number}")
            return manifest

        try:
            return read_json(files, manifest_path(number), meaning)
        except Damaged as damage:
            warn_damaged(files.uri, [damage], "skipped: the previous one is used until the next compaction")
    return Manifest()


def take_snapshot(files: Filesystem, tombstones: Tombstones) -> Snapshot:
    """Read a consistent state of a store while others write and compact.

    The parts are listed between two reads of the manifest list: if both show the same manifest, no part that it lacks
    can have been deleted in between.
    """
    for _ in range(_ATTEMPTS):
        numbers = {*listed_manifests(files)}
        try:
            manifest = read_manifest(files, numbers)
        except FileNotFoundError:  # an old one, deleted since; there is a newer one
            continue
        parts = files.list(part_folder("trials"))
        generations = tombstones.generations()
        newest = max(numbers, default=0)
        if max(listed_manifests(files), default=0) == newest:
            taken = [manifest.superseded.get(stem(info.path)) in ("", info.token) for info in parts]
            return Snapshot(
                manifest,
                newest,
                tuple(info for info, is_taken in zip(parts, taken, strict=True) if not is_taken),
                tuple(info for info, is_taken in zip(parts, taken, strict=True) if is_taken),
                generations,
            )
    raise StoreError(f"store {files.uri}: compacted {_ATTEMPTS} times while it was being read; try again later")


class Catalog:
    """The contents of files of snapshots, kept between reads: each immutable file is read once."""

    def __init__(self, files: Filesystem) -> None:
        self._files = files
        self._sources: dict[str, Source] = {}
        self._whole: set[str] = set()  # parts and segments of which every byte was checked
        self._damage: dict[str, list[Damaged]] = {}  # of segments
        self._bad_parts: dict[str, Damaged] = {}
        self.index_is_damaged = False

    def sources(self, snapshot: Snapshot, *, whole: bool = False) -> tuple[list[Source], dict[str, Damaged]]:
        """Return what the files of a snapshot hold, and which parts are damaged.

        Args:
            snapshot: of the store.
            whole: look at every byte of the parts, history included.

        Raises:
            FileNotFoundError: a file was deleted after it was listed: take a new snapshot.
        """
        parts = [stem(info.path) for info in snapshot.parts]
        segments = [segment.name for segment in snapshot.manifest.segments]
        if {*segments} - self._sources.keys():
            self._sources |= self._segments(snapshot.manifest)
        self._sources = {name: self._sources[name] for name in (*segments, *parts) if name in self._sources}
        self._bad_parts = {name: self._bad_parts[name] for name in parts if name in self._bad_parts}
        new = [name for name in parts if name not in self._sources and name not in self._bad_parts]
        for name, found in zip(new, self._files.map(self._part, new), strict=True):
            if isinstance(found, Damaged):
                self._bad_parts[name] = found
            else:
                self._sources[name] = Source(name, found, compacted=False)
        if whole:
            left = [name for name in parts if name not in self._whole and name not in self._bad_parts]
            for name, problem in zip(left, self._files.map(self._check_history, left), strict=True):
                if problem is None:
                    self._whole.add(name)
                else:
                    self._bad_parts[name] = problem
        healthy = [name for name in (*segments, *parts) if name not in self._bad_parts]
        return [self._sources[name] for name in healthy], dict(self._bad_parts)

    def rows(self, selection: Selection, positions: Array) -> pa.Table:
        """Return the index rows at some positions of a selection made from the last sources."""
        import pyarrow as pa

        tables = [self._sources[name].table.select(list(INDEX_COLUMNS)) for name in selection.sources]
        first = np.cumsum([0, *map(len, tables)])
        filled = [table for table in tables if len(table)] or [empty("trials", INDEX_COLUMNS)]
        whole = pa.concat_tables(filled, promote_options="default")
        return plain(whole.take(first[selection.source[positions]] + selection.row[positions]))

    def note_part(self, name: str, damage: Damaged) -> Damaged:
        """Skip a part from now on."""
        self._bad_parts[name] = damage
        return damage

    def forget(self, name: str) -> None:
        """Check a part again."""
        self._bad_parts.pop(name, None)
        self._sources.pop(name, None)
        self._whole.discard(name)

    def check_segments(self, segments: Sequence[Segment]) -> list[Damaged]:
        """Check every byte of some segments; return the damage, which is skipped from now on.

        An object store checks its own bytes, and a file's token determines its content: a file that still has the token
        it was written with is not fetched.
        """
        found: list[Damaged] = []
        new = [segment for segment in segments if segment.name not in self._whole]
        tokens = {}
        if new and self._files.tokens_are_digests:
            folders = map(segment_folder, ("trials", "history"))
            tokens = {info.path: info.token for folder in folders for info in self._files.list(folder)}
        for segment in new:
            for table in ("trials", "history"):
                token = tokens.get(segment_path(table, segment.name))
                if token is None or token != segment.tokens.get(table):
                    rows = parquet.check_segment(self._files, table, segment.name, segment.seal(table))
                    found += self.note(segment.name, table, rows)
            self._whole.add(segment.name)
        return found

    def note(self, segment: str, table: str, found: SegmentRows) -> list[Damaged]:
        """Remember the damage of a segment; returns it if it is new."""
        if found.damage is None:
            return []
        known = self._damage.setdefault(segment, [])
        if any(damage.path == found.damage.path and damage.reason == found.damage.reason for damage in known):
            return []
        known.append(found.damage)
        trials, history = (found.lost, ()) if table == "trials" else ((), found.lost)
        self._sources[segment] = self._sources[segment].with_lost(trials, history)
        return [found.damage]

    def damage(self, segment: str) -> list[Damaged]:
        """What is known to be damaged in a segment."""
        return self._damage.get(segment, [])

    def _part(self, name: str) -> pa.Table | Damaged:
        """The index rows of a part, checked against its name."""
        path = part_path("trials", name)
        try:
            table = parquet.read_part(self._files, "trials", path, INDEX_COLUMNS)
            part = name.split("-", maxsplit=1)[0]
            columns = [table.column(one).to_pylist() for one in ("cell_id", "replicate", "generation", "part")]
            keys = list(zip(*columns[:3], strict=True))
            if layout.part_name(keys) != part or {*columns[3]} != {part} or len({*keys}) != len(keys):
                raise Damaged(path, "its rows are not those that its name stands for")
        except Damaged as damage:
            return damage
        except (KeyError, TypeError) as error:
            return Damaged(path, f"its rows have no {error}")
        return with_columns(table, "trials", INDEX_COLUMNS)

    def _check_history(self, part: str) -> Damaged | None:
        path = part_path("history", part)
        try:
            if "-" in part:
                self._files.read(path)
                return None
            rows = parquet.read_part(self._files, "history", path, ["cell_id", "replicate", "part"])
        except FileNotFoundError:
            return Damaged(path, "is missing")
        except Damaged as damage:
            return damage
        trials = self._sources[part].table
        mine = {*zip(trials.column("cell_id").to_pylist(), trials.column("replicate").to_pylist(), strict=True)}
        keys = {*zip(rows.column("cell_id").to_pylist(), rows.column("replicate").to_pylist(), strict=True)}
        foreign = "part" in rows.column_names and {*rows.column("part").to_pylist()} - {part}
        return Damaged(path, "it is the history of other trials") if keys - mine or foreign else None

    def _segments(self, manifest: Manifest) -> dict[str, Source]:
        """The contents of a manifest's segments, from its index or from the segments themselves."""
        found: dict[str, Source] = {}
        if manifest.index is not None:
            path = layout.index_path(manifest.index)
            try:
                table = parquet.read_part(self._files, "trials", path, [*INDEX_COLUMNS, "steps"])
                if len(table) != sum(segment.trials for segment in manifest.segments):
                    raise Damaged(path, "it is the index of another manifest")
                first = 0
                for segment in manifest.segments:
                    rows = table.slice(first, segment.trials)
                    found[segment.name] = self._sources.get(segment.name, Source(segment.name, rows, compacted=True))
                    first += segment.trials
                return found
            except (Damaged, FileNotFoundError) as error:
                if not isinstance(error, Damaged):
                    error = Damaged(path, "is missing")
                self.index_is_damaged = True
                warn_damaged(self._files.uri, [error], "skipped: the compacted files are read instead")
        for segment in manifest.segments:
            rows = parquet.read_segment(self._files, "trials", segment.name, segment.seal("trials"), INDEX_COLUMNS)
            lost = rows if rows.damage is None else SegmentRows(rows.table, rows.damage, None)
            found[segment.name] = Source(
                segment.name, with_columns(rows.table, "trials", INDEX_COLUMNS), compacted=True
            )
            self._sources |= found
            warn_damaged(self._files.uri, self.note(segment.name, "trials", lost), "left out")
        return found
