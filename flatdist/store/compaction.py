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
from dataclasses import dataclass

import numpy as np

from flatdist.errors import StoreError
from flatdist.store import arrow as pa
from flatdist.store import layout, parquet
from flatdist.store.catalog import Catalog, View
from flatdist.store.filesystem import FileInfo, Filesystem
from flatdist.store.index import Array, Selection
from flatdist.store.manifest import Manifest, Segment, Snapshot, listed_manifests
from flatdist.store.reading import read_rows
from flatdist.store.schema import plain

GRACE = 3600.0  # seconds: longer than any read takes
SMALL = 1 << 21  # history rows; smaller segments are taken up by the next compaction
_PARTS_AT_ONCE = 8192  # bounds the memory of one step
_BYTES_AT_ONCE = 1 << 28


@dataclass(frozen=True)
class Compaction:
    """The outcome of a compaction."""

    number: int  # of the newest manifest
    parts: int  # that were compacted
    segments: int  # compacted files that the manifest names
    deleted: int  # files that are no longer needed


def compact(catalog: Catalog, view: View, grace: float, small: int, drop_old_numerics: bool) -> Compaction | None:
    """Compact all parts into segments, publish them, and delete files that earlier compactions replaced.

    Returns None if another compaction came first, and raises Reread or FileNotFoundError where the view is outdated.
    """
    files, snapshot = catalog.files, view.snapshot
    old = snapshot.manifest
    selection = view.selection.latest_numerics() if drop_old_numerics else view.selection
    rewritten = _to_rewrite(view, selection, catalog, small)
    has_work = snapshot.parts or rewritten or snapshot.newest > old.number
    if not has_work and not _has_leftovers(files, snapshot, grace):
        return Compaction(old.number, 0, len(old.segments), 0)
    damaged = {damage.path for segment in rewritten for damage in catalog.damage[segment.name]}
    for path in damaged:
        set_aside(files, path, move=False)
    order = [
        _write_segment(catalog, selection, places)
        for batch in _batches(files, snapshot.parts, rewritten)
        if len(places := selection.positions_in(batch))
    ]
    written = [segment for segment, _, _ in order]
    for segment in old.segments:
        if segment not in rewritten:
            places = selection.within(segment.name)
            order.append((segment, places, selection.steps[places]))
    index = _write_index(files, selection, order)
    # parts that a damaged segment replaced count again, if they still exist
    taken = snapshot.parts if damaged else (*snapshot.superseded, *snapshot.parts)
    superseded = {info.stem: "" if layout.stated_digest(info.path) else info.token for info in taken}
    number = snapshot.newest + 1
    manifest = Manifest(number, tuple(one for one, _, _ in order), superseded, uuid.uuid4().hex, index)
    stray = _stray(files, old)
    if not files.create(layout.manifest_path(number), manifest.to_json()):
        for segment in written:  # another compaction came first; nobody refers to these
            for table in ("trials", "history"):
                files.delete(layout.segment_path(table, segment.name))
        return None
    if max(listed_manifests(files)) > number:  # ours has a successor already, or came too late: delete nothing
        return None
    deleted = _delete_leftovers(files, old, manifest, stray, grace)
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


def _to_rewrite(view: View, selection: Selection, catalog: Catalog, small: int) -> list[Segment]:
    """Segments with void rows or without digests or an index, and small ones that can be joined with others."""
    outdated, little = [], []
    for source in selection.sources:
        if (one := source.segment) is None:
            continue
        is_whole = len(selection.positions_in([one.name])) == one.trials and not catalog.damage[one.name]
        if not is_whole or not one.seals or (source.steps < 0).any():
            outdated.append(one)
        elif one.history < small and one.trials < small and one.size < _BYTES_AT_ONCE // 2:
            little.append(one)
    return outdated + (little if view.snapshot.parts or outdated or len(little) > 1 else [])


