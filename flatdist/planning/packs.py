"""Packs: replicates of several cells that one kernel launch trains together, limited by a card's memory.

A GPU's time for a pack is max(latency x steps, throughput x replicates x steps): until the card is full, more
replicates cost nothing. Packs are as large as memory and the number of cards allow, and the last ones smaller, so that
no card idles while another finishes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice, pairwise
from operator import itemgetter

from flatdist.cells.cell import Cell
from flatdist.cells.problems import storage_dtype
from flatdist.errors import LaunchError
from flatdist.errors import size as format_size
from flatdist.factorization.evaluation import BLOCK
from flatdist.planning.work import Shard, WorkItem
from flatdist.sensing.ensembles import ENSEMBLES

RESIDENT = ((16, 8), (24, 4), (32, 3), (64, 2))  # (largest width, replicates that an SM trains at a time)
SHARE_OF_MEMORY = 0.85  # of a card's free memory, for a pack
EVALUATION_SHARE = 1 / 32  # of it, for evaluations at most: twice flatdist.trials.on_device.BLOCK_SHARE
DRAWN_BYTES = 64 * 76  # of the batched engine's 64 steps of draws and what they are made from, for each drawn row
SMALLEST_SHARE = 4  # the last packs hold at least this fraction of a card's fill


@dataclass(frozen=True)
class Card:
    """The card that packs are made for."""

    processors: int = 132  # streaming multiprocessors
    memory: int = 80 * 10**9  # bytes that are free
    name: str = ""  # its model, as torch names it; empty for one that stands for any

    @classmethod
    def here(cls) -> Card:
        """This machine's first GPU, or the card that stands for one that cannot be asked."""
        import torch

        if not torch.cuda.is_available():
            return cls()
        found = torch.cuda.get_device_properties(0)
        return cls(found.multi_processor_count, torch.cuda.mem_get_info(0)[0], found.name)

    def __str__(self) -> str:
        return self.name or f"a card of {self.memory / 1e9:.0f} GB with {self.processors} multiprocessors"

    def fill(self, cell: Cell) -> int:
        """Replicates of a cell's shape that fill the card."""
        widest = max(cell.widths)
        return self.processors * next((count for width, count in RESIDENT if widest <= width), 8)


def device_bytes(cell: Cell, engine: str) -> int:
    """Memory of one replicate on a GPU: its rows, layers, snapshots to be evaluated, and a step's draws."""
    itemsize = 8 if cell.dtype == "float64" else 4
    storage = ENSEMBLES[cell.ensemble].storage
    row = storage.row_bytes(cell.d_out, cell.d_in, storage_dtype(cell, engine)) + itemsize  # and its label
    weights = sum(a * b for a, b in pairwise(cell.widths))
    drawn = cell.batch_size or cell.n
    per_step = 16 * drawn * 8
    gathered = drawn * (row + DRAWN_BYTES) + 10 * weights * itemsize if engine == "batched" else 0
    as_sampled = engine != "batched" and cell.d_in % 4 == cell.d_out % 4 == 0  # otherwise training uses a copy
    copied = 0 if as_sampled else cell.n * row
    return cell.n * row + copied + (BLOCK * 8 + 3 * itemsize) * weights + per_step + gathered


def pack_sizes(total: int, slots: int, fill: int, most: int) -> list[int]:
    """Replicates of each pack of one shape, the largest first, where ``fill`` fill a card and ``most`` fit into it."""
    sizes: list[int] = []
    left = total
    while left > slots * fill:
        size = min(most, max(fill, -(-left // (2 * slots))))
        sizes.append(size)
        left -= size
    parts = max(min(slots, -(-left * SMALLEST_SHARE // fill)), -(-left // most))
    bounds = [round(left * part / parts) for part in range(parts + 1)] if left else [0]
    return sorted((*sizes, *(b - a for a, b in pairwise(bounds) if b > a)), reverse=True)


def make_packs(
    items: Sequence[WorkItem],
    engine_of: Callable[[Cell], str],
    slots: int,
    seconds: Callable[[Sequence[WorkItem]], float],
    card: Card | None,
    size: int | None = None,
) -> tuple[list[Shard], list[WorkItem]]:
    """Cut items into packs, the longest first; also returns the items that cannot share a pack.

    Args:
        items: replicates of cells.
        engine_of: what takes the steps of a cell.
        slots: packs that run at a time.
        seconds: predicted time of a pack.
        card: what they run on; None for a CPU, where ``size`` alone counts.
        size: replicates of a pack at most; None leaves it to the card.

    Raises:
        LaunchError: the card's memory does not hold one replicate.
    """
    from flatdist.trials.train import pack_key

    groups: dict[tuple[str, Hashable], list[WorkItem]] = {}
    alone: list[WorkItem] = []
    for item in items:
        engine = engine_of(item.cell)
        key = pack_key(item.cell, engine) if item.until is None else None
        if key is None:
            alone.append(item)
        else:
            groups.setdefault((engine, key), []).append(item)
    shards: list[Shard] = []
    for (engine, _), group in groups.items():
        total = sum(len(item.replicates) for item in group)
        largest = max((item.cell for item in group), key=functools.partial(device_bytes, engine=engine))
        fill, most = size or total, size or total
        if card is not None:
            need, has = device_bytes(largest, engine), int(SHARE_OF_MEMORY * card.memory)
            if need > has:
                raise LaunchError(
                    f"a replicate of {largest.d_out}x{largest.d_in} with n={largest.n} takes {format_size(need)} on "
                    f"a GPU, and {card} has {format_size(has)} for it; lower n, or use --device cpu"
                )
            fill = min(card.fill(largest), most if size else total)
            most = min(has // need, size or has // need)
        sizes = pack_sizes(total, slots, max(1, min(fill, most)), most)
        shards += [Shard(tuple(part), seconds(part), together=True) for part in _cut(group, sizes)]
    return sorted(shards, key=lambda shard: -shard.predicted_seconds), alone


def _cut(items: Sequence[WorkItem], sizes: Sequence[int]) -> Iterator[list[WorkItem]]:
    """The items' replicates, in order, in parts of these sizes."""
    numbered = ((item, replicate) for item in items for replicate in item.replicates)
    for size in sizes:
        part = groupby(islice(numbered, size), key=itemgetter(0))
        yield [replace(item, replicates=tuple(replicate for _, replicate in pairs)) for item, pairs in part]


def company(shard: Shard, card: Card) -> float:
    """Share of a card that a pack fills, at most 1."""
    return min(1.0, shard.replicates / card.fill(shard.items[0].cell))


def pack_device_bytes(shard: Shard, engine: str, card: Card) -> int:
    """Memory that a pack takes on a card, evaluations included."""
    kept = sum(len(item.replicates) * device_bytes(item.cell, engine) for item in shard.items)
    return kept + int(EVALUATION_SHARE * card.memory)
