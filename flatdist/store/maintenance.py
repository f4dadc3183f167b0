"""Housekeeping on whole stores: voiding results, deleting what is of no more use, taking in another store."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flatdist.errors import StoreError
from flatdist.store.failures import count_failures, read_failures
from flatdist.store.filesystem import Filesystem
from flatdist.store.index import Selection
from flatdist.store.layout import CHECKPOINTS, TOMBSTONES, manifest_path, part_folder, part_name, part_path, stem
from flatdist.store.manifest import Manifest, Snapshot, newest_number, read_manifest
from flatdist.store.parts import warn_unreadable, write_part
from flatdist.store.read import load_part_rows, load_segment_rows
from flatdist.store.tombstones import Generations, Key, Tombstones

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Collected:
    """What a garbage collection did.

    Attributes:
        rows: rows of trials dropped because newer numerics computed the same configuration.
        files: files deleted: taken-over parts, checkpoints of finished replicates, leftovers of dead writers.
    """

    rows: int
    files: int


@dataclass(frozen=True)
class Merged:
    """What a merge took in.

    Attributes:
        replicates: replicates that this store did not have.
        failures: files of failures.
        sweeps: names of sweeps taken in.
        sweeps_kept: names that both stores have; this store's meaning stays.
    """

    replicates: int
    failures: int
    sweeps: tuple[str, ...]
    sweeps_kept: tuple[str, ...]


def invalidate(files: Filesystem, tombstones: Tombstones, acknowledged: Selection, keys: Iterable[Key]) -> int:
    """Void the current generation of the keys that have a row or a failure in it; return how many have."""
    failures, _ = read_failures(files)
    generations = tombstones.generations()
    present = {(cell_id, number) for cell_id, numbers in acknowledged.by_cell().items() for number in numbers}
    present |= set(count_failures(failures, generations))
    entries = [(cell_id, number, generations[cell_id, number]) for cell_id, number in set(keys) & present]
    if entries:
        tombstones.add(entries)
    return len(entries)


def storage_clock(files: Filesystem) -> float:
    """Ask the storage what time it is, by the time stamp of a file just written: its clock is the only one used."""
    path = f"{TOMBSTONES}-clock/{uuid.uuid4().hex}"
    files.write(path, b"clock")
    now = max(info.modified for info in files.list(f"{TOMBSTONES}-clock"))
    files.delete(path)
    return now


def collect_leftovers(files: Filesystem, done: dict[str, set[int]], generations: Generations, older_than: float) -> int:
    """Delete checkpoints of finished or voided runs, and history whose trials never followed; return how many files."""
    doomed = []
    for info in files.list(CHECKPOINTS):
        _, cell_id, replicate, _ = info.path.split("/")
        number, _, generation = replicate.partition(".")
        voided = int(generation or 0) < generations[cell_id, int(number)]
        if info.modified < older_than and (voided or int(number) in done.get(cell_id, ())):
            doomed.append(info.path)
    history = files.list(part_folder("history"))  # before trials: what is acknowledged meanwhile is then seen
    acknowledged = {stem(info.path) for info in files.list(part_folder("trials"))}
    doomed += [info.path for info in history if stem(info.path) not in acknowledged and info.modified < older_than]
    for path in doomed:
        files.delete(path)
    return len(doomed) + files.delete_temporaries(older_than)


def merge_rows(
    files: Filesystem,
    generations: Generations,
    mine: Selection,
    theirs_files: Filesystem,
    theirs: tuple[Snapshot, Selection],
) -> int:
    """Copy the rows that hold in another store for keys that this one lacks; return how many replicates.

    Rows that this store's tombstones void are not taken in.
    """
    snapshot, selection = theirs
    alive = [(cell, number) for cell, number, age in selection.triples() if age >= generations[cell, number]]
    selection = selection.of_keys(alive)
    have = mine.by_cell()
    wanted = {
        source: [(cell, replicate) for cell, replicate in keys if replicate not in have.get(cell, ())]
        for source, keys in selection.by_source().items()
    }
    for info in snapshot.parts:
        if wanted.get(stem(info.path)):
            _copy_part(files, theirs_files, stem(info.path), selection, wanted[stem(info.path)])
    for segment in snapshot.manifest.segments:
        if wanted.get(segment.name):
            rows = [load_segment_rows(theirs_files, table, [segment], None) for table in ("trials", "history")]
            _copy_rows(files, rows, selection.of_keys(wanted[segment.name]))
    return sum(len(keys) for keys in wanted.values())


def _copy_part(files: Filesystem, theirs: Filesystem, part: str, selection: Selection, keys: Collection[Key]) -> None:
    """Copy a part, as it is where all its rows are wanted: with others it might be preferred to this store's rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    trials = theirs.read(part_path("trials", part))
    if pq.read_metadata(pa.BufferReader(trials)).num_rows == len(keys):
        files.write(part_path("history", part), theirs.read(part_path("history", part)))
        files.write(part_path("trials", part), trials)  # the acknowledgement last, as when they were written
        return
    loaded = [load_part_rows(theirs, table, [part], None) for table in ("trials", "history")]
    unreadable = [problem for one in loaded for problem in one.unreadable]
    if unreadable:
        warn_unreadable(theirs.uri, unreadable, "not taken in")
    else:
        _copy_rows(files, [one.table for one in loaded], selection.of_keys(keys))


def _copy_rows(files: Filesystem, tables: Iterable[pa.Table], wanted: Selection) -> None:
    """Write the wanted rows of a file's trials and history as one part."""
    import numpy as np
    import pyarrow as pa

    part = part_name(wanted.triples())
    written = []
    for rows in tables:
        chosen = rows.take(np.flatnonzero(wanted.locate(rows) >= 0)).drop_columns(["source"])
        position = chosen.column_names.index("part")
        written.append(chosen.set_column(position, "part", pa.array([part] * len(chosen), pa.string())))
    write_part(files, part, *written)


def copy_immutable(files: Filesystem, theirs: Filesystem, folder: str) -> int:
    """Copy the files of a folder that are named by their content; return how many were missing."""
    have = {info.path for info in files.list(folder)}
    missing = [info.path for info in theirs.list(folder) if info.path not in have]
    for path in missing:
        files.write(path, theirs.read(path))
    return len(missing)


def drop_segment(files: Filesystem, name: str) -> None:
    """Publish a manifest without one compacted file, whose rows then count as missing.

    Raises:
        StoreError: there is no such file, or another compaction came first.
    """
    manifest = read_manifest(files, newest_number(files))
    kept = tuple(segment for segment in manifest.segments if segment.name != name)
    if len(kept) == len(manifest.segments):
        names = ", ".join(segment.name for segment in manifest.segments) or "none"
        raise StoreError(f"store {files.uri} has no compacted file {name!r}; it has {names}")
    # what it took over counts again where it is still there
    number = manifest.number + 1
    if not files.create(manifest_path(number), Manifest(number, kept, {}, uuid.uuid4().hex).to_json()):
        raise StoreError(f"store {files.uri}: a compaction came first; try again")
