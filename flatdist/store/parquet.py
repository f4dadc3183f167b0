"""Parquet files of a store: bytes to checked tables and back.

A *part* is small and read whole; its name states its digest (:mod:`flatdist.store.layout`). A *segment* is large and
read by columns; its :class:`Seal`, kept in the manifest, holds a digest of its footer and of every column chunk, so
that every read is checked and a damaged chunk costs the rows of one row group. Arrow is given checked bytes only.
Files of release 0.1 state no digest: their page checksums are verified, and their footers compared with the second copy
of the schema that Arrow keeps in them.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from flatdist.store import arrow as pa
from flatdist.store import layout
from flatdist.store.filesystem import Damaged, Filesystem
from flatdist.store.schema import conform, schema

ROW_GROUP = 1 << 16  # rows of a segment that are lost with a damaged chunk, at most
_DIGITS = 32
_FREE = 1 << 26  # bytes of memory that any file may use
_GROWTH = 256  # further memory that a file may use, in multiples of its size
_TAIL = 8  # the footer's length and a magic word
_THREADS = 1 << 26  # bytes that are worth several threads

Metadata = Any  # pyarrow.parquet.FileMetaData
Place = tuple[int, int]  # of a column chunk: its row group, and its column


@dataclass(frozen=True)
class Seal:
    """What a segment's file must be."""

    rows: int
    size: int  # bytes
    footer: int  # where its footer begins
    digests: tuple[str, ...]  # of the footer, then of every column chunk in order, row group by row group

    @classmethod
    def of(cls, data: bytes) -> Seal:
        """Seal a file just made."""
        footer = len(data) - _TAIL - int.from_bytes(data[-_TAIL:-4], "little")
        metadata = _metadata(data)
        ranges = [(footer, len(data) - footer), *_chunks(metadata)]
        digests = tuple(layout.digest(data[start : start + length]) for start, length in ranges)
        return cls(metadata.num_rows, len(data), footer, digests)

    def to_json(self) -> list[Any]:
        """Return it as JSON."""
        return [self.rows, self.size, self.footer, "".join(self.digests)]

    @classmethod
    def from_json(cls, values: list[Any]) -> Seal:
        """Read it from JSON; raises ValueError."""
        rows, size, footer, text = values
        numbers = (rows, size, footer)
        if not all(type(number) is int for number in numbers) or not 0 <= footer < size < 1 << 48 or rows < 0:
            raise ValueError("a seal needs three whole numbers")
        return cls(*numbers, tuple(text[i : i + _DIGITS] for i in range(0, len(text), _DIGITS)))


def encode(table: pa.Table, *, row_group: int | None = None) -> bytes:
    """Serialise a table to Parquet in memory, so that writing it is one atomic step."""
    sink = pa.BufferOutputStream()
    # repeated text is stored as a dictionary; the other columns are numbers that hardly repeat
    repeated = [field.name for field in table.schema if _is_text(field.type) or pa.types.is_boolean(field.type)]
    pa.parquet.write_table(
        table,
        sink,
        compression="snappy",
        row_group_size=row_group or ROW_GROUP,
        use_dictionary=repeated,
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def write_part(files: Filesystem, part: str, trials: pa.Table, history: pa.Table) -> str:
    """Write a part: history first, so that the trials file acknowledges both; return the name of its files.

    The history carries the digest of its trials, so two parts never share a file.
    """
    data = encode(trials)
    mine = layout.digest(data)
    extra = {**(history.schema.metadata or {}), b"flatdist.trials": mine.encode()}
    steps = encode(history.replace_schema_metadata(extra))
    name = f"{part}-{layout.digest(steps)}-{mine}"
    files.write(layout.part_path("history", name), steps)
    files.write(layout.part_path("trials", name), data)
    return name


def read_part(files: Filesystem, table: str, path: str, columns: Iterable[str] | None) -> pa.Table:
    """Read a part's columns, those of ``columns`` that it has, all text dictionary-encoded; raises Damaged."""
    data, sealed = files.read(path), "-" in path
    try:
        metadata = _metadata(data)
        names = _names(metadata, checked=not sealed)
        wanted = names if columns is None else [name for name in columns if name in names]
        if missing := {"cell_id", "replicate"} - {*names}:
            raise ValueError(f"it has no column {min(missing)}")
        # without a digest the other columns tell, too, whether the file is whole
        read = wanted if sealed else names
        _check_sizes(metadata, len(data), read)
        with _open(data, metadata, names, table, checked=not sealed) as file:
            rows = file.read(columns=read, use_threads=False).select(wanted)
        _check_texts(rows, len(data))
        return conform(rows, table)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError, RecursionError) as error:
        raise Damaged(path, f"{len(data)} bytes, {_first_line(error)}") from error


