"""Parts: the immutable Parquet files in which rows arrive, and what to do about one that cannot be read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from flatdist.errors import StoreError
from flatdist.store.filesystem import FileInfo, Filesystem
from flatdist.store.layout import part_path, set_aside_path, stem
from flatdist.store.location import is_local
from flatdist.store.schema import conform, encoded, to_parquet

if TYPE_CHECKING:
    import pyarrow as pa

Answer = TypeVar("Answer")

_MAGIC = b"PAR1"
_NAMED = 20  # files named in one warning


class StoreWarning(UserWarning):
    """Something in a store is damaged and left out; the message names it."""


@dataclass(frozen=True)
class Unreadable:
    """A file that cannot be read as what it should be."""

    path: str
    reason: str


def write_part(files: Filesystem, part: str, trials: pa.Table, history: pa.Table | None) -> None:
    """Write a part: history first, so that the trials file acknowledges both."""
    if history is not None:
        files.write(part_path("history", part), to_parquet(history))
    files.write(part_path("trials", part), to_parquet(trials))


def read_parquet(data: bytes, table: str, columns: Iterable[str] | None, *, whole: bool = False) -> pa.Table:
    """Read a Parquet file's columns, those of ``columns`` that it has, text dictionary-encoded where it helps.

    Pages are checked against their checksums; with ``whole`` those of the other columns too.

    Raises:
        pyarrow.ArrowException, OSError: the bytes are no such file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), read_dictionary=encoded(table), page_checksum_verification=True)
    except KeyError:  # a file of another make, without one of these columns
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    with file:
        names = file.schema_arrow.names
        wanted = names if columns is None else [name for name in columns if name in names]
        missing = {"cell_id", "replicate"} - set(names)
        if missing:
            raise pa.ArrowInvalid(f"it has no column {min(missing)}")
        if whole:
            return conform(file.read(use_threads=False).select(wanted), table)
        return conform(file.read(columns=wanted, use_threads=False), table)


def read_parts(
    files: Filesystem, table: str, paths: Sequence[str], columns: Iterable[str] | None, *, whole: bool = False
) -> tuple[dict[str, pa.Table], list[Unreadable]]:
    """Read many small files at once; with ``whole`` those damaged in columns that are not wanted count as unreadable.

    Returns:
        path -> table for those that could be read, and those that could not.

    Raises:
        FileNotFoundError: a file vanished since it was listed.
        StoreError: the storage does not answer.
    """
    import pyarrow as pa

    wanted = None if columns is None else list(columns)

    def read(path: str) -> pa.Table | Unreadable:
        data = files.read(path)
        try:
            return read_parquet(data, table, wanted, whole=whole)
        except (pa.ArrowException, OSError, ValueError) as error:
            return Unreadable(path, f"{len(data)} bytes, {_first_line(error)}")

    tables, unreadable = {}, []
    for path, answer in zip(paths, map_threads(files, read, paths), strict=True):
        if isinstance(answer, Unreadable):
            unreadable.append(answer)
        else:
            tables[path] = answer
    return tables, unreadable


def truncated_history(files: Filesystem, history: Sequence[FileInfo]) -> list[Unreadable]:
    """Find history parts whose end is missing, by their last bytes; local files only.

    An object of an object store is there whole or not at all; a file of a disk that lost power may not be.
    """
    if not is_local(files.uri):
        return []

    def check(info: FileInfo) -> Unreadable | None:
        with files.open(info.path) as handle:
            if info.size >= 2 * len(_MAGIC):
                handle.seek(-len(_MAGIC), os.SEEK_END)
                if handle.read() == _MAGIC:
                    return None
        return Unreadable(info.path, f"{info.size} bytes, its end is missing")

    return [problem for problem in map_threads(files, check, history) if problem]


def map_threads(files: Filesystem, do: Callable[[Any], Answer], items: Sequence[Any]) -> list[Answer]:
    """Apply a function that waits for the storage to many items."""
    threads = min(4 if is_local(files.uri) else 32, len(items))
    if threads <= 1:
        return [do(item) for item in items]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(do, items))


def set_aside(files: Filesystem, path: str) -> bool:
    """Move a file out of the way, keeping its bytes; False where the store does not allow it."""
    try:
        files.write(set_aside_path(path), files.read(path))
        files.delete(path)
    except FileNotFoundError:  # somebody else was faster
        return True
    except StoreError:
        return False
    return True


def warn_unreadable(uri: str, problems: Sequence[Unreadable], outcome: str) -> None:
    """Name files that could not be read, in one warning."""
    if not problems:
        return
    named = "; ".join(f"{problem.path} ({problem.reason})" for problem in problems[:_NAMED])
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    files = "1 file" if len(problems) == 1 else f"{len(problems)} files"
    warnings.warn(f"store {uri}: {files} cannot be read and {outcome}: {named}{more}", StoreWarning, stacklevel=2)


def part_of(problem: Unreadable) -> str:
    """Return the name of the part that an unreadable file belongs to."""
    return stem(problem.path)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
