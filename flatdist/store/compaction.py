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
from typing import TYPE_CHECKING

import numpy as np

from flatdist.errors import StoreError
from flatdist.store import layout, parquet
from flatdist.store.filesystem import Damaged, FileInfo, Filesystem
from flatdist.store.index import Array, Selection
from flatdist.store.layout import manifest_path, part_folder, part_path, segment_folder, segment_path, stem
from flatdist.store.reading import View, rows_of, spans_of
from flatdist.store.schema import empty, plain
from flatdist.store.snapshot import Catalog, Manifest, Segment, Snapshot, listed_manifests

if TYPE_CHECKING:
    import pyarrow as pa

GRACE = 3600.0  # seconds: longer than any read takes
SMALL = 1 << 21  # history rows; smaller segments are taken up by the next compaction
_PARTS_AT_ONCE = 8192  # bounds the memory of one step
_BYTES_AT_ONCE = 1 << 28
_ATTEMPTS = 20

Source = tuple[str, Segment | None]  # a segment, or a part


class Retry(Exception):
    """Files turned out to be damaged: retry without them."""

    def __init__(self, damaged: Sequence[Damaged]) -> None:
        super().__init__()
        self.damaged = damaged


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
    files: Filesystem, catalog: Catalog, view: View, *, grace: float, small: int, drop_old_numerics: bool
) -> Compaction | None:
    """Compact all parts into segments, publish them, and delete files that earlier compactions replaced.

    Returns:
        None if another compaction came first: retry.

    Raises:
        Retry: damage was found.
        FileNotFoundError: another compaction was faster: retry.
    """
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
    written, order = _write_segments(files, catalog, snapshot, selection, rewritten)
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
    if not files.create(manifest_path(number), manifest.to_json()):
        for segment in written:  # another compaction came first; nobody refers to these
            for table in ("trials", "history"):
                files.delete(segment_path(table, segment.name))
        return None
    if max(listed_manifests(files)) > number:  # ours has a successor already, or came too late: delete nothing
        return None
    deleted = _delete_leftovers(files, snapshot, manifest, grace)
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
    little = [one for one in segments if one.history < small and one.trials < small and one not in outdated]
    return outdated + (little if snapshot.parts or outdated or len(little) > 1 else [])


def _keep_damaged(files: Filesystem, catalog: Catalog, rewritten: Sequence[Segment]) -> bool:
    """Copy damaged segments to set-aside/; returns whether there are some."""
    damaged = [damage for segment in rewritten for damage in catalog.damage(segment.name)]
    for path in {damage.path for damage in damaged}:
        set_aside(files, path, move=False)
    return bool(damaged)


def _write_segments(
    files: Filesystem, catalog: Catalog, snapshot: Snapshot, selection: Selection, rewritten: Sequence[Segment]
) -> tuple[list[Segment], list[tuple[Segment, Array, Array]]]:
    """Write the rows that count from some segments and all parts.

    Returns:
        The new segments; and each again with the positions of its rows in the selection and their rows of history.
    """
    written, order = [], []
    for batch in _batches(snapshot.parts, rewritten):
        trials, places = _held(files, catalog, selection, "trials", batch)
        if len(trials) == 0:
            continue
        history, steps_of = _held(files, catalog, selection, "history", batch)
        name = uuid.uuid4().hex
        tables = {"history": history, "trials": trials}
        seals, tokens = {}, {}
        for table, rows in tables.items():
            data, path = parquet.encode(rows), segment_path(table, name)
            files.write(path, data)
            seals[table] = parquet.Seal.of(data)
            if files.tokens_are_digests:
                tokens[table] = next(i.token for i in files.list(segment_folder(table)) if i.path == path)
        segment = Segment(name, len(trials), len(history), seals, tokens)
        counts = np.bincount(np.searchsorted(places, steps_of), minlength=len(places))
        written.append(segment)
        order.append((segment, places, counts))
    return written, order


def _batches(parts: Sequence[FileInfo], segments: Sequence[Segment]) -> Iterator[list[Source]]:
    batch: list[Source] = []
    size = 0
    sized = [((one.name, one), sum(seal.size for seal in one.seals.values()) or _BYTES_AT_ONCE) for one in segments]
    for source, weight in (*sized, *(((stem(info.path), None), 2 * info.size) for info in parts)):
        if batch and (len(batch) >= _PARTS_AT_ONCE or size + weight > _BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(source)
        size += weight
    if batch:
        yield batch


def _held(
    files: Filesystem, catalog: Catalog, selection: Selection, table: str, sources: Sequence[Source]
) -> tuple[pa.Table, Array]:
    """The rows of some files that count, sorted by key and step, and their positions in the selection."""
    import pyarrow as pa

    def read(source: Source) -> tuple[pa.Table, Array] | Damaged:
        name, segment = source
        mine = selection.within(name)
        if segment is None:
            try:
                rows = parquet.read_part(files, table, part_path(table, name), None)
            except Damaged as damage:
                return damage
            return rows, selection.locate(rows, name)
        places = rows_of(selection, mine, table)
        numbers = None if places is None else places[0]
        spans = None if numbers is None else spans_of(numbers)
        found = parquet.read_segment(files, table, name, segment.seal(table), None, spans)
        if found.damage is not None:
            catalog.note(name, table, found)
            return found.damage
        if places is None:
            return found.table, selection.locate(found.table, name)
        at = places[0] if found.rows is None else np.searchsorted(found.rows, places[0])
        return found.table.take(at), places[1]

    used = selection.used_sources()
    pieces, damaged = [], []
    wanted = [source for source in sources if source[0] in used]
    for (name, segment), piece in zip(wanted, files.map(read, wanted), strict=True):
        if isinstance(piece, Damaged):
            damaged.append(piece if segment else catalog.note_part(name, piece))
        else:
            pieces.append(piece)
    if damaged:
        raise Retry(damaged)
    if not pieces:
        return empty(table), np.zeros(0, np.int64)
    rows = pa.concat_tables([rows for rows, _ in pieces], promote_options="default")
    position = np.concatenate([one for _, one in pieces])
    kept = np.flatnonzero(position >= 0)
    keys = [position[kept]] if table == "trials" else [rows.column("step").to_numpy()[kept], position[kept]]
    kept = kept[np.lexsort(keys)]
    return plain(rows.take(kept)), position[kept]


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
    named = {segment.name for segment in snapshot.manifest.segments}
    stray = any(stem(info.path) not in named for info in files.list(segment_folder("trials")))
    return bool(snapshot.superseded) or stray


def _delete_leftovers(files: Filesystem, snapshot: Snapshot, manifest: Manifest, grace: float) -> int:
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
    named = {segment.name for segment in (*snapshot.manifest.segments, *manifest.segments)}
    named |= {str(snapshot.manifest.index), str(manifest.index)}
    for folder in (segment_folder("trials"), segment_folder("history"), "index/v1"):
        doomed += [
            info.path
            for info in files.list(folder)
            if stem(info.path) not in named and new.modified - info.modified >= grace
        ]
    doomed += [info.path for number, info in manifests.items() if number < snapshot.manifest.number]
    for path in doomed:
        files.delete(path)
    return len(doomed)
