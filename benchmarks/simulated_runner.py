"""Runners that only simulate work, to measure the cost of launching without the numerics."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from flatdist.cells.cell import Cell
from flatdist.trials.run import Outcome


def canned(cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any) -> Iterator[Outcome]:
    """Rows at once, as wide as real ones."""
    for replicate in replicates:
        key = {"cell_id": cell.cell_id, "replicate": replicate}
        success = cell.n >= 4 * cell.rank * (cell.d_out + cell.d_in)
        measured = dict.fromkeys(("population_loss", "relative_error", "train_loss"), 1e-4 if success else 0.5)
        trial = {
            **key,
            "configuration_id": cell.configuration_id,
            **cell.row(),
            **measured,
            "status": "converged",
            "singular_values": [1.0] * min(cell.d_out, cell.d_in),
            "steps_run": cell.steps,
            "wall_seconds": 1.0,
            "numerics_version": cell.numerics["method"],
            "sampling_version": cell.numerics["sampling"],
            **(provenance or {}),
        }
        hooks.on_steps(cell.steps)
        yield Outcome(trial, [{**key, "step": i, "train_loss": 0.5} for i in range(cell.evaluations)])


def sleeping(cell: Cell, replicates: Sequence[int], settings: Any, **others: Any) -> Iterator[Outcome]:
    """Rows after ``cell.steps`` milliseconds for each replicate."""
    time.sleep(len(replicates) * cell.steps / 1000)
    yield from canned(cell, replicates, settings, **others)
