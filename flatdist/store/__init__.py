"""Rows in files: immutable Parquet parts, durable writes, digests, reads that see every replicate once."""

from __future__ import annotations

from flatdist.store.checkpoints import CheckpointFolder
from flatdist.store.documents import SweepRecord
from flatdist.store.filesystem import StoreWarning
from flatdist.store.store import Store

__all__ = ["CheckpointFolder", "Store", "StoreWarning", "SweepRecord"]
