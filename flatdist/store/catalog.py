"""What a store's files hold and which of them are damaged, kept between reads: each immutable file is read once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from flatdist.errors import StoreError
from flatdist.store import parquet
from flatdist.store.documents import Tombstones
from flatdist.store.filesystem import Damaged, Filesystem, warn_damaged
from flatdist.store.index import INDEX_COLUMNS, Selection, Source, select
from flatdist.store.layout import index_path, part_name, part_path, segment_folder, segment_path
from flatdist.store.manifest import Manifest, Segment, Snapshot, take_snapshot
from flatdist.store.schema import empty, with_columns

Answer = TypeVar("Answer")

_ATTEMPTS = 1000
_VANISHED = 5  # reads that find a file gone, compacted away meanwhile, start anew
_LEFT_OUT = "left out; 'flatdist sweep' runs their replicates again, or restore the files from a backup"


@dataclass(frozen=True)
class View:
    """A snapshot without its damaged parts, the rows that count in it, and the damaged parts."""

    snapshot: Snapshot
    selection: Selection
    damaged: Mapping[str, Damaged]


class Reread(Exception):
    """Damage was found, and noted, while rows were read: other rows count without what is damaged."""

    def __init__(self, damaged: Sequence[Damaged]) -> None:
        super().__init__()
        self.damaged = damaged


class Catalog:
    """The contents of a store's files."""

    def __init__(self, files: Filesystem) -> None:
        self.files = files
        self.tombstones = Tombstones(files)
        self._sources: dict[str, Source] = {}
        self._whole: set[str] = set()  # parts and segments of which every byte was checked
        self.damage: dict[str, list[Damaged]] = defaultdict(list)  # of segments
        self.bad_parts: dict[str, Damaged] = {}  # which are skipped
        self._told: set[str] = set()  # damage that was named

    def view(self, *, whole: bool = False, again: bool = False) -> View:
        """Look at the store as it is now.

        ``whole`` checks every byte of the parts, history included; ``again`` also checks those that were damaged.

        Raises:
            FileNotFoundError: a file was deleted after it was listed: look again.
        """
        if again:
            self._sources = {name: source for name, source in self._sources.items() if name not in self.bad_parts}
            self._whole -= self.bad_parts.keys()
            self.bad_parts = {}
        snapshot = take_snapshot(self.files, self.tombstones)
        parts = [info.stem for info in snapshot.parts]
        segments = [segment.name for segment in snapshot.manifest.segments]
        if {*segments} - self._sources.keys():
            self._read_segments(snapshot.manifest)
        self._sources = {name: self._sources[name] for name in (*segments, *parts) if name in self._sources}
        self.bad_parts = {name: self.bad_parts[name] for name in parts if name in self.bad_parts}
        new = [name for name in parts if name not in self._sources and name not in self.bad_parts]
        found, damaged = self.files.sift(self._part, new)
        self._sources |= found
        self.bad_parts |= damaged
        if whole:
            left = [name for name in parts if name not in self._whole and name not in self.bad_parts]
            checked, damaged = self.files.sift(self._check_history, left)
            self._whole |= checked.keys()
            self.bad_parts |= damaged
        sources = [self._sources[name] for name in (*segments, *parts) if name not in self.bad_parts]
        healthy = tuple(info for info in snapshot.parts if info.stem not in self.bad_parts)
        selection = select(sources, snapshot.generations)
        return View(replace(snapshot, parts=healthy), selection, dict(self.bad_parts))

    def answer(self, read: Callable[[View], Answer], *, whole: bool = False, outcome: str = _LEFT_OUT) -> Answer:
        """Read from a view, and again from a new one where files vanish or are found to be damaged, which is named."""

        def attempt() -> Answer:
            view = self.view(whole=whole)
            self._tell(view.damaged.values(), outcome)
            try:
                return read(view)
            except Reread as found:
                self._tell(found.damaged, outcome)
                raise

        return self.retried(attempt)

    def retried(self, read: Callable[[], Answer]) -> Answer:
        """Read again where a file is gone because a compaction has replaced it, or where damage was noted."""
        vanished = 0
        for _ in range(_ATTEMPTS):
            try:
                return read()
            except Reread:
                continue
            except FileNotFoundError as error:
                vanished += 1
                if vanished == _VANISHED:
                    raise StoreError(
                        f"store {self.files.uri}: {error.filename or error} is listed but cannot be found; if it was "
                        "deleted by hand, restore it"
                    ) from error
        raise StoreError(f"store {self.files.uri}: every read finds new damage; check the disk")

    def note(self, segment: str, table: str, damage: Damaged) -> list[Damaged]:
        """Skip the damaged rows of a segment from now on; returns the damage if it is new."""
        if str(damage) in map(str, self.damage[segment]):
            return []
        self.damage[segment].append(damage)
        self._sources[segment] = self._sources[segment].without(table, damage.lost)
        return [damage]

    def check_segments(self, segments: Sequence[Segment]) -> list[Damaged]:
        """Check every byte of some segments; return the new damage, which is skipped from now on.

        An object store checks its own bytes, and a file's token determines its content: a file that still has the token
        it was written with is not fetched.
        """
        found: list[Damaged] = []
        new = [segment for segment in segments if segment.name not in self._whole]
        tokens = {}
        if new and self.files.tokens_are_digests:
            folders = map(segment_folder, ("trials", "history"))
            tokens = {info.path: info.token for folder in folders for info in self.files.list(folder)}
        for segment in new:
            for table in ("trials", "history"):
                token = tokens.get(segment_path(table, segment.name))
                if token is None or token != segment.tokens.get(table):
                    try:
                        parquet.check_segment(self.files, table, segment.name, segment.seals.get(table))
                    except Damaged as damage:
                        found += self.note(segment.name, table, damage)
            self._whole.add(segment.name)
        return found

    def _tell(self, damaged: Iterable[Damaged], outcome: str) -> None:
        """Report damaged files whose rows are missing, each once."""
        new = [damage for damage in damaged if str(damage) not in self._told]
        self._told |= {str(damage) for damage in new}
        warn_damaged(self.files.uri, new, outcome)

    def _part(self, name: str) -> Source:
        """The index rows of a part, checked against its name."""
        path = part_path("trials", name)
        try:
            table = parquet.read_part(self.files, "trials", path, INDEX_COLUMNS)
            part = name.split("-", maxsplit=1)[0]
            columns = [table.column(one).to_pylist() for one in ("cell_id", "replicate", "generation", "part")]
            keys = list(zip(*columns[:3], strict=True))
            if part_name(keys) != part or {*columns[3]} != {part} or len({*keys}) != len(keys):
                raise Damaged(path, "its rows are not those that its name stands for")
        except (KeyError, TypeError) as error:
            raise Damaged(path, f"its rows have no {error}") from error
        return Source(name, with_columns(table, "trials", INDEX_COLUMNS))

    def _check_history(self, part: str) -> None:
        path = part_path("history", part)
        try:
            if "-" in part:
                self.files.read(path)
                return
            rows = parquet.read_part(self.files, "history", path, ["cell_id", "replicate", "part"])
        except FileNotFoundError as error:
            raise Damaged(path, "is missing") from error
        mine, keys = (
            {*zip(table.column("cell_id").to_pylist(), table.column("replicate").to_pylist(), strict=True)}
            for table in (self._sources[part].table, rows)
        )
        if keys - mine or ("part" in rows.column_names and {*rows.column("part").to_pylist()} - {part}):
            raise Damaged(path, "it is the history of other trials")

    def _read_segments(self, manifest: Manifest) -> None:
        """The contents of a manifest's segments, from its index or from the segments themselves."""
        if manifest.index is not None:
            path = index_path(manifest.index)
            try:
                table = parquet.read_part(self.files, "trials", path, [*INDEX_COLUMNS, "steps"])
                if len(table) != sum(segment.trials for segment in manifest.segments):
                    raise Damaged(path, "it is the index of another manifest")
                first = 0
                for segment in manifest.segments:
                    source = Source(segment.name, table.slice(first, segment.trials), segment)
                    self._sources.setdefault(segment.name, source)
                    first += segment.trials
                return
            except (Damaged, FileNotFoundError) as error:
                damage = error if isinstance(error, Damaged) else Damaged(path, "is missing")
                warn_damaged(self.files.uri, [damage], "skipped: the compacted files are read instead")
        for segment in manifest.segments:
            self._sources[segment.name] = Source(segment.name, empty("trials", INDEX_COLUMNS), segment)
            try:
                rows = parquet.read_segment(
                    self.files, "trials", segment.name, segment.seals.get("trials"), INDEX_COLUMNS
                )
            except Damaged as damage:
                warn_damaged(self.files.uri, self.note(segment.name, "trials", damage), "left out")
            else:
                rows = with_columns(rows, "trials", INDEX_COLUMNS)
                self._sources[segment.name] = Source(segment.name, rows, segment)