def read_segment(
    files: Filesystem,
    table: str,
    name: str,
    seal: Seal | None,
    columns: Collection[str] | None,
    numbers: np.ndarray[Any, np.dtype[Any]] | None = None,
) -> pa.Table:
    """Read columns of a segment, those of ``columns`` that it has; raises Damaged with the lost rows.

    Only the row groups of the wanted rows are read: those with the given ``numbers``, which rise; None for all.
    A segment of release 0.1 has no seal.
    """
    path = layout.segment_path(table, name)
    if seal is None:
        rows = read_part(files, table, path, columns)
        return rows if numbers is None else rows.take(numbers)
    metadata = _read_footer(files, path, seal)
    bounds = _bounds(metadata)
    groups = list(range(metadata.num_row_groups))
    if numbers is not None:
        groups = np.unique(np.searchsorted(bounds, numbers, side="right") - 1).tolist()
    names = metadata.schema.to_arrow_schema().names
    wanted = names if columns is None else [name for name in columns if name in names]
    leaves = [i for i in range(metadata.num_columns) if _column(metadata, i) in wanted]
    data = _read_chunks(files, path, seal, metadata, [(group, leaf) for group in groups for leaf in leaves])
    try:
        with _open(data, metadata, names, table, checked=False) as file:
            rows = conform(file.read_row_groups(groups, columns=wanted, use_threads=True).select(wanted), table)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(path, _first_line(error)) from error
    if numbers is None or len(numbers) == len(rows):
        return rows
    read = np.concatenate([np.zeros(0, np.int64), *(np.arange(bounds[i], bounds[i + 1]) for i in groups)])
    return rows.take(np.searchsorted(read, numbers))


def check_segment(files: Filesystem, table: str, name: str, seal: Seal | None) -> None:
    """Check all bytes of a segment, and raise :class:`Damaged` as :func:`read_segment` does."""
    if seal is None:
        read_segment(files, table, name, None, ["cell_id"])
        return
    path = layout.segment_path(table, name)
    metadata = _read_footer(files, path, seal)
    _read_chunks(files, path, seal, metadata, [divmod(i, metadata.num_columns) for i in range(len(seal.digests) - 1)])


def _read_chunks(files: Filesystem, path: str, seal: Seal, metadata: Metadata, places: Sequence[Place]) -> pa.Buffer:
    """The file, of which these chunks, and perhaps no others, are there."""
    chunks = _chunks(metadata)
    numbers = [group * metadata.num_columns + column for group, column in places]
    ranges = [chunks[number] for number in numbers]
    total = sum(length for _, length in ranges)
    if whole := total > seal.size // 2:
        (data,) = files.read_ranges(path, [(0, seal.size)])
        pieces: Sequence[Any] = [memoryview(data)[start : start + length] for start, length in ranges]
    else:
        pieces = files.read_ranges(path, ranges)
    digests = files.map(layout.digest, pieces) if total > _THREADS else map(layout.digest, pieces)
    stated = (seal.digests[1 + number] for number in numbers)
    if bad := [place for place, mine, one in zip(places, digests, stated, strict=True) if mine != one]:
        groups = sorted({group for group, _ in bad})
        columns = sorted({_column(metadata, leaf) for _, leaf in bad})
        where = f"column {', '.join(columns)} in row group {', '.join(map(str, groups))}"
        bounds = _bounds(metadata).tolist()
        raise Damaged(path, f"bytes of {where} are not those written", [(bounds[i], bounds[i + 1]) for i in groups])
    if whole:
        return pa.py_buffer(data)
    file = np.zeros(seal.size, np.uint8)  # takes memory only where something is written
    for (start, length), piece in zip(ranges, pieces, strict=True):
        file[start : start + length] = np.frombuffer(piece, np.uint8)
    return pa.py_buffer(file)


