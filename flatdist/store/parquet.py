"""Parquet files of a store: bytes to checked tables and back.

A *part* is small and read whole; its name states its digest (:mod:`flatdist.store.layout`). A *segment* is large and
read by columns; its :class:`Seal`, kept in the manifest, holds a digest of its footer and of every column chunk, so
that every read is checked and a damaged chunk costs the rows of one row group. Arrow is given checked bytes only.
Files of release 0.1 state no digest: their page checksums are verified, and their footers compared with the second copy
of the schema that Arrow keeps in them.
"""

from __future__ import annotations

import base64
import bisect
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.store import layout
from flatdist.store.filesystem import Damaged, Filesystem
from flatdist.store.schema import conform, empty, schema

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP = 1 << 16  # rows of a segment that are lost with a damaged chunk, at most
_DIGITS = 32
_FREE = 1 << 26  # bytes of memory that any file may use
_GROWTH = 256  # further memory that a file may use, in multiples of its size
_TAIL = 8  # the footer's length and a magic word
_THREADS = 1 << 26  # bytes that are worth several threads
_ONCE = 1 << 28  # bytes of a segment that are checked at a time


@dataclass(frozen=True)
class Seal:
    """What a segment's file must be.

    Attributes:
        rows: number of rows.
        size: bytes.
        footer: where its footer begins.
        digests: of the footer, then of every column chunk in order, row group by row group.
    """

    rows: int
    size: int
    footer: int
    digests: tuple[str, ...]

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
        """Read it from JSON.

        Raises:
            ValueError: it is not a seal.
        """
        rows, size, footer, text = values
        numbers = (rows, size, footer)
        if not all(type(number) is int for number in numbers) or not 0 <= footer < size < 1 << 48 or rows < 0:
            raise ValueError("a seal needs three whole numbers")
        return cls(*numbers, tuple(text[i : i + _DIGITS] for i in range(0, len(text), _DIGITS)))


def encode(table: pa.Table, *, row_group: int = ROW_GROUP) -> bytes:
    """Serialise a table to Parquet in memory, so that writing it is one atomic step."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression="snappy",
        row_group_size=row_group,
        # repeated text is stored as a dictionary; the other columns are numbers that hardly repeat
        use_dictionary=[
            field.name for field in table.schema if _is_text(field.type) or pa.types.is_boolean(field.type)
        ],
        write_page_checksum=True,
    )
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def read_part(files: Filesystem, table: str, path: str, columns: Iterable[str] | None) -> pa.Table:
    """Read a part's columns, those of ``columns`` that it has, all text dictionary-encoded.

    Raises:
        Damaged: it is not what was written, as far as that can be told.
        FileNotFoundError: it was deleted after it was listed.
    """
    return decode(files.read(path), table, path, columns)


def decode(data: bytes, table: str, path: str, columns: Iterable[str] | None) -> pa.Table:
    """Read a Parquet file's columns, as :func:`read_part` does."""
    import pyarrow as pa

    sealed = "-" in path
    try:
        with _open(data, None, table, checked=not sealed) as file:
            names = _names(file, checked=not sealed)
            wanted = names if columns is None else [name for name in columns if name in names]
            if missing := {"cell_id", "replicate"} - {*names}:
                raise ValueError(f"it has no column {min(missing)}")
            # without a digest the other columns tell, too, whether the file is whole
            read = wanted if sealed else names
            _check_sizes(file.metadata, len(data), read)
            rows = file.read(columns=read, use_threads=False).select(wanted)
        _check_texts(rows, len(data))
        return conform(rows, table)
    except (pa.ArrowException, OSError, ValueError, KeyError, MemoryError, RecursionError) as error:
        raise Damaged(path, f"{len(data)} bytes, {_first_line(error)}") from error


@dataclass(frozen=True)
class SegmentRows:
    """The readable part of a segment's file.

    Attributes:
        table: the rows of the undamaged row groups, in order.
        damage: what is damaged, None for nothing.
        lost: (first, stop) of the rows in damaged row groups; None where nothing can be read.
        rows: the rows' numbers in the file; None for all of them.
    """

    table: pa.Table
    damage: Damaged | None = None
    lost: Sequence[tuple[int, int]] | None = ()
    rows: np.ndarray[Any, np.dtype[Any]] | None = None


def read_segment(
    files: Filesystem,
    table: str,
    name: str,
    seal: Seal | None,
    columns: Collection[str] | None,
    spans: Sequence[tuple[int, int]] | None = None,
) -> SegmentRows:
    """Read a segment's columns, those of ``columns`` that it has, in the row groups that rows are wanted of.

    Args:
        files: the storage.
        table: trials or history.
        name: the segment's.
        seal: what the file must be; None for one of release 0.1.
        columns: what to read.
        spans: (first, stop) of the wanted rows; None for all.
    """
    path = layout.segment_path(table, name)
    if seal is None:
        try:
            return SegmentRows(decode(files.read(path), table, path, columns))
        except Damaged as damage:
            return SegmentRows(empty(table, columns), damage, None)
    try:
        return _read_sealed(files, table, path, seal, columns, spans)
    except Damaged as damage:
        return SegmentRows(empty(table, columns), damage, None)


