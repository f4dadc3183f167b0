"""Shards on their way to the workers: one block of bytes that a node maps once and a trial reads its part of."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from flatdist.planning import Shard


class PackedShards:
    """All shards of a round in one array, so that 100,000 cells are not unpacked in every worker.

    The bytes come from the driver and live in Ray's object store, never in a results store.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        parts = [pickle.dumps(shard, protocol=pickle.HIGHEST_PROTOCOL) for shard in shards]
        self._bytes: npt.NDArray[Any] = np.frombuffer(b"".join(parts), dtype=np.uint8)  # (bytes,)
        self._ends: npt.NDArray[Any] = np.cumsum([len(part) for part in parts])  # (shards,)

    @property
    def nbytes(self) -> int:
        """Size of the block, in bytes."""
        return int(self._bytes.nbytes)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, number: int) -> Shard:
        start = 0 if number == 0 else int(self._ends[number - 1])
        shard: Shard = pickle.loads(self._bytes[start : int(self._ends[number])].tobytes())  # noqa: S301
        return shard
