"""Manifests: numbered lists of compacted files, of which the highest number holds.

A manifest is published by creating its number exclusively, so two compactions cannot both follow the same one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from flatdist.errors import StoreError
from flatdist.store.filesystem import FileInfo, Filesystem
from flatdist.store.layout import MANIFESTS, manifest_path, part_folder, stem
from flatdist.store.tombstones import Generations, Tombstones

FORMAT = 1
_ATTEMPTS = 20


@dataclass(frozen=True)
class Segment:
    """One pair of compacted files: trials, and their history.

    Attributes:
        name: names both files.
        trials: rows of trials.
        history: rows of history.
    """

    name: str
    trials: int
    history: int


@dataclass(frozen=True)
class Manifest:
    """What compaction has published.

    Attributes:
        number: 0 before the first compaction.
        segments: the compacted files; no key is in two of them.
        superseded: part -> token of its trials file when its rows were taken over. A file of that name with another
            token is a new one, and counts.
        writer: names the compaction that published it.
    """

    number: int = 0
    segments: tuple[Segment, ...] = ()
    superseded: Mapping[str, str] = field(default_factory=dict)
    writer: str = ""

    def to_json(self) -> bytes:
        """Return the file's content."""
        content = {
            "format": FORMAT,
            "number": self.number,
            "writer": self.writer,
            "segments": [[segment.name, segment.trials, segment.history] for segment in self.segments],
            "superseded": dict(sorted(self.superseded.items())),
        }
        return json.dumps(content, separators=(",", ":")).encode()

    @staticmethod
    def from_json(content: bytes) -> Manifest:
        """Read a file's content."""
        values = json.loads(content)
        if values["format"] > FORMAT:
            raise StoreError(f"manifest format {values['format']} is newer than this flatdist reads ({FORMAT}); update")
        segments = tuple(Segment(str(name), int(trials), int(history)) for name, trials, history in values["segments"])
        return Manifest(int(values["number"]), segments, dict(values["superseded"]), str(values["writer"]))


@dataclass(frozen=True)
class Snapshot:
    """A consistent view of a store: all rows that count are in the segments and the parts.

    Attributes:
        manifest: the newest manifest.
        parts: trials parts that it has not taken over.
        superseded: trials parts that it has, and that are still there.
        generations: the current generation of every key.
    """

    manifest: Manifest
    parts: tuple[FileInfo, ...]
    superseded: tuple[FileInfo, ...]
    generations: Generations


def listed_manifests(files: Filesystem) -> list[FileInfo]:
    """Return the manifests that are there, by number."""
    return [info for info in files.list(MANIFESTS) if stem(info.path).isdigit()]


def newest_number(files: Filesystem) -> int:
    """Return the highest manifest's number, 0 for none."""
    return max((int(stem(info.path)) for info in listed_manifests(files)), default=0)


def read_manifest(files: Filesystem, number: int) -> Manifest:
    """Return a manifest by its number; the empty one for 0."""
    if number == 0:
        return Manifest()
    try:
        return Manifest.from_json(files.read(manifest_path(number)))
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"store {files.uri}: {manifest_path(number)} is damaged, and compacted rows cannot be found without it; "
            "restore it from a backup, or delete it to return to the manifest before"
        ) from error


def take_snapshot(files: Filesystem, tombstones: Tombstones) -> Snapshot:
    """Look at a store at one moment, although others write and compact meanwhile.

    The parts are listed between two looks at the manifests: when both show the same one, no part that the manifest
    lacks can have been deleted in between.
    """
    for _ in range(_ATTEMPTS):
        number = newest_number(files)
        try:
            manifest = read_manifest(files, number)
        except FileNotFoundError:  # an old one, deleted since; there is a newer one
            continue
        parts = [info for info in files.list(part_folder("trials")) if info.path.endswith(".parquet")]
        generations = tombstones.generations()
        if newest_number(files) == number:
            taken = [manifest.superseded.get(stem(info.path)) == info.token for info in parts]
            return Snapshot(
                manifest,
                tuple(info for info, is_taken in zip(parts, taken, strict=True) if not is_taken),
                tuple(info for info, is_taken in zip(parts, taken, strict=True) if is_taken),
                generations,
            )
    raise StoreError(f"store {files.uri}: compacted {_ATTEMPTS} times while it was being read; try again later")