def check_segment(files: Filesystem, table: str, name: str, seal: Seal | None) -> SegmentRows:
    """Check all bytes of a segment; the returned table has no columns."""
    if seal is None:
        found = read_segment(files, table, name, None, ["cell_id"])
        return SegmentRows(found.table.select([]), found.damage, found.lost)
    path = layout.segment_path(table, name)
    try:
        metadata = _read_footer(files, path, seal)
    except Damaged as damage:
        return SegmentRows(empty(table, []), damage, None)
    ranges, columns = _chunks(metadata), metadata.num_columns
    bad: list[int] = []
    step = max(1, int(_ONCE / (seal.size / max(len(ranges), 1) + 1)))
    for first in range(0, len(ranges), step):
        for number, data in enumerate(files.read_ranges(path, ranges[first : first + step]), start=first):
            if layout.digest(data) != seal.digests[1 + number]:
                bad.append(number)
    return _lost(empty(table, []), path, metadata, {(number // columns, number % columns) for number in bad})


def _read_sealed(
    files: Filesystem,
    table: str,
    path: str,
    seal: Seal,
    columns: Collection[str] | None,
    spans: Sequence[tuple[int, int]] | None,
) -> SegmentRows:
    import pyarrow as pa

    metadata = _read_footer(files, path, seal)
    names = metadata.schema.to_arrow_schema().names
    wanted = names if columns is None else [name for name in columns if name in names]
    bounds = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
    groups = list(range(metadata.num_row_groups))
    if spans is not None:
        starts, stops = np.array(spans, np.int64).reshape(-1, 2).T
        groups = [i for i in groups if ((starts < bounds[i + 1]) & (stops > bounds[i])).any()]
    leaves = [i for i in range(metadata.num_columns) if metadata.schema.column(i).path.split(".")[0] in {*wanted}]
    chunks = _chunks(metadata)
    places = [(group, leaf) for group in groups for leaf in leaves]
    ranges = [chunks[group * metadata.num_columns + leaf] for group, leaf in places]
    if sum(length for _, length in ranges) > seal.size // 2:  # one read
        (data,) = files.read_ranges(path, [(0, seal.size)])
        pieces: Sequence[Any] = [memoryview(data)[start : start + length] for start, length in ranges]
    else:
        pieces = files.read_ranges(path, ranges)
    stated = [seal.digests[1 + group * metadata.num_columns + leaf] for group, leaf in places]
    total = sum(map(len, pieces))
    found = files.map(layout.digest, pieces) if total > _THREADS else map(layout.digest, pieces)
    bad = {place for place, mine, one in zip(places, found, stated, strict=True) if mine != one}
    whole = [group for group in groups if group not in {place[0] for place in bad}]
    try:
        if not wanted:
            rows = pa.table({"": pa.nulls(int(sum(bounds[i + 1] - bounds[i] for i in whole)))}).select([])
        else:
            source = pa.PythonFile(_Pieces(seal.size, ranges, pieces), "r")
            with _open(source, metadata, table, checked=False) as file:
                rows = file.read_row_groups(whole, columns=wanted, use_threads=True).select(wanted)
        if bad:
            return _lost(conform(rows, table), path, metadata, bad)
        numbers = (
            None
            if len(groups) == metadata.num_row_groups
            else np.concatenate([np.zeros(0, np.int64), *(np.arange(bounds[i], bounds[i + 1]) for i in groups)])
        )
        return SegmentRows(conform(rows, table), rows=numbers)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise Damaged(path, _first_line(error)) from error


class _Pieces:
    """The file that Arrow reads: checked ranges of another one, and nothing else."""

    closed = False

    def __init__(self, size: int, ranges: Sequence[tuple[int, int]], pieces: Sequence[Any]) -> None:
        self._size, self._place = size, 0
        self._starts, self._pieces = [start for start, _ in ranges], pieces

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = offset if whence == 0 else offset + (self._place, self._size)[whence - 1]
        return self._place

    def tell(self) -> int:
        return self._place

    def read(self, count: int) -> Any:
        number = bisect.bisect_right(self._starts, self._place) - 1
        first = self._place - self._starts[number]
        piece = self._pieces[number][first : first + count] if number >= 0 else b""
        if len(piece) < count:
            raise OSError(f"bytes {self._place} to {self._place + count} were not checked")
        self._place += count
        return piece

    def close(self) -> None:
        """Nothing is open."""


def _lost(rows: pa.Table, path: str, metadata: pq.FileMetaData, bad: Collection[tuple[int, int]]) -> SegmentRows:
    if not bad:
        return SegmentRows(rows)
    bounds = np.cumsum([0, *(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))])
    groups = sorted({group for group, _ in bad})
    columns = sorted({metadata.schema.column(leaf).path.split(".")[0] for _, leaf in bad})
    reason = f"bytes of column {', '.join(columns)} in row group {', '.join(map(str, groups))} are not those written"
    return SegmentRows(rows, Damaged(path, reason), [(int(bounds[i]), int(bounds[i + 1])) for i in groups])


def _read_footer(files: Filesystem, path: str, seal: Seal) -> pq.FileMetaData:
    (footer,) = files.read_ranges(path, [(seal.footer, seal.size - seal.footer)])
    if layout.digest(footer) != seal.digests[0]:
        raise Damaged(path, "its footer is not the one that was written")
    metadata = _metadata(b"PAR1" + footer)
    if len(seal.digests) != 1 + len(_chunks(metadata)):
        raise Damaged(path, "its seal does not fit")
    _check_sizes(metadata, seal.size)
    return metadata


def _metadata(data: bytes) -> pq.FileMetaData:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_metadata(pa.BufferReader(data))


def _chunks(metadata: pq.FileMetaData) -> list[tuple[int, int]]:
    """(start, length) of every column chunk, row group by row group."""
    ranges = []
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in (group.column(i) for i in range(metadata.num_columns)):
            start = column.data_page_offset
            if column.has_dictionary_page and column.dictionary_page_offset:
                start = min(start, column.dictionary_page_offset)
            ranges.append((start, column.total_compressed_size))
    return ranges


def _open(data: Any, metadata: pq.FileMetaData | None, table: str, *, checked: bool) -> pq.ParquetFile:
    """Open a file so that its text is read dictionary-encoded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def opened(texts: Iterable[str]) -> pq.ParquetFile:
        source = pa.BufferReader(data) if isinstance(data, bytes) else data
        return pq.ParquetFile(
            source, metadata=metadata, read_dictionary=texts, page_checksum_verification=checked, pre_buffer=False
        )

    try:
        return opened(_texts(table))
    except KeyError:  # it lacks one of them
        with opened([]) as file:
            return opened([name for name in file.schema_arrow.names if name in _texts(table)])


@cache
def _texts(table: str) -> tuple[str, ...]:
    return tuple(field.name for field in schema(table) if _is_text(field.type))


def _names(file: pq.ParquetFile, *, checked: bool) -> list[str]:
    """The columns of a file; with ``checked`` compared with the second copy of the schema that Arrow keeps."""
    import pyarrow as pa

    names: list[str] = file.schema_arrow.names
    if checked and (copy := (file.metadata.metadata or {}).get(b"ARROW:schema")):
        mine = file.metadata.schema.to_arrow_schema()
        other = pa.ipc.read_schema(pa.BufferReader(base64.b64decode(copy, validate=True)))
        if not other.remove_metadata().equals(mine.remove_metadata()) or other.names != mine.names:
            raise ValueError("its two schemas differ")
    if len({*names}) != len(names):
        raise ValueError("two of its columns have one name")
    return names


def _check_sizes(metadata: pq.FileMetaData, size: int, columns: Collection[str] | None = None) -> None:
    """Refuse a file of which some columns would fill the memory before they are found to be wrong; None for all."""
    asked = metadata.num_rows * metadata.num_columns
    paths = (metadata.schema.column(i).path.split(".")[0] for i in range(metadata.num_columns))
    leaves = [i for i, name in enumerate(paths) if columns is None or name in columns]
    for group in (metadata.row_group(i) for i in range(metadata.num_row_groups)):
        for column in map(group.column, leaves):
            asked += 8 * max(column.num_values, 0) + max(column.total_uncompressed_size, 0)
    if metadata.num_rows < 0 or asked > _FREE + _GROWTH * size:
        raise ValueError(f"it declares {metadata.num_rows:,} rows and {asked:,} bytes in a file of {size:,}")


def _check_texts(rows: pa.Table, size: int) -> None:
    """Refuse text that is stored once and repeated without measure."""
    import pyarrow as pa

    if len(rows) * size < _FREE:
        return
    for column in rows.columns:
        if pa.types.is_dictionary(column.type) and column.num_chunks:
            ends = (np.frombuffer(chunk.dictionary.buffers()[1] or b"", np.int32) for chunk in column.chunks)
            longest = max(int(np.diff(end).max(initial=0)) for end in ends)
            if longest * len(rows) > _FREE + _GROWTH * size:
                raise ValueError(f"it repeats a text of {longest:,} bytes {len(rows):,} times")


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
