"""Compaction: thousands of small parts become a few files, while others read, write and compact.

New files are written first and have no effect until a manifest names them; publishing it is one exclusive create. A
crash before that leaves files that nobody reads; a crash afterwards leaves parts that nobody needs. Parts are deleted
only when the manifest that replaced them has existed for a grace period and has a successor, so that no reader is still
about to open them. If a part is read again nevertheless, its keys are already there and count once. Only intact rows
are compacted: damaged rows count as missing, and their files are kept in set-aside/.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from flatdist.errors import StoreError
from flatdist.store import layout, parquet
from flatdist.store.filesystem import FileInfo, Filesystem
from flatdist.store.index import Array, Selection
from flatdist.store.layout import (
    history_name,
    manifest_path,
    part_folder,
    part_path,
    segment_folder,
    segment_path,
    stem,
)
from flatdist.store.reading import Reader, View
from flatdist.store.schema import plain
from flatdist.store.snapshot import Catalog, Manifest, Segment, Snapshot, listed_manifests

GRACE = 3600.0  # seconds: longer than any read takes
SMALL = 1 << 21  # history rows; smaller segments are taken up by the next compaction
_PARTS_AT_ONCE = 8192  # bounds the memory of one step
_BYTES_AT_ONCE = 1 << 28


@dataclass(frozen=True)
class Compaction:
    """The outcome of a compaction.

    Attributes:
        number: the newest manifest.
        parts: parts compacted.
        segments: compacted files that the manifest names.
        deleted: files deleted because they are no longer needed.
    """

    number: int
    parts: int
    segments: int
    deleted: int


def compact(
    files: Filesystem, catalog: Catalog, reader: Reader, grace: float, small: int, drop_old_numerics: bool
) -> Compaction | None:
    """Compact all parts into segments, publish them, and delete files that earlier compactions replaced.

    Returns:
        None if another compaction came first: retry.

    Raises:
        Reread: damage was found and reported: retry.
        FileNotFoundError: another compaction was faster: retry.
    """
    view, found = reader.view()
    reader.tell([*found.values()])
    snapshot, selection = view.snapshot, view.selection
    if drop_old_numerics:
        selection = selection.latest_numerics()
    rewritten = _to_rewrite(snapshot, selection, catalog, small)
    needs_index = snapshot.manifest.number and (snapshot.manifest.index is None or catalog.index_is_damaged)
    if not (
        snapshot.parts or rewritten or needs_index or snapshot.newest > snapshot.manifest.number
    ) and not _has_leftovers(files, snapshot, grace):
        return Compaction(snapshot.manifest.number, 0, len(snapshot.manifest.segments), 0)
    damaged = _keep_damaged(files, catalog, rewritten)
    written, order = _write_segments(files, reader, replace(view, selection=selection), rewritten)
    kept = [segment for segment in snapshot.manifest.segments if segment not in rewritten]
    for segment in kept:
        mine = selection.within(segment.name)
        order.append((segment, mine, selection.steps[mine]))
    index = _write_index(files, catalog, selection, order)
    # parts that a damaged segment replaced count again, if they still exist
    taken = snapshot.parts if damaged else (*snapshot.superseded, *snapshot.parts)
    superseded = {stem(info.path): _token(info) for info in taken}
    number = snapshot.newest + 1
    manifest = Manifest(number, tuple(one for one, _, _ in order), superseded, uuid.uuid4().hex, index)
    stray = _stray(files, snapshot)
    if not files.create(manifest_path(number), manifest.to_json()):
        for segment in written:  # another compaction came first; nobody refers to these
            for table in ("trials", "history"):
                files.delete(segment_path(table, segment.name))
        return None
    if max(listed_manifests(files)) > number:  # ours has a successor already, or came too late: delete nothing
        return None
    deleted = _delete_leftovers(files, snapshot, manifest, stray, grace)
    return Compaction(number, len(snapshot.parts), len(manifest.segments), deleted)


def set_aside(files: Filesystem, path: str, *, move: bool = True) -> bool:
    """Set a damaged file aside; False if the store does not allow it."""
    try:
        files.write(f"{layout.SET_ASIDE}/{path}", files.read(path, checked=False))
        if move:
            files.delete(path)
    except FileNotFoundError:  # somebody else was faster
        return True
    except StoreError:
        return False
    return True


def _token(info: FileInfo) -> str:
    """The token of a part; empty if its name determines its content."""
    return "" if layout.stated_digest(info.path) else info.token


def _to_rewrite(snapshot: Snapshot, selection: Selection, catalog: Catalog, small: int) -> list[Segment]:
    """Segments with void rows or without digests, and small ones that can be joined with others."""
    held = dict.fromkeys(selection.sources, 0)
    for position, count in zip(*np.unique(selection.source, return_counts=True), strict=True):
        held[selection.sources[position]] = int(count)
    segments = snapshot.manifest.segments
    outdated = [
        one for one in segments if held.get(one.name, 0) < one.trials or not one.seals or catalog.damage(one.name)
    ]
    little = [
        one
        for one in segments
        if one.history < small and one.trials < small and _size(one) < _BYTES_AT_ONCE // 2 and one not in outdated
    ]
    return outdated + (little if snapshot.parts or outdated or len(little) > 1 else [])


def _size(segment: Segment) -> int:
    return sum(seal.size for seal in segment.seals.values())


def _keep_damaged(files: Filesystem, catalog: Catalog, rewritten: Sequence[Segment]) -> bool:
    """Copy damaged segments to set-aside/; returns whether there are some."""
    damaged = [damage for segment in rewritten for damage in catalog.damage(segment.name)]
    for path in {damage.path for damage in damaged}:
        set_aside(files, path, move=False)
    return bool(damaged)


def _write_segments(
    files: Filesystem, reader: Reader, view: View, rewritten: Sequence[Segment]
) -> tuple[list[Segment], list[tuple[Segment, Array, Array]]]:
    """Write the rows that count from some segments and all parts.

    Returns:
        The new segments; and each again with the positions of its rows in the selection and their rows of history.
    """
    written, order = [], []
    for batch in _batches(files, view.snapshot.parts, rewritten):
        places = view.selection.positions_in(batch)
        if len(places) == 0:
            continue
        mine = view.selection.where(places)
        history, steps_of = reader.rows(view, "history", mine)
        tables = {"history": plain(history), "trials": plain(reader.rows(view, "trials", mine)[0])}
        name = uuid.uuid4().hex
        seals, tokens = {}, {}
        for table, rows in tables.items():
            data, path = parquet.encode(rows), segment_path(table, name)
            files.write(path, data)
            seals[table] = parquet.Seal.of(data)
            if files.tokens_are_digests:
                tokens[table] = next(i.token for i in files.list(segment_folder(table)) if i.path == path)
        segment = Segment(name, len(mine), len(history), seals, tokens)
        counts = np.bincount(steps_of, minlength=len(places))
        written.append(segment)
        order.append((segment, places, counts))
    return written, order


def _batches(files: Filesystem, parts: Sequence[FileInfo], segments: Sequence[Segment]) -> Iterator[list[str]]:
    """Split the work so that one step fits into memory; small segments and parts share their steps."""
    steps = {stem(info.path): info.size for info in files.list(part_folder("history"))} if parts else {}
    names = [(stem(info.path), info.size) for info in parts]
    batch: list[str] = []
    size = 0
    sized = [(one.name, _size(one) or _BYTES_AT_ONCE) for one in segments]
    for source, weight in (*sized, *((name, each + steps.get(history_name(name), 0)) for name, each in names)):
        if batch and (len(batch) >= _PARTS_AT_ONCE or size + weight > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(source)
        size += weight
    if batch:
        yield batch


def _write_index(
    files: Filesystem, catalog: Catalog, selection: Selection, order: Sequence[tuple[Segment, Array, Array]]
) -> str:
    """Write the index of a manifest's segments, in their order; returns the file's name."""
    import pyarrow as pa

    positions = np.concatenate([np.zeros(0, np.int64), *(places for _, places, _ in order)])
    steps = np.concatenate([np.zeros(0, np.int64), *(steps for _, _, steps in order)])
    table = catalog.rows(selection, positions).append_column("steps", pa.array(steps.astype(np.int32)))
    data = parquet.encode(table, row_group=1 << 22)
    name = layout.digest(data)
    files.write(layout.index_path(name), data)
    return name


def _has_leftovers(files: Filesystem, snapshot: Snapshot, grace: float) -> bool:
    """Whether a new manifest would allow anything to be deleted; a guess by this machine's clock, checked later."""
    current = listed_manifests(files).get(snapshot.manifest.number)
    if current is None or time.time() - current.modified < grace:
        return False
    return bool(snapshot.superseded or _stray(files, snapshot))


