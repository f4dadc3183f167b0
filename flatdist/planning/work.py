"""The units of work of a plan: the missing replicates of cells, and shards of them for one trial each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from flatdist.cells.cell import Cell

Key = tuple[str, int]  # cell id, replicate


def keys_in(replicates: Mapping[str, Iterable[int]]) -> set[Key]:
    """The keys of each cell's replicates."""
    return {(cell_id, number) for cell_id, numbers in replicates.items() for number in numbers}


@dataclass(frozen=True)
class WorkItem:
    """Replicates of one cell, trained together as one batched program.

    With ``until`` they pause, checkpointed and without a row, once their histories have an evaluation at that step or
    later.
    """

    cell: Cell
    replicates: tuple[int, ...]  # their numbers, ascending
    until: int | None = None

    @property
    def share(self) -> float:
        """The part of the cell's steps that it takes at most."""
        return 1.0 if self.until is None else min(1.0, self.until / self.cell.steps)


@dataclass(frozen=True)
class Shard:
    """What one trial runs."""

    items: tuple[WorkItem, ...]  # in the order of execution
    predicted_seconds: float  # on one slot
    together: bool = False  # trained together, as one pack; otherwise one after the other

    @property
    def takes_steps(self) -> bool:
        """Whether an engine runs any part of it; solvers compute on the CPU."""
        return any(item.cell.spec.takes_steps for item in self.items)

    @property
    def replicates(self) -> int:
        """Number of replicates in all items."""
        return sum(len(item.replicates) for item in self.items)

    @property
    def keys(self) -> set[Key]:
        """Of all replicates."""
        return {(item.cell.cell_id, replicate) for item in self.items for replicate in item.replicates}

    def keeping(self, wanted: Callable[[Key], bool]) -> Shard:
        """The shard with those replicates alone for which something holds; it may be empty."""
        kept = [
            replace(item, replicates=tuple(r for r in item.replicates if wanted((item.cell.cell_id, r))))
            for item in self.items
        ]
        return replace(self, items=tuple(item for item in kept if item.replicates))
