"""Housekeeping on whole stores: voiding results, deleting files no longer needed, merging another store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from flatdist.store import layout, parquet
from flatdist.store.documents import Generations, Key, Tombstones
from flatdist.store.filesystem import Damaged, Filesystem, warn_damaged
from flatdist.store.index import Selection
from flatdist.store.layout import CHECKPOINTS, TOMBSTONES, history_name, part_folder, part_name, part_path, stem
from flatdist.store.reading import View
from flatdist.store.rows import copy_part, count_failures, read_failures, write_part
from flatdist.store.schema import plain
from flatdist.store.snapshot import Segment

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Collected:
    """The outcome of a garbage collection.

    Attributes:
        rows: rows of trials dropped because newer numerics computed the same configuration.
        files: files deleted: taken-over parts, checkpoints of finished replicates, leftovers of dead writers.
    """

    rows: int
    files: int


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge.

    Attributes:
        replicates: replicates that this store did not have.
        failures: files of failures.
        sweeps: names of sweeps merged.
        sweeps_kept: names that both stores have; this store's version stays.
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
    acknowledged = {history_name(stem(info.path)) for info in files.list(part_folder("trials"))}
    doomed += [info.path for info in history if stem(info.path) not in acknowledged and info.modified < older_than]
    doomed += [info.path for info in files.list(layout.DRIVERS) if info.modified < older_than]
    for path in doomed:
        files.delete(path)
    return len(doomed) + files.delete_temporaries(older_than)


def merge_rows(files: Filesystem, generations: Generations, mine: Selection, theirs: Filesystem, view: View) -> int:
    """Copy the rows that hold in another store for keys that this one lacks; return how many replicates.

    Rows that this store's tombstones void, and damaged ones, are skipped.
    """
    selection = view.selection
    alive = [(cell, number) for cell, number, age in selection.triples() if age >= generations[cell, number]]
    selection = selection.of_keys(alive)
    have = mine.by_cell()
    count = 0
    sources: list[tuple[str, Segment | None]] = [(stem(info.path), None) for info in view.snapshot.parts]
    sources += [(segment.name, segment) for segment in view.snapshot.manifest.segments]
    keys_of = selection.by_source()
    for name, segment in sources:
        keys = [(cell, replicate) for cell, replicate in keys_of.get(name, ()) if replicate not in have.get(cell, ())]
        if not keys:
            continue
        try:
            _copy(files, theirs, name, segment, selection.of_keys(keys))
            count += len(keys)
        except Damaged as damage:
            warn_damaged(theirs.uri, [damage], f"not merged: {len(keys)} replicates")
    return count


def _copy(files: Filesystem, theirs: Filesystem, name: str, segment: Segment | None, wanted: Selection) -> None:
    """Copy a file's wanted rows, unchanged only if all are wanted: others might win over this store's rows."""
    tables: dict[str, pa.Table] = {}
    for table in ("trials", "history"):
        if segment is None:
            tables[table] = parquet.read_part(theirs, table, part_path(table, name), None)
            continue
        found = parquet.read_segment(theirs, table, name, segment.seal(table), None)
        if found.damage is not None:
            raise found.damage
        tables[table] = found.table
    if segment is None and "-" in name and len(tables["trials"]) == len(wanted):
        copy_part(files, theirs, name)
        return
    import pyarrow as pa

    part = part_name(wanted.triples())
    written = []
    for rows in tables.values():
        chosen = plain(rows.take(np.flatnonzero(wanted.locate(rows, name) >= 0)))
        position = chosen.column_names.index("part")
        written.append(chosen.set_column(position, "part", pa.array([part] * len(chosen), pa.string())))
    write_part(files, part, *written)


def copy_immutable(files: Filesystem, theirs: Filesystem, folder: str) -> int:
    """Copy the healthy files of a folder that are named by their content; return how many were missing."""
    have = {info.path for info in files.list(folder)}
    count, damaged = 0, []
    for info in theirs.list(folder):
        if info.path in have:
            continue
        try:
            data = theirs.read(info.path)
            if folder == part_folder("failures"):
                parquet.decode(data, "failures", info.path, ["cell_id"])
            elif folder == TOMBSTONES:
                Tombstones(theirs).entries(info.path)
            files.write(info.path, data)
            count += 1
        except Damaged as damage:
            damaged.append(damage)
    warn_damaged(theirs.uri, damaged, "not taken in")
    return count
