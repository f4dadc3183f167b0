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

from flatdist.store import arrow as pa
from flatdist.store.documents import Generations, Versioned
from flatdist.store.schema import empty, plain

if TYPE_CHECKING:
    from flatdist.store.manifest import Segment

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
Spans = Sequence[tuple[int, int]] | None  # (first, stop) of rows; None for all, of a file that cannot be read


@dataclass(frozen=True)
class Source:
    """What a file holds, as needed to decide which rows count."""

    name: str  # of a segment, or of a part's trials file
    table: pa.Table  # INDEX_COLUMNS, and ``steps`` where it is known how many rows of history each row has
    segment: Segment | None = None  # None for a part
    lost: Array | None = None  # mask of its rows that are damaged; None for none

    @cached_property
    def steps(self) -> Array:
        """How many rows of history each row has; -1 where only the file tells."""
        if "steps" not in self.table.column_names:
            return np.full(len(self.table), -1)
        return _integers(self.table.column("steps"))

    def without(self, table: str, lost: Spans) -> Source:
        """Mark the rows of damaged spans of one of its files as lost."""
        mask = np.zeros(len(self.table), bool) if self.lost is None else self.lost.copy()
        if table == "trials":
            for first, stop in [(0, len(mask))] if lost is None else lost:
                mask[first:stop] = True
        elif lost is None or (self.steps < 0).any():
            mask |= self.steps != 0
        else:
            stops = np.cumsum(self.steps)
            for first, stop in lost:
                mask |= (self.steps > 0) & (stops > first) & (stops - self.steps < stop)
        return replace(self, lost=mask)