def _read_footer(files: Filesystem, path: str, seal: Seal) -> Metadata:
    (footer,) = files.read_ranges(path, [(seal.footer, seal.size - seal.footer)])
    if layout.digest(footer) != seal.digests[0]:
        raise Damaged(path, "its footer is not the one that was written")
    try:
        metadata = _metadata(b"PAR1" + footer)
        _check_sizes(metadata, seal.size)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(path, _first_line(error)) from error
    if len(seal.digests) != 1 + len(_chunks(metadata)):
        raise Damaged(path, "its seal does not fit")
    return metadata


def _metadata(data: bytes) -> Metadata:
    return pa.parquet.read_metadata(pa.BufferReader(data))


def _bounds(metadata: Metadata) -> np.ndarray[Any, np.dtype[Any]]:
    """The numbers of the first rows of the row groups, and of all rows."""
    return np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])


def _column(metadata: Metadata, leaf: int) -> str:
    return str(metadata.schema.column(leaf).path.split(".")[0])


def _chunks(metadata: Metadata) -> list[tuple[int, int]]:
    """(start, length) of every column chunk, row group by row group."""
    ranges = []
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in (group.column(i) for i in range(metadata.num_columns)):
            start = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset:
                start = min(start, column.dictionary_page_offset)
            ranges.append((start, column.total_compressed_size))
    return ranges


def _open(
    data: bytes | pa.Buffer, metadata: Metadata, names: Sequence[str], table: str, *, checked: bool
) -> pa.parquet.ParquetFile:
    """Open a file so that its text is read dictionary-encoded."""
    return pa.parquet.ParquetFile(
        pa.BufferReader(data),
        metadata=metadata,
        read_dictionary=[name for name in names if name in _texts(table)],
        page_checksum_verification=checked,
        pre_buffer=False,
    )


@cache
def _texts(table: str) -> frozenset[str]:
    return frozenset(field.name for field in schema(table) if _is_text(field.type))


def _names(metadata: Metadata, *, checked: bool) -> list[str]:
    """The columns of a file; with ``checked`` compared with the second copy of the schema that Arrow keeps."""
    mine = metadata.schema.to_arrow_schema()
    if checked and (copy := (metadata.metadata or {}).get(b"ARROW:schema")):
        other = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(copy, validate=True)))
        if not other.remove_metadata().equals(mine.remove_metadata()) or other.names != mine.names:
            raise ValueError("its two schemas differ")
    if len({*mine.names}) != len(mine.names):
        raise ValueError("two of its columns have one name")
    return list(mine.names)


def _check_sizes(metadata: Metadata, size: int, columns: Collection[str] | None = None) -> None:
    """Refuse a file of which some columns would fill the memory before they are found to be wrong; None for all."""
    asked = metadata.num_rows * metadata.num_columns
    leaves = [i for i in range(metadata.num_columns) if columns is None or _column(metadata, i) in columns]
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in map(group.column, leaves):
            asked += 8 * max(column.num_values, 0) + max(column.total_uncompressed_size, 0)
    if metadata.num_rows < 0 or asked > _FREE + _GROWTH * size:
        raise ValueError(f"it declares {metadata.num_rows:,} rows and {asked:,} bytes in a file of {size:,}")


def _check_texts(rows: pa.Table, size: int) -> None:
    """Refuse text that is stored once and repeated without measure."""
    if len(rows) * size < _FREE:
        return
    for column in rows.columns:
        if pa.types.is_dictionary(column.type) and column.num_chunks:
            ends = (np.frombuffer(chunk.dictionary.buffers()[1] or b"", np.int32) for chunk in column.chunks)
            longest = max(int(np.diff(end).max(initial=0)) for end in ends)
            if longest * len(rows) > _FREE + _GROWTH * size:
                raise ValueError(f"it repeats a text of {longest:,} bytes {len(rows):,} times")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
