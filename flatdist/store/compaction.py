"""Compaction: thousands of small parts become a few files, while others read, write and compact.

New files are written first and mean nothing until a manifest names them; publishing it is one exclusive create. A crash
before leaves files that nobody reads, a crash afterwards leaves parts that nobody needs. Parts are deleted only when
the manifest that took them over has been there for a grace period and has a successor, so that no reader is still on
its way to them. Should one be read again nevertheless, its keys are already there and count once.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flatdist.errors import StoreError
from flatdist.store.acknowledged import Acknowledgements
from flatdist.store.filesystem import FileInfo, Filesystem
from flatdist.store.index import Selection
from flatdist.store.layout import manifest_path, part_folder, segment_folder, segment_path, stem
from flatdist.store.manifest import Manifest, Segment, Snapshot, listed_manifests, newest_number
from flatdist.store.parts import warn_unreadable
from flatdist.store.read import load_part_rows, load_segment_rows
from flatdist.store.schema import to_parquet

if TYPE_CHECKING:
    import pyarrow as pa

GRACE = 3600.0  # seconds: longer than any read takes
SMALL = 1 << 21  # history rows; smaller segments are taken up by the next compaction
_PARTS_AT_ONCE = 8192  # bounds the memory of one step
_BYTES_AT_ONCE = 1 << 28
_ATTEMPTS = 20


@dataclass(frozen=True)
class Compaction:
    """What a compaction did.

    Attributes:
        number: the newest manifest.
        parts: parts taken over.
        segments: compacted files that the manifest names.
        deleted: files deleted because nobody needs them any more.
    """

    number: int
    parts: int
    segments: int
    deleted: int


def compact(
    files: Filesystem,
    acknowledgements: Acknowledgements,
    *,
    grace: float = GRACE,
    small: int = SMALL,
    drop_old_numerics: bool = False,
) -> Compaction:
    """Take all parts over into segments, publish them, and delete what earlier compactions took over.

    Raises:
        StoreError: the store cannot tell two compactions apart, or others compact without end.
        FileNotFoundError: another compaction was faster: start again.
    """
    if not files.exclusive():
        raise StoreError(
            f"store {files.uri} does not support conditional writes, without which two compactions could undo each "
            "other; results stay readable as they are"
        )
    for _ in range(_ATTEMPTS):
        snapshot, selection = acknowledgements.read()
        if drop_old_numerics:
            selection = selection.latest_numerics()
        rewritten = _to_rewrite(snapshot, selection, small)
        if not snapshot.parts and not rewritten and not _has_leftovers(files, snapshot, grace):
            return Compaction(snapshot.manifest.number, 0, len(snapshot.manifest.segments), 0)
        written, taken = _write_segments(files, snapshot, selection, rewritten)
        kept = [segment for segment in snapshot.manifest.segments if segment not in rewritten]
        superseded = {stem(info.path): info.token for info in (*snapshot.superseded, *taken)}
        number = snapshot.manifest.number + 1
        manifest = Manifest(number, (*kept, *written), superseded, uuid.uuid4().hex)
        if files.create(manifest_path(number), manifest.to_json()) and newest_number(files) == number:
            deleted = _delete_leftovers(files, snapshot, manifest, grace)
            return Compaction(number, len(taken), len(manifest.segments), deleted)
        for segment in written:  # another compaction came first; nobody has heard of these
            for table in ("trials", "history"):
                files.delete(segment_path(table, segment.name))
    raise StoreError(f"store {files.uri}: {_ATTEMPTS} other compactions came first; leave compaction to one of them")


def _to_rewrite(snapshot: Snapshot, selection: Selection, small: int) -> list[Segment]:
    """Segments with rows that no longer hold, and small ones where they can be joined with something."""
    held = dict.fromkeys(selection.sources, 0)
    for position, count in zip(*np.unique(selection.source, return_counts=True), strict=True):
        held[selection.sources[position]] = int(count)
    outdated = [segment for segment in snapshot.manifest.segments if held.get(segment.name, 0) < segment.trials]
    little = [s for s in snapshot.manifest.segments if s.history < small and s.trials < small and s not in outdated]
    return outdated + (little if snapshot.parts or outdated or len(little) > 1 else [])


def _write_segments(
    files: Filesystem, snapshot: Snapshot, selection: Selection, rewritten: Sequence[Segment]
) -> tuple[list[Segment], list[FileInfo]]:
    """Write the rows that hold in some segments and all parts; return the new segments and the parts taken over."""
    written, taken = [], []
    for parts, segments in _batches(snapshot.parts, rewritten):
        names = [stem(info.path) for info in parts]
        history_parts = load_part_rows(files, "history", names, None)
        trial_parts = load_part_rows(files, "trials", names, None)
        unreadable = (*history_parts.unreadable, *trial_parts.unreadable)
        damaged = {stem(problem.path) for problem in unreadable}
        warn_unreadable(files.uri, unreadable, "not compacted")
        trial_rows, steps_of_parts = (_without(loaded.table, damaged) for loaded in (trial_parts, history_parts))
        trials = _held([load_segment_rows(files, "trials", segments, None), trial_rows], selection, None)
        steps = [load_segment_rows(files, "history", segments, None), steps_of_parts]
        history = _held(steps, selection, "step")
        taken += [info for info in parts if stem(info.path) not in damaged]
        if len(trials):
            segment = Segment(uuid.uuid4().hex, len(trials), len(history))
            files.write(segment_path("history", segment.name), to_parquet(history))
            files.write(segment_path("trials", segment.name), to_parquet(trials))
            written.append(segment)
    return written, taken


def _batches(parts: Sequence[FileInfo], segments: Sequence[Segment]) -> Iterator[tuple[list[FileInfo], list[Segment]]]:
    """Split the work so that one step fits into memory; small segments join the first."""
    batch: list[FileInfo] = []
    first, size = list(segments), 0
    for info in parts:
        if batch and (len(batch) >= _PARTS_AT_ONCE or size + info.size > _BYTES_AT_ONCE):
            yield batch, first
            batch, first, size = [], [], 0
        batch.append(info)
        size += info.size
    if batch or first:
        yield batch, first


def _held(tables: Sequence[pa.Table], selection: Selection, then: str | None) -> pa.Table:
    """The rows of some tables that hold, sorted by key and then by a column, without their source."""
    import pyarrow as pa

    rows = pa.concat_tables(tables, promote_options="default")
    position = selection.locate(rows)
    kept = np.flatnonzero(position >= 0)
    order = [position[kept]] if then is None else [rows.column(then).to_numpy()[kept], position[kept]]
    rows = rows.take(kept[np.lexsort(order)]).drop_columns(["source"])
    for index, field in enumerate(rows.schema):
        if pa.types.is_dictionary(field.type):
            plain = field.with_type(field.type.value_type)
            rows = rows.set_column(index, plain, rows.column(index).cast(plain.type))
    return rows


def _without(rows: pa.Table, sources: Collection[str]) -> pa.Table:
    """The rows that come from none of some files."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not sources:
        return rows
    inside = pc.is_in(rows.column("source").cast(pa.string()), pa.array(sorted(sources), pa.string()))
    return rows.filter(pc.invert(inside))


