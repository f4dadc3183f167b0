"""A store at one moment: the newest manifest, the parts that it does not include, and the tombstones.

A **manifest** is a numbered list of compacted files; the highest number counts. It is published by creating its number
exclusively, so two compactions cannot both follow the same one. It names an index: one small file that says which rows
its segments hold, so that what is done is known without opening them. The index is trusted only through the manifest
that names it; later parts are read in addition.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flatdist.errors import StoreError
from flatdist.store.documents import Generations, Tombstones, read_json, sealed, whole
from flatdist.store.filesystem import Damaged, FileInfo, Filesystem, warn_damaged
from flatdist.store.layout import MANIFESTS, index_path, is_known, manifest_path, part_folder, segment_path
from flatdist.store.parquet import Seal

FORMAT = 2  # 1 had neither seals nor an index
_ATTEMPTS = 20


@dataclass(frozen=True)
class Segment:
    """One pair of compacted files: trials, and their history."""

    name: str  # of both files
    trials: int  # rows
    history: int  # rows
    seals: Mapping[str, Seal] = field(default_factory=dict)  # table -> what its file must be; none in release 0.1
    tokens: Mapping[str, str] = field(default_factory=dict)  # table -> token of its file, where that is a digest

    @property
    def size(self) -> int:
        """Bytes of both files; 0 for those of release 0.1."""
        return sum(seal.size for seal in self.seals.values())


@dataclass(frozen=True)
class Manifest:
    """What compaction has published.

    ``superseded`` maps the name of a trials part to the token of its file when its rows were taken over, empty where
    the name states the content. A file of that name with another token is a new one, and counts.
    """

    number: int = 0  # before the first compaction
    segments: tuple[Segment, ...] = ()  # no key is in two of them
    superseded: Mapping[str, str] = field(default_factory=dict)
    writer: str = ""  # names the compaction that published it
    index: str | None = None  # names the file that says what the segments hold; None in those of release 0.1

    def includes(self, part: FileInfo) -> bool:
        """Whether the segments hold the rows of a trials part that counted."""
        return self.superseded.get(part.stem) in ("", part.token)

    def to_json(self) -> bytes:
        """Return the file's content."""
        segments = [
            [
                one.name,
                one.trials,
                one.history,
                {table: seal.to_json() for table, seal in one.seals.items()},
                one.tokens,
            ]
            for one in self.segments
        ]
        return sealed(
            {
                "format": FORMAT,
                "number": self.number,
                "writer": self.writer,
                "index": self.index,
                "segments": segments,
                "superseded": dict(sorted(self.superseded.items())),
            }
        )

    @staticmethod
    def from_json(values: Any, number: int) -> Manifest:
        """Read a file's content; raises ValueError, TypeError or KeyError if it is not the manifest of that number."""
        if whole(values["format"], 1) > FORMAT:
            raise StoreError(f"manifest format {values['format']} is newer than this flatdist reads ({FORMAT}); update")
        segments = []
        for name, trials, history, *rest in values["segments"]:
            if not is_known(segment_path("trials", name)):
                raise ValueError(f"{str(name)[:40]!r} is not the name of a segment")
            seals = {table: Seal.from_json(seal) for table, seal in (rest[0] if rest else {}).items()}
            tokens = {table: str(token) for table, token in (rest[1] if len(rest) > 1 else {}).items()}
            segments.append(Segment(name, whole(trials), whole(history, high=1 << 48), seals, tokens))
        index = values.get("index")
        if index is not None and not is_known(index_path(index)):
            raise ValueError(f"{str(index)[:40]!r} is not the name of an index")
        superseded = {str(name): str(token) for name, token in values["superseded"].items()}
        if whole(values["number"], 1) != number:
            raise ValueError(f"it is the content of manifest {values['number']}")
        return Manifest(number, tuple(segments), superseded, str(values["writer"]), index)


@dataclass(frozen=True)
class Snapshot:
    """A consistent view of a store: all rows that count are in the segments and the parts."""

    manifest: Manifest  # the newest
    newest: int  # the highest number there is; more than the manifest's where that one is damaged
    parts: tuple[FileInfo, ...]  # of trials, that it does not include
    superseded: tuple[FileInfo, ...]  # of trials, that it includes and that still exist
    generations: Generations


def listed_manifests(files: Filesystem) -> dict[int, FileInfo]:
    """Return the manifests that are there, by number."""
    return {int(info.stem): info for info in files.list(MANIFESTS) if int(info.stem)}


def _read_manifest(files: Filesystem, numbers: Collection[int]) -> Manifest:
    """The newest intact manifest, or the empty one.

    The one before the newest still names every row: what it lists is deleted only when it has two successors.
    """
    for number in sorted(numbers, reverse=True):
        try:
            return read_json(files, manifest_path(number), partial(Manifest.from_json, number=number))
        except Damaged as damage:
            warn_damaged(files.uri, [damage], "skipped: the previous one is used until the next compaction")
    return Manifest()


def take_snapshot(files: Filesystem, tombstones: Tombstones) -> Snapshot:
    """Read a consistent state of a store while others write and compact.

    The parts are listed between two reads of the manifest list: if both show the same manifest, no part that it lacks
    can have been deleted in between.
    """
    for _ in range(_ATTEMPTS):
        numbers = listed_manifests(files)
        newest = max(numbers, default=0)
        try:
            manifest = _read_manifest(files, numbers)
        except FileNotFoundError:  # an old one, deleted since; there is a newer one
            continue
        parts = files.list(part_folder("trials"))
        generations = tombstones.generations()
        if max(listed_manifests(files), default=0) == newest:
            left = tuple(info for info in parts if not manifest.includes(info))
            superseded = tuple(info for info in parts if manifest.includes(info))
            return Snapshot(manifest, newest, left, superseded, generations)
    raise StoreError(f"store {files.uri}: compacted {_ATTEMPTS} times while it was being read; try again later")
