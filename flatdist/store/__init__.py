"""The store of results: immutable Parquet parts, durable writes, reads that see every replicate once."""

from __future__ import annotations

from flatdist.store.checkpoints import CheckpointFolder
from flatdist.store.parts import StoreWarning
from flatdist.store.store import Store
from flatdist.store.sweeps import SweepRecord

__all__ = ["CheckpointFolder", "Store", "StoreWarning", "SweepRecord"]
