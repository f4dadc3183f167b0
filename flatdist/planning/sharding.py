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

from flatdist.planning.forecast import nominal_seconds
from flatdist.planning.work import Shard, WorkItem

TARGET_SECONDS = 50.0  # launching a trial costs up to 5 s: below 10 % of that
SHORTEST_SECONDS = 2.0  # of the last shards
MOST_SHARDS = 5000  # about; long sweeps have longer shards: Tune rewrites the state of every trial, 9.5 KB each
PIECE_SECONDS = 5.0  # of work that a driver without Ray takes at a time
PIECES = 32  # of each driver's share, at least
PARTS_LEFT = 3  # a shard takes at most 1/3 of what a slot has left to do


@dataclass(frozen=True)
class Sized:
    """A work item with its predicted seconds."""

    item: WorkItem
    seconds: float


def split_items(items: Sequence[Sized], slots: int, most: Callable[[WorkItem], int] | None = None) -> list[Sized]:
    """Split, by replicates, items that would delay the end, leave slots idle or not fit into memory (``most``)."""
    whole = sum(sized.seconds for sized in items)
    longest = max(min(TARGET_SECONDS, max(SHORTEST_SECONDS, whole / slots)), whole / (4 * slots))
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
    """Group items, in their order, into shards that shrink towards the end."""
    longest = max(TARGET_SECONDS, sum(sized.seconds for sized in items) / MOST_SHARDS)
    return _filled(items, lambda left: min(longest, max(SHORTEST_SECONDS, left / (PARTS_LEFT * slots))))


def in_pieces(shards: Sequence[Shard], engine: str, threads: int, sharers: int) -> list[Shard]:
    """Cut shards so finely that ``sharers`` drivers which share them end together.

    Replicates of a cell, of which ``threads`` train at a time, are parted only where there are several drivers.
    """
    total = sum(shard.predicted_seconds for shard in shards)
    longest = min(PIECE_SECONDS, total / (PIECES * sharers))
    pieces: list[Shard] = []
    for shard in shards:
        if shard.together:
            pieces.append(shard)
            continue
        costs = [nominal_seconds(item.cell, engine) * len(item.replicates) for item in shard.items]
        scale = shard.predicted_seconds / sum(costs) if sum(costs) else 0.0
        sized = [Sized(item, scale * cost) for item, cost in zip(shard.items, costs, strict=True)]
        if sharers > 1:
            most = [max(threads, int(longest * len(s.item.replicates) / s.seconds)) if s.seconds else 1 for s in sized]
            sized = [p for s, n in zip(sized, most, strict=True) for p in _pieces(s, -(-len(s.item.replicates) // n))]
        pieces += _filled(sized, lambda left: longest)
    return pieces


def _filled(items: Sequence[Sized], target_of: Callable[[float], float]) -> list[Shard]:
    """Group items, in their order, into shards of about a target that may depend on the seconds left."""
    left, seconds = sum(sized.seconds for sized in items), 0.0
    groups: list[list[Sized]] = [[]]
    for sized in items:
        target = target_of(left)
        if groups[-1] and (seconds >= target or seconds + sized.seconds > 1.5 * target):
            left, seconds = left - seconds, 0.0
            groups.append([])
        groups[-1].append(sized)
        seconds += sized.seconds
    return [Shard(tuple(s.item for s in group), sum(s.seconds for s in group)) for group in groups if group]


def makespan(shards: Sequence[Shard], slots: int) -> float:
    """Seconds until the last shard ends, when each slot takes the next one as soon as it is free."""
    free = [0.0] * max(1, min(slots, len(shards)))
    for shard in shards:
        heapq.heapreplace(free, free[0] + shard.predicted_seconds)
    return max(free)