def _batches(files: Filesystem, parts: Sequence[FileInfo], segments: Sequence[Segment]) -> Iterator[list[str]]:
    """Split the work so that one step fits into memory; small segments and parts share their steps."""
    steps = {info.stem: info.size for info in files.list(layout.part_folder("history"))} if parts else {}
    sized = [(one.name, one.size or _BYTES_AT_ONCE) for one in segments]
    sized += [(one.stem, one.size + steps.get(layout.history_name(one.stem), 0)) for one in parts]
    batch: list[str] = []
    size = 0
    for source, weight in sized:
        if batch and (len(batch) >= _PARTS_AT_ONCE or size + weight > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(source)
        size += weight
    if batch:
        yield batch


def _write_segment(catalog: Catalog, selection: Selection, places: Array) -> tuple[Segment, Array, Array]:
    """Write the rows at some places of a selection as a segment; return it with them and their rows of history."""
    files, mine, name = catalog.files, selection.where(places), uuid.uuid4().hex
    history, step_of = read_rows(catalog, mine, "history")
    trials, _ = read_rows(catalog, mine, "trials")
    seals, tokens = {}, {}
    for table, rows in (("history", history), ("trials", trials)):
        data, path = parquet.encode(plain(rows)), layout.segment_path(table, name)
        files.write(path, data)
        seals[table] = parquet.Seal.of(data)
        if files.tokens_are_digests:
            tokens[table] = next(one.token for one in files.list(layout.segment_folder(table)) if one.path == path)
    segment = Segment(name, len(mine), len(history), seals, tokens)
    return segment, places, np.bincount(step_of, minlength=len(places))


def _write_index(files: Filesystem, selection: Selection, order: Sequence[tuple[Segment, Array, Array]]) -> str:
    """Write the index of a manifest's segments, in their order; returns the file's name."""
    none = np.zeros(0, np.int64)
    table = selection.index_rows(np.concatenate([none, *(places for _, places, _ in order)]))
    steps = np.concatenate([none, *(steps for _, _, steps in order)])
    data = parquet.encode(table.append_column("steps", pa.array(steps.astype(np.int32))), row_group=1 << 22)
    name = layout.digest(data)
    files.write(layout.index_path(name), data)
    return name


def _has_leftovers(files: Filesystem, snapshot: Snapshot, grace: float) -> bool:
    """Whether a new manifest would allow anything to be deleted; a guess by this machine's clock, checked later."""
    current = listed_manifests(files).get(snapshot.manifest.number)
    if current is None or time.time() - current.modified < grace:
        return False
    return bool(snapshot.superseded or _stray(files, snapshot.manifest))


def _stray(files: Filesystem, manifest: Manifest) -> list[FileInfo]:
    """Compacted files that the manifest does not name.

    Listed before the next one is published: what others write afterwards, towards the one after that, is not among
    them, whatever the clocks say.
    """
    folders = (layout.segment_folder("trials"), layout.segment_folder("history"), layout.INDEXES)
    return [info for folder in folders for info in files.list(folder) if info.stem not in _named(manifest)]


def _named(manifest: Manifest) -> set[str]:
    return {segment.name for segment in manifest.segments} | {str(manifest.index)}


def _delete_leftovers(
    files: Filesystem, before: Manifest, manifest: Manifest, stray: Sequence[FileInfo], grace: float
) -> int:
    """Delete what the manifest before this one had already replaced, once it is old enough by the storage's clock."""
    manifests = listed_manifests(files)
    new, old = manifests.get(manifest.number), manifests.get(before.number)
    if new is None or old is None or new.modified - old.modified < grace:
        return 0
    # Trials first: a part without history would count as damaged. What is written again since then has another name
    # or, by release 0.1, another token, and its history is younger than the manifest.
    doomed = [info.path for info in files.list(layout.part_folder("trials")) if before.includes(info)]
    gone = {layout.part_path("history", layout.stem(path)) for path in doomed}
    doomed += [
        info.path
        for info in files.list(layout.part_folder("history"))
        if info.path in gone and ("-" in info.path or info.modified <= old.modified)
    ]
    named = _named(manifest)
    doomed += [info.path for info in stray if info.stem not in named and new.modified - info.modified >= grace]
    doomed += [info.path for number, info in manifests.items() if number < before.number]
    for path in doomed:
        files.delete(path)
    return len(doomed)
