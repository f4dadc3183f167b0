"""The units of work of a plan: the missing replicates of cells, and shards of them for one trial each."""

from __future__ import annotations

from dataclasses import dataclass

from flatdist.cells.cell import Cell


@dataclass(frozen=True)
class WorkItem:
    """Replicates of one cell, trained together as one batched program.

    Attributes:
        cell: the configuration.
        replicates: their numbers, ascending.
        until: pause, with a checkpoint and without a row, once the history has an evaluation at this step or later;
            None trains to the end.
    """

    cell: Cell
    replicates: tuple[int, ...]
    until: int | None = None


@dataclass(frozen=True)
class Shard:
    """What one trial runs, item by item.

    Attributes:
        items: in the order of execution.
        predicted_seconds: on one slot.
        together: the items are trained together, as one pack; otherwise one after the other.
    """

    items: tuple[WorkItem, ...]
    predicted_seconds: float
    together: bool = False

    @property
    def takes_steps(self) -> bool:
        """Whether an engine runs any part of it; solvers compute on the CPU."""
        return any(item.cell.spec.takes_steps for item in self.items)

    @property
    def replicates(self) -> int:
        """Number of replicates in all items."""
        return sum(len(item.replicates) for item in self.items)