def _has_leftovers(files: Filesystem, snapshot: Snapshot, grace: float) -> bool:
    """Whether a new manifest would allow anything to be deleted; a guess by this machine's clock, checked later."""
    current = {stem(info.path): info for info in listed_manifests(files)}.get(f"{snapshot.manifest.number:08d}")
    if current is None or time.time() - current.modified < grace:
        return False
    named = {segment.name for segment in snapshot.manifest.segments}
    stray = any(stem(info.path) not in named for info in files.list(segment_folder("trials")))
    return bool(snapshot.superseded) or stray


def _delete_leftovers(files: Filesystem, snapshot: Snapshot, manifest: Manifest, grace: float) -> int:
    """Delete what the manifest before this one had already replaced, once it is old enough by the storage's clock."""
    manifests = {int(stem(info.path)): info for info in listed_manifests(files)}
    new, old = manifests.get(manifest.number), manifests.get(snapshot.manifest.number)
    if new is None or old is None or new.modified - old.modified < grace:
        return 0
    # Trials first: a part without history would count as damaged. A part of the same name that was written since then
    # has another token, and its history is younger than the manifest.
    replaced = snapshot.manifest.superseded
    parts = [info for info in files.list(part_folder("trials")) if replaced.get(stem(info.path)) == info.token]
    gone = {stem(info.path) for info in parts}
    doomed = [info.path for info in parts]
    doomed += [
        info.path
        for info in files.list(part_folder("history"))
        if stem(info.path) in gone and info.modified <= old.modified
    ]
    named = {segment.name for segment in (*snapshot.manifest.segments, *manifest.segments)}
    for table in ("trials", "history"):
        doomed += [
            info.path
            for info in files.list(segment_folder(table))
            if stem(info.path) not in named and new.modified - info.modified >= grace
        ]
    doomed += [info.path for number, info in manifests.items() if number < snapshot.manifest.number]
    for path in doomed:
        files.delete(path)
    return len(doomed)