def _stray(files: Filesystem, snapshot: Snapshot) -> list[FileInfo]:
    """Compacted files that the manifest does not name.

    Listed before the next one is published: what others write afterwards, towards the one after that, is not among
    them, whatever the clocks say.
    """
    named = {segment.name for segment in snapshot.manifest.segments} | {str(snapshot.manifest.index)}
    folders = (segment_folder("trials"), segment_folder("history"), "index/v1")
    return [info for folder in folders for info in files.list(folder) if stem(info.path) not in named]


def _delete_leftovers(
    files: Filesystem, snapshot: Snapshot, manifest: Manifest, stray: Sequence[FileInfo], grace: float
) -> int:
    """Delete what the manifest before this one had already replaced, once it is old enough by the storage's clock."""
    manifests = listed_manifests(files)
    new, old = manifests.get(manifest.number), manifests.get(snapshot.manifest.number)
    if new is None or old is None or new.modified - old.modified < grace:
        return 0
    # Trials first: a part without history would count as damaged. What is written again since then has another name
    # or, by release 0.1, another token, and its history is younger than the manifest.
    replaced = snapshot.manifest.superseded
    parts = [info for info in files.list(part_folder("trials")) if replaced.get(stem(info.path)) in ("", info.token)]
    gone = {part_path("history", stem(info.path)) for info in parts}
    doomed = [info.path for info in parts]
    doomed += [
        info.path
        for info in files.list(part_folder("history"))
        if info.path in gone and ("-" in info.path or info.modified <= old.modified)
    ]
    named = {segment.name for segment in manifest.segments} | {str(manifest.index)}
    doomed += [info.path for info in stray if stem(info.path) not in named and new.modified - info.modified >= grace]
    doomed += [info.path for number, info in manifests.items() if number < snapshot.manifest.number]
    for path in doomed:
        files.delete(path)
    return len(doomed)
