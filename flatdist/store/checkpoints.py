"""Checkpoints of long trials: arrays only, never pickled, the last two kept."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flatdist.errors import StoreError
from flatdist.store.documents import Generations, Key
from flatdist.store.filesystem import Damaged, Filesystem, warn_damaged
from flatdist.store.layout import checkpoint_folder, digest, stem

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

FORMAT = 2  # 1, of release 0.1, did not say so
KEPT = 2
_SPARE = 1 << 20  # bytes that an archive's arrays may have beyond its own size


class CheckpointFolder:
    """The checkpoints of a store's replicates."""

    def __init__(self, files: Filesystem, generations: Callable[[], Generations]) -> None:
        self._files = files
        self._generations = generations
        self._paths: dict[Key, list[str]] = {}
        self._unfit: dict[Key, list[str]] = {}  # passed over; they go when something better is saved

    def save(self, cell_id: str, replicate: int, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Save the state after ``step`` steps, durably, then delete all but the last two.

        Raises:
            StoreError: an array holds Python objects, or the store cannot be written.
        """
        for name, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise StoreError(f"checkpoint of {cell_id}/{replicate}: {name!r} holds objects; save plain arrays only")
        buffer = io.BytesIO()
        np.savez(buffer, format=np.array(FORMAT), **dict(arrays))  # type: ignore[arg-type]
        data = buffer.getvalue()
        key = (cell_id, replicate)
        if key not in self._paths:  # listed once; afterwards this object knows what it wrote
            self._paths[key] = self._listed(*key)
        path = f"{self._folder(*key)}/{int(step):012d}-{digest(data)}.npz"
        self._files.write(path, data)
        unfit = self._unfit.pop(key, [])
        paths = sorted({*self._paths[key], path} - {*unfit})
        for old in (*unfit, *paths[:-KEPT]):
            self._files.delete(old)
        self._paths[key] = paths[-KEPT:]

    def latest(
        self, cell_id: str, replicate: int, problem: Callable[[int, Arrays], str | None] = lambda step, arrays: None
    ) -> tuple[int, Arrays] | None:
        """Return the step and arrays of the newest checkpoint that is healthy and fits, or None.

        Args:
            cell_id: the cell.
            replicate: the replicate.
            problem: says why a state cannot be resumed; such a state is reported and skipped.
        """
        for path in reversed(self._listed(cell_id, replicate)):
            step = int(stem(path).split("-")[0])
            try:
                arrays = _read(path, self._files.read(path))
                if reason := problem(step, arrays):
                    raise Damaged(path, reason)
            except FileNotFoundError:  # another run of the same trial is ahead of this one
                continue
            except Damaged as damage:
                warn_damaged(self._files.uri, [damage], "not used: resuming from the previous one, or starting over")
                self._unfit.setdefault((cell_id, replicate), []).append(path)
                continue
            return step, arrays
        return None

    def discard(self, cell_id: str, replicate: int) -> None:
        """Delete a replicate's checkpoints, once its row is acknowledged."""
        self._paths.pop((cell_id, replicate), None)
        for path in self._listed(cell_id, replicate):
            self._files.delete(path)

    def _folder(self, cell_id: str, replicate: int) -> str:
        return checkpoint_folder(cell_id, replicate, self._generations()[cell_id, replicate])

    def _listed(self, cell_id: str, replicate: int) -> list[str]:
        return [info.path for info in self._files.list(self._folder(cell_id, replicate))]


def _read(path: str, data: bytes) -> Arrays:
    """The arrays of a checkpoint; an archive that would need more memory than its size is rejected."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if any(one.compress_type != zipfile.ZIP_STORED for one in members):
                raise ValueError("it is compressed, which flatdist does not write")
            if sum(one.file_size for one in members) > len(data) + _SPARE or archive.testzip() is not None:
                raise ValueError("its members are not what they are declared to be")
        with np.load(io.BytesIO(data), allow_pickle=False) as loaded:
            arrays = dict(loaded)
        if strange := [name for name, array in arrays.items() if not isinstance(array, np.ndarray)]:
            raise ValueError(f"{strange[0]!r} is not an array")
        version = int(arrays.pop("format", np.array(1)))
    except (ValueError, OSError, EOFError, KeyError, TypeError, MemoryError, zipfile.BadZipFile, SyntaxError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Damaged(path, f"{len(data)} bytes, {reason}") from error
    if version > FORMAT or version < 1:
        raise Damaged(path, f"it has format {version}, and this flatdist reads up to {FORMAT}")
    arrays["format"] = np.array(version)
    return arrays
