"""A search over a made-up error surface: no training, the driver and the store are the real ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from flatdist.cells.cell import Cell
from flatdist.launch.launching import LaunchResult
from flatdist.planning.work import WorkItem
from flatdist.store import Store
from flatdist.sweeps import Sweep, parse_sweep

TEXT = """
name: made-up
replicates: 3
fixed: {d_out: 4, d_in: 4, rank: 1, n: 12, steps: 800, evaluations: 9}
search:
  fields:
    learning_rate: {loguniform: [1e-3, 1]}
    label_noise_std: {uniform: [0, 2]}
    schedule: {choice: [constant, cosine_tail]}
  searcher: SEARCHER
  budget: 12
  round: 4
"""


def made_up(searcher: str = "random", **changes: str) -> Sweep:
    """The sweep above, some of its texts changed."""
    text = TEXT.replace("SEARCHER", searcher)
    for old, new in changes.items():
        text = text.replace(f"{old}: ", f"{old}: {new} #", 1)
    return parse_sweep(text)


def error(cell: Cell, replicate: int) -> float:
    """Smallest, 0.001, at learning rate 0.03 and label noise 1, annealed."""
    assert cell.learning_rate is not None
    distance = math.log10(cell.learning_rate / 0.03) ** 2 + (cell.label_noise_std - 1) ** 2
    return (0.001 + distance + (cell.schedule == "constant")) * (1 + 0.01 * replicate)


class Runner:
    """Runs work items by writing rows; notes what it was asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ran: list[tuple[str, int]] = []
        self.failing: set[str] = set()
        self.before = 0  # items left before a pretended kill; 0 for none

    def __call__(self, items: Sequence[WorkItem]) -> LaunchResult:
        wanted = sum(len(item.replicates) for item in items)
        stored = failed = 0
        for item in items:
            if self.before:
                self.before -= 1
                if not self.before:
                    raise KeyboardInterrupt
            self.ran += [(item.cell.cell_id, replicate) for replicate in item.replicates]
            if item.cell.cell_id in self.failing:
                self.store.write_failures([self._failure(item.cell, r) for r in item.replicates])
                failed += len(item.replicates)
            else:
                self.store.write([row(item.cell, r) for r in item.replicates], [])
                stored += len(item.replicates)
        return LaunchResult(wanted, stored, failed)

    def _failure(self, cell: Cell, replicate: int) -> dict[str, Any]:
        return {"cell_id": cell.cell_id, "replicate": replicate, "attempt": 1, "error_type": "E", "message": "no"}


def row(cell: Cell, replicate: int, **values: Any) -> dict[str, Any]:
    """A row of trials."""
    value = error(cell, replicate)
    key = {"cell_id": cell.cell_id, "replicate": replicate, "configuration_id": cell.configuration_id}
    results = {"status": "converged", "relative_error": value, "population_loss": value, "wall_seconds": 0.01}
    versions = {"numerics_version": cell.numerics["method"], "sampling_version": cell.numerics["sampling"]}
    return key | cell.row() | results | versions | values
