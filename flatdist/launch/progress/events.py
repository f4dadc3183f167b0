"""What a worker tells the driver while a sweep runs; small tuples, since there is one for every row."""

from __future__ import annotations

from typing import NamedTuple


class ShardStarted(NamedTuple):
    """A worker took up a shard."""

    shard: int
    at: float  # seconds on the worker's monotonic clock, for durations on one worker only


class RowStored(NamedTuple):
    """A replicate's row is safe in the store."""

    shard: int
    cell_id: str
    replicate: int
    status: str
    relative_error: float
    at: float  # seconds on the worker's monotonic clock


class StepsTaken(NamedTuple):
    """Steps since the last such report, summed over the replicates that took them."""

    shard: int
    steps: int


class ItemFailed(NamedTuple):
    """Replicates that ended in an exception, which is recorded in the store's ``failures``."""

    shard: int
    cell_id: str
    replicates: tuple[int, ...]
    error: str  # type and message, the key by which equal errors are recognised
    at: float  # seconds on the worker's monotonic clock


class ShardEnded(NamedTuple):
    """A worker is through with a shard."""

    shard: int
    at: float


class Notice(NamedTuple):
    """Something the user should read, such as a store that does not answer."""

    text: str


Event = ShardStarted | StepsTaken | RowStored | ItemFailed | ShardEnded | Notice
