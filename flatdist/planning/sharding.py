"""From work items to shards: long enough that launching costs little, shrinking towards the end so that no slot idles.

The order is shuffled by a seed, so that a half-finished sweep already shows the whole diagram; only items too long for
what would remain after them are moved forward.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from flatdist.planning.work import Shard, WorkItem

TARGET_SECONDS = 50.0  # launching a trial costs up to 5 s: below 10 % of that
SHORTEST_SECONDS = 2.0  # of the last shards
MOST_SHARDS = 5000  # about; long sweeps have longer shards: Tune rewrites the state of every trial, 9.5 KB each
PARTS_LEFT = 3  # a shard takes at most 1/3 of what a slot has left to do


@dataclass(frozen=True)
class Sized:
    """A work item with its predicted seconds."""

    item: WorkItem
    seconds: float


def split_items(items: Sequence[Sized], slots: int, most: Callable[[WorkItem], int] | None = None) -> list[Sized]:
    """Split, by replicates, items that would delay the end or would not fit into memory.

    Args:
        items: one for each cell.
        slots: trials that run at a time.
        most: how many replicates of an item may be held at once.
    """
    whole = sum(sized.seconds for sized in items)
    longest = max(TARGET_SECONDS, whole / (4 * slots))
    parts: list[Sized] = []
    for sized in items:
        count = len(sized.item.replicates)
        pieces = max(1, min(count, -int(-sized.seconds // longest)))
        if most is not None:
            pieces = max(pieces, -(-count // most(sized.item)))
        parts += _pieces(sized, pieces)
    return parts


def _pieces(sized: Sized, pieces: int) -> list[Sized]:
    replicates = sized.item.replicates
    bounds = [round(index * len(replicates) / pieces) for index in range(pieces + 1)]
    each = sized.seconds / len(replicates)
    return [
        Sized(replace(sized.item, replicates=replicates[first:last]), each * (last - first))
        for first, last in pairwise(bounds)
        if last > first
    ]


def shuffle(items: Sequence[Sized], slots: int, seed: int) -> list[Sized]:
    """A random order in which, if possible, no item takes longer than the work left for one slot after it."""
    order = list(items)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    usual = sorted(sized.seconds for sized in order)[len(order) // 2] if order else 0.0
    backwards: list[Sized] = []
    after = 0.0
    waiting: list[tuple[float, int]] = []  # too long for their shuffled place: (seconds, position)
    for position in range(len(order) - 1, -1, -1):
        heapq.heappush(waiting, (order[position].seconds, position))
        while waiting and waiting[0][0] <= max(after / slots, usual):
            sized = order[heapq.heappop(waiting)[1]]
            backwards.append(sized)
            after += sized.seconds
    backwards += [order[position] for _, position in sorted(waiting)]
    return backwards[::-1]


def make_shards(items: Sequence[Sized], slots: int) -> list[Shard]:
    """Group items, in their order, into shards.

    Args:
        items: in the order in which they are to be run.
        slots: trials that run at a time.
    """
    left = sum(sized.seconds for sized in items)
    longest = max(TARGET_SECONDS, left / MOST_SHARDS)
    shards: list[Shard] = []
    group: list[WorkItem] = []
    seconds = 0.0
    for sized in items:
        target = min(longest, max(SHORTEST_SECONDS, (left + seconds) / (PARTS_LEFT * slots)))
        if group and seconds + sized.seconds > 1.5 * target:
            shards.append(Shard(tuple(group), seconds))
            group, seconds = [], 0.0
        group.append(sized.item)
        seconds += sized.seconds
        left -= sized.seconds
        if seconds >= target:
            shards.append(Shard(tuple(group), seconds))
            group, seconds = [], 0.0
    if group:
        shards.append(Shard(tuple(group), seconds))
    return shards


def makespan(shards: Sequence[Shard], slots: int) -> float:
    """Seconds until the last shard ends, when each slot takes the next one as soon as it is free."""
    free = [0.0] * max(1, min(slots, len(shards)))
    for shard in shards:
        heapq.heapreplace(free, free[0] + shard.predicted_seconds)
    return max(free)
