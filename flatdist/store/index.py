"""Which row counts for every key: the one place that resolves duplicates, tombstones and old numerics.

Among the rows of a key (cell_id, replicate) that no tombstone voids, the highest generation counts; among those, the
row of the smallest part name; among equal names, the compacted copy. No clock is involved, so every reader makes the
same choice.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.store.documents import Generations, Key

if TYPE_CHECKING:
    import pyarrow as pa

INDEX_COLUMNS = (
    "cell_id",
    "replicate",
    "configuration_id",
    "numerics_version",
    "sampling_version",
    "generation",
    "part",
    "status",
)
_REPLICATES = 1 << 31  # replicates are int32, so cell * this + replicate is a key in one int64
_VERSIONS = 1 << 31

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Selection:
    """The rows that count, one per key, sorted by cell_id and replicate.

    Attributes:
        cells: cell ids, sorted; keys count in them.
        keys: sorted int64, position in cells * 2^31 + replicate.
        source: which file each key's row is in, as a position in sources.
        sources: names of segments and of parts' trials files.
        row: number of the row within its file.
        start: number of the row's first row of history within its file; -1 where only the file tells.
        steps: how many rows of history it has.
        configuration: configuration of each row, as a number.
        versions: sampling and numerics version of each row in one number that sorts like the pair.
        generation: of each row.
        diverged: whether each row's status is ``diverged``.
    """

    cells: list[str]
    keys: Array
    source: Array
    sources: list[str]
    row: Array
    start: Array
    steps: Array
    configuration: Array
    versions: Array
    generation: Array
    diverged: Array

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.sources)}

    @cached_property
    def _cell_numbers(self) -> dict[str, int]:
        return {cell: number for number, cell in enumerate(self.cells)}

    def where(self, mask: Array) -> Selection:
        """Return some of the rows."""
        names = (
            "keys", "source", "row", "start", "steps", "configuration", "versions", "generation", "diverged"
        )  # fmt: skip
        return replace(self, **{name: getattr(self, name)[mask] for name in names})

    def of_cells(self, cell_ids: Collection[str], *, follow: bool = False) -> Selection:
        """Return the rows of some cells; with ``follow`` those of their configurations, at any numerics version."""
        wanted = set(cell_ids)
        chosen = np.fromiter((cell in wanted for cell in self.cells), bool, len(self.cells))
        mask = chosen[self.keys // _REPLICATES]
        if follow:
            mask = np.isin(self.configuration, np.unique(self.configuration[mask]))
        return self.where(mask)

    def latest_numerics(self) -> Selection:
        """Return, for every configuration, the rows of its newest sampling and numerics versions."""
        if len(self) == 0 or self.versions.min() == self.versions.max():
            return self
        newest = np.full(self.configuration.max() + 1, -1)
        np.maximum.at(newest, self.configuration, self.versions)
        return self.where(self.versions == newest[self.configuration])

    def used_sources(self) -> set[str]:
        """Return the names of the files that hold at least one of the rows."""
        return {self.sources[position] for position in np.unique(self.source)}

    def positions_in(self, sources: Collection[str]) -> Array:
        """Return the positions of the rows that are in some files."""
        chosen = np.zeros(len(self.sources), bool)
        chosen[[self._numbers[name] for name in sources if name in self._numbers]] = True
        return np.flatnonzero(chosen[self.source])

    def within(self, source: str) -> Array:
        """Return the positions of the rows that are in a file, in the file's order."""
        found = self.positions_in([source])
        return found[np.argsort(self.row[found], kind="stable")]

    def by_cell(self) -> dict[str, set[int]]:
        """Return the replicates of every cell."""
        if len(self) == 0:
            return {}
        codes = self.keys // _REPLICATES
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        groups = np.split(self.keys % _REPLICATES, starts[1:])
        return {self.cells[codes[start]]: set(group.tolist()) for start, group in zip(starts, groups, strict=True)}

    def by_source(self) -> dict[str, list[Key]]:
        """Return the (cell_id, replicate) keys of every file."""
        found: dict[str, list[Key]] = {}
        for key, source in zip(self.keys.tolist(), self.source.tolist(), strict=True):
            found.setdefault(self.sources[source], []).append((self.cells[key // _REPLICATES], key % _REPLICATES))
        return found

    def of_keys(self, keys: Collection[Key]) -> Selection:
        """Return the rows of some (cell_id, replicate) keys."""
        position = self._cell_numbers
        wanted = [position[cell] * _REPLICATES + replicate for cell, replicate in keys if cell in position]
        return self.where(np.isin(self.keys, np.array(wanted, np.int64)))

    def triples(self) -> list[tuple[str, int, int]]:
        """Return (cell_id, replicate, generation) of every row."""
        cells = (self.cells[code] for code in (self.keys // _REPLICATES).tolist())
        return list(zip(cells, (self.keys % _REPLICATES).tolist(), self.generation.tolist(), strict=True))

    def locate(self, table: pa.Table, source: str) -> Array:
        """Find the rows of one file's table that count.

        Args:
            table: with columns cell_id and replicate.
            source: the name of the file.

        Returns:
            For every row of the table its position in this selection, or -1 if another row counts for its key.
        """
        if len(self) == 0 or len(table) == 0 or source not in self._numbers:
            return np.full(len(table), -1)
        values, codes = _texts(table.column("cell_id"))
        lookup = np.array([self._cell_numbers.get(value, -1) for value in values] + [-1])
        keys = lookup[codes] * _REPLICATES + _integers(table.column("replicate"))
        found = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        holds = (self.keys[found] == keys) & (self.source[found] == self._numbers[source])
        return np.where(holds, found, -1)


@dataclass(frozen=True)
class Source:
    """What a file holds, as needed to decide which rows count.

    Attributes:
        name: the file's.
        table: INDEX_COLUMNS, and ``steps`` where it is known how many rows of history each row has.
        compacted: whether it is a segment.
        lost: mask of its rows that are damaged; None for none.
    """

    name: str
    table: pa.Table
    compacted: bool
    lost: Array | None = None

    def with_lost(self, trials: Sequence[tuple[int, int]] | None, history: Sequence[tuple[int, int]] | None) -> Source:
        """Mark the rows of damaged spans of its files as lost; None stands for a file that cannot be read at all."""
        count = len(self.table)
        lost = np.zeros(count, bool) if self.lost is None else self.lost.copy()
        if trials is None or (history and "steps" not in self.table.column_names):
            lost[:] = True
        for first, stop in trials or ():
            lost[first:stop] = True
        steps = _integers(self.table.column("steps")) if "steps" in self.table.column_names else np.ones(count, int)
        stops = np.cumsum(steps)
        for first, stop in [(0, int(stops[-1]) if count else 0)] if history is None else history:
            lost |= (steps > 0) & (stops > first) & (stops - steps < stop)
        return replace(self, lost=lost)


def select(sources: Sequence[Source], generations: Generations) -> Selection:
    """Choose the rows that count.

    Args:
        sources: the files.
        generations: which generations of which keys are void.
    """
    import pyarrow as pa

    names = [one.name for one in sources]
    lengths = [len(one.table) for one in sources]
    source = np.repeat(np.arange(len(sources)), lengths)
    row = np.concatenate([np.arange(length) for length in lengths] or [np.zeros(0, np.int64)])
    steps, start = _history_places(sources)
    # a file that cannot be read has no rows, and not the encoding of those that can
    tables = [one.table.select(list(INDEX_COLUMNS)) for one in sources if len(one.table)] or [_empty_index()]
    index = pa.concat_tables(tables, promote_options="default")
    cells, cell = _ranked(index.column("cell_id"))
    # a row without a configuration counts as its own configuration
    _, configuration = _texts(_coalesce(index.column("configuration_id"), index.column("cell_id")))
    versions = _integers(index.column("sampling_version")) * _VERSIONS + _integers(index.column("numerics_version"))
    generation = _integers(index.column("generation"))
    states, state = _texts(index.column("status"))
    diverged = np.array([*(text == "diverged" for text in states), False])[state]
    keys = cell * _REPLICATES + _integers(index.column("replicate"))

    every = (keys, source, row, start, steps, configuration, versions, generation, diverged)
    together = bool((np.diff(keys) > 0).all())  # as in a segment alone
    damaged = any(one.lost is not None for one in sources)
    if not together or generations or damaged:
        order = np.arange(len(keys))
        if not together:
            is_part = np.array([not one.compacted for one in sources], bool)[source]
            ranks = np.argsort(np.argsort(np.array(names, object)))
            _, part = _ranked(index.column("part"))
            order = np.lexsort((ranks[source], is_part, part, -generation, keys))
        order = order[generation[order] > _voided(keys[order], cells, generations)]
        if damaged:
            lost = [np.zeros(len(one.table), bool) if one.lost is None else one.lost for one in sources]
            order = order[~np.concatenate(lost)[order]]
        order = order[np.diff(keys[order], prepend=-1) != 0]
        every = tuple(one[order] for one in every)
    keys, source, row, start, steps, configuration, versions, generation, diverged = every
    return Selection(
        cells, keys, source, names, row, start, steps, configuration, versions, generation, diverged
    )  # fmt: skip


def _history_places(sources: Sequence[Source]) -> tuple[Array, Array]:
    """How many rows of history each row has, and where they begin in their file; -1 if unknown."""
    steps, start = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for one in sources:
        if "steps" in one.table.column_names:
            steps.append(_integers(one.table.column("steps")))
            start.append(np.cumsum(steps[-1]) - steps[-1])
        else:
            steps.append(np.full(len(one.table), -1))
            start.append(steps[-1])
    return np.concatenate(steps), np.concatenate(start)


def _empty_index() -> pa.Table:
    from flatdist.store.schema import empty

    return empty("trials", INDEX_COLUMNS)


def _voided(keys: Array, cells: list[str], generations: Generations) -> Array:
    """The highest void generation of each key, -1 for none."""
    voided = np.full(len(keys), -1)
    if not generations or len(keys) == 0:
        return voided
    position = {cell: number for number, cell in enumerate(cells)}
    known = sorted(
        (position[cell_id] * _REPLICATES + replicate, generation)
        for (cell_id, replicate), generation in generations.voided.items()
        if cell_id in position
    )
    if known:
        dead, highest = np.array(known).T
        found = np.minimum(np.searchsorted(dead, keys), len(dead) - 1)
        voided = np.where(dead[found] == keys, highest[found], voided)
    return voided


def _texts(column: pa.ChunkedArray) -> tuple[list[str], Array]:
    """Distinct values and the position of each row's value among them; -1 for null."""
    import pyarrow as pa

    if len(column) == 0:
        return [], np.zeros(0, np.int64)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    return column.dictionary.to_pylist(), _whole(column.indices, -1)


def _ranked(column: pa.ChunkedArray) -> tuple[list[str], Array]:
    values, codes = _texts(column)
    if values == sorted({*values}):  # as in an index
        return values, codes
    used = np.unique(codes[codes >= 0])
    names = sorted(values[code] for code in used)
    position = {name: number for number, name in enumerate(names)}
    rank = np.full(len(values) + 1, -1)  # the last entry is null's
    rank[used] = [position[values[code]] for code in used]
    return names, rank[codes]


def _integers(column: pa.ChunkedArray) -> Array:
    return _whole(column.combine_chunks(), 0) if len(column) else np.zeros(0, np.int64)


def _whole(chunk: pa.Array, null: int) -> Array:
    """The whole numbers of an array, in the memory where they are: ``to_numpy`` would import pandas."""
    valid, numbers = chunk.buffers()
    if numbers is None:
        return np.full(len(chunk), null)
    here = slice(chunk.offset, chunk.offset + len(chunk))
    found = np.frombuffer(numbers, f"i{chunk.type.bit_width // 8}")[here]
    if chunk.null_count and valid is not None:
        found = np.where(np.unpackbits(np.frombuffer(valid, np.uint8), bitorder="little")[here], found, null)
    return found.astype(np.int64, copy=False)


def _coalesce(column: pa.ChunkedArray, otherwise: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.null_count == 0:
        return column
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.coalesce(column.cast(pa.string()), otherwise.cast(pa.string()))
