"""Checkpoints of long trials: arrays only, never pickled, the last two kept."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from flatdist.errors import StoreError
from flatdist.store.filesystem import Filesystem
from flatdist.store.layout import checkpoint_folder, checkpoint_path, stem
from flatdist.store.parts import Unreadable, warn_unreadable
from flatdist.store.tombstones import Generations, Key

Arrays = dict[str, np.ndarray[Any, np.dtype[Any]]]

KEPT = 2


class CheckpointFolder:
    """The checkpoints of a store's replicates."""

    def __init__(self, files: Filesystem, generations: Callable[[], Generations]) -> None:
        self._files = files
        self._generations = generations
        self._steps: dict[Key, list[int]] = {}

    def save(self, cell_id: str, replicate: int, step: int, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
        """Save the state after ``step`` steps, durably, then delete all but the last two.

        Raises:
            StoreError: an array holds Python objects, or the store cannot be written.
        """
        for name, array in arrays.items():
            if np.asarray(array).dtype.hasobject:
                raise StoreError(f"checkpoint of {cell_id}/{replicate}: {name!r} holds objects; save plain arrays only")
        buffer = io.BytesIO()
        np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
        generation = self._generations()[cell_id, replicate]
        key = (cell_id, replicate)
        if key not in self._steps:  # listed once; afterwards this object knows what it wrote
            self._steps[key] = self._listed(cell_id, replicate, generation)
        self._files.write(checkpoint_path(cell_id, replicate, generation, step), buffer.getvalue())
        steps = sorted({*self._steps[key], step})
        for old in steps[:-KEPT]:
            self._files.delete(checkpoint_path(cell_id, replicate, generation, old))
        self._steps[key] = steps[-KEPT:]

    def latest(self, cell_id: str, replicate: int) -> tuple[int, Arrays] | None:
        """Return the step and arrays of the newest checkpoint that can be read, or None."""
        generation = self._generations()[cell_id, replicate]
        for step in reversed(self._listed(cell_id, replicate, generation)):
            path = checkpoint_path(cell_id, replicate, generation, step)
            try:
                content = self._files.read(path)
            except FileNotFoundError:  # another run of the same trial is ahead of this one
                continue
            try:
                with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                    return step, {name: archive[name] for name in archive.files}
            except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
                problem = Unreadable(path, f"{len(content)} bytes, {error}")
                warn_unreadable(self._files.uri, [problem], "is not resumed from")
        return None

    def discard(self, cell_id: str, replicate: int) -> None:
        """Delete a replicate's checkpoints, once its row is acknowledged."""
        generation = self._generations()[cell_id, replicate]
        self._steps.pop((cell_id, replicate), None)
        for info in self._files.list(checkpoint_folder(cell_id, replicate, generation)):
            self._files.delete(info.path)

    def _listed(self, cell_id: str, replicate: int, generation: int) -> list[int]:
        names = [stem(info.path) for info in self._files.list(checkpoint_folder(cell_id, replicate, generation))]
        return sorted(int(name) for name in names if name.isdigit())