@dataclass(frozen=True)
class Selection:
    """The rows that count, one per key, sorted by cell_id and replicate."""

    cells: list[str]  # sorted; keys count in them
    sources: Sequence[Source]
    keys: Array  # sorted int64, position in cells * 2^31 + replicate
    source: Array  # which file each key's row is in, as a position in sources
    row: Array  # number of the row within its file
    start: Array  # number of the row's first row of history within its file; -1 where only the file tells
    steps: Array  # how many rows of history it has
    configuration: Array  # as a number
    versions: Array  # sampling and numerics version in one number that sorts like the pair
    generation: Array
    diverged: Array  # whether the row's status is ``diverged``

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {one.name: number for number, one in enumerate(self.sources)}

    @cached_property
    def _cell_numbers(self) -> dict[str, int]:
        return {cell: number for number, cell in enumerate(self.cells)}

    def where(self, mask: Array) -> Selection:
        """Return some of the rows."""
        fields: dict[str, Any] = {name: rows for name, rows in vars(self).items() if isinstance(rows, np.ndarray)}
        return replace(self, **{name: rows[mask] for name, rows in fields.items()})

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

    def used(self) -> list[Source]:
        """Return the files that hold at least one of the rows."""
        return [self.sources[position] for position in np.unique(self.source)]

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

    def triples(self) -> list[Versioned]:
        """Return (cell_id, replicate, generation) of every row."""
        cells = (self.cells[code] for code in (self.keys // _REPLICATES).tolist())
        return list(zip(cells, (self.keys % _REPLICATES).tolist(), self.generation.tolist(), strict=True))

    def index_rows(self, positions: Array) -> pa.Table:
        """Return the index columns of the rows at some positions."""
        first = np.cumsum([0, *(len(one.table) for one in self.sources)])
        return plain(_index(self.sources).take(first[self.source[positions]] + self.row[positions]))

    def locate(self, table: pa.Table, source: str) -> Array:
        """Return the positions here of a file's rows, given their cell_id and replicate; -1 if another row counts."""
        if len(self) == 0 or len(table) == 0 or source not in self._numbers:
            return np.full(len(table), -1)
        values, codes = _texts(table.column("cell_id"))
        lookup = np.array([self._cell_numbers.get(value, -1) for value in values] + [-1])
        keys = lookup[codes] * _REPLICATES + _integers(table.column("replicate"))
        found = np.minimum(np.searchsorted(self.keys, keys), len(self) - 1)
        holds = (self.keys[found] == keys) & (self.source[found] == self._numbers[source])
        return np.where(holds, found, -1)


def select(sources: Sequence[Source], generations: Generations) -> Selection:
    """Choose the rows that count, among the rows of some files and given the current generations."""
    empty_row = np.zeros(0, np.int64)
    source = np.repeat(np.arange(len(sources)), [len(one.table) for one in sources])
    row = np.concatenate([empty_row, *(np.arange(len(one.table)) for one in sources)])
    steps = np.concatenate([empty_row, *(one.steps for one in sources)])
    starts = (np.cumsum(one.steps) - one.steps for one in sources)
    start = np.where(steps < 0, -1, np.concatenate([empty_row, *starts]))
    index = _index(sources)
    cells, cell = _ranked(index.column("cell_id"))
    # a row without a configuration counts as its own configuration
    named = index.column("configuration_id")
    if named.null_count:
        named = pa.compute.coalesce(*(index.column(name).cast(pa.string()) for name in ("configuration_id", "cell_id")))
    _, configuration = _texts(named)
    versions = _integers(index.column("sampling_version")) * _VERSIONS + _integers(index.column("numerics_version"))
    generation = _integers(index.column("generation"))
    states, state = _texts(index.column("status"))
    diverged = np.array([*(text == "diverged" for text in states), False])[state]
    keys = cell * _REPLICATES + _integers(index.column("replicate"))
    every = Selection(
        cells, sources, keys, source, row, start, steps, configuration, versions, generation, diverged
    )  # fmt: skip
    together = bool((np.diff(keys) > 0).all())  # as in a segment alone
    damaged = any(one.lost is not None for one in sources)
    if together and not generations and not damaged:
        return every
    order = np.arange(len(keys))
    if not together:
        is_part = np.array([one.segment is None for one in sources], bool)[source]
        ranks = np.argsort(np.argsort(np.array([one.name for one in sources], object)))
        _, part = _ranked(index.column("part"))
        order = np.lexsort((ranks[source], is_part, part, -generation, keys))
    order = order[generation[order] >= _current(keys[order], cells, generations)]
    if damaged:
        lost = [np.zeros(len(one.table), bool) if one.lost is None else one.lost for one in sources]
        order = order[~np.concatenate(lost)[order]]
    return every.where(order[np.diff(keys[order], prepend=-1) != 0])


def _index(sources: Sequence[Source]) -> pa.Table:
    # a file that cannot be read has no rows, and not the encoding of those that can
    tables = [one.table.select(list(INDEX_COLUMNS)) for one in sources if len(one.table)]
    return pa.concat_tables(tables or [empty("trials", INDEX_COLUMNS)], promote_options="default")


def _current(keys: Array, cells: list[str], generations: Generations) -> Array:
    """The current generation of each key."""
    position = {cell: number for number, cell in enumerate(cells)}
    known = sorted(
        (position[cell_id] * _REPLICATES + replicate, generation)
        for (cell_id, replicate), generation in generations.items()
        if cell_id in position
    )
    if not known or len(keys) == 0:
        return np.zeros(len(keys), np.int64)
    invalidated, current = np.array(known).T
    found = np.minimum(np.searchsorted(invalidated, keys), len(invalidated) - 1)
    return np.where(invalidated[found] == keys, current[found], 0)


def _texts(column: pa.ChunkedArray) -> tuple[list[str], Array]:
    """Distinct values and the position of each row's value among them; -1 for null."""
    if len(column) == 0:
        return [], np.zeros(0, np.int64)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    return column.dictionary.to_pylist(), _whole(column.indices, -1)


def _ranked(column: pa.ChunkedArray) -> tuple[list[str], Array]:
    """The distinct values that occur, sorted, and the position of each row's value among them; -1 for null."""
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
