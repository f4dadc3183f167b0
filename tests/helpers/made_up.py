"""Trials over a made-up success curve: no training; the rules, the driver and the store are the real ones."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flatdist.cells.cell import Cell
from flatdist.launch.launching import LaunchResult
from flatdist.launch.rounds import Driver
from flatdist.planning.work import WorkItem
from flatdist.store import Store
from flatdist.sweeps import Sweep, parse_sweep
from flatdist.sweeps.groups import Groups, GroupState, GroupStrategy
from flatdist.sweeps.rounds import RoundLog

TEXT = """
name: made-up
replicates: 3
fixed: {d_out: 8, d_in: 8, method: min_nuclear_norm}
blocks:
  - axes: {rank: [1, 2], n: {boundary: {from: 0.5*dof, to: entries, budget: 60, precision: 0.12}}}
  - axes: {n: {first_success: {from: 1, to: entries}}}
    fixed: {rank: 1, nested: true}
  - fixed: {rank: 1, n: 30, method: min_frobenius_norm}
"""
SCALE = 0.06


def made_up(old: str = "", new: str = "") -> Sweep:
    """The sweep above, one of its texts changed."""
    assert old in TEXT
    return parse_sweep(TEXT.replace(old, new, 1) if old else TEXT)


def share(text: str) -> float:
    """A number in (0, 1) that belongs to a text."""
    return (int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) + 0.5) / 2**48


def n50(cell: Cell) -> float:
    """Where half of the replicates succeed."""
    return 1.2 * cell.rank * (cell.d_out + cell.d_in - cell.rank)


def threshold(cell: Cell, replicate: int) -> float:
    """From where on a replicate of a cell succeeds: its own draw, for nested problems the same at every n."""
    u = share(f"{cell.rank} {cell.d_out} {replicate}" if cell.nested else f"{cell.cell_id} {replicate}")
    return n50(cell) * math.exp(SCALE * math.log(u / (1 - u)))


def row(cell: Cell, replicate: int) -> dict[str, Any]:
    """A row of trials."""
    key = {"cell_id": cell.cell_id, "replicate": replicate, "configuration_id": cell.configuration_id}
    success = cell.n >= threshold(cell, replicate)
    versions = {"numerics_version": cell.numerics["method"], "sampling_version": cell.numerics["sampling"]}
    results = {"status": "converged", "relative_error": 1e-9 if success else 0.5, "wall_seconds": 0.01}
    return key | cell.row() | results | versions


class Runner:
    """Runs work items by writing rows, one file each; notes what it was asked for."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.ran: list[tuple[str, int]] = []
        self.fails: Callable[[Cell, int], bool] = lambda cell, replicate: False
        self.before = 0  # items left before a pretended kill; 0 for none

    def __call__(self, items: Sequence[WorkItem]) -> LaunchResult:
        rows: list[dict[str, Any]] = []
        failures: list[dict[str, Any]] = []
        try:
            for item in items:
                if self.before:
                    self.before -= 1
                    if not self.before:
                        raise KeyboardInterrupt
                for replicate in item.replicates:
                    self.ran.append((item.cell.cell_id, replicate))
                    if self.fails(item.cell, replicate):
                        error = {"attempt": 1, "error_type": "E", "message": "no"}
                        failures.append({"cell_id": item.cell.cell_id, "replicate": replicate, **error})
                    else:
                        rows.append(row(item.cell, replicate))
        finally:
            self.store.write(rows, [])
            self.store.write_failures(failures)
        return LaunchResult(len(rows) + len(failures), len(rows), len(failures))


def driver(sweep: Sweep, folder: Path, *, keep: bool = True, **options: Any) -> tuple[Driver, Runner]:
    """A driver of a sweep over made-up trials."""
    assert isinstance(sweep, Groups)
    store = Store(folder)
    log = RoundLog(store, sweep.name, sweep.source, None, sweep.identity, keep=keep, current=sweep.current)
    runner = Runner(store)
    return Driver(GroupStrategy(sweep.groups), log, store, runner, **options), runner


def asked(one: Driver) -> set[tuple[str, int]]:
    """The runs of all recorded rounds."""
    return {(request.cell.cell_id, r) for request in one.log.requests() for r in request.replicates}


def stored(folder: Path) -> set[tuple[str, int]]:
    """The rows of a store."""
    return {(cell_id, r) for cell_id, numbers in Store(folder).done().items() for r in numbers}


def states_of(sweep: Sweep, store: Store) -> list[GroupState]:
    """How far the groups of a sweep are."""
    assert isinstance(sweep, Groups)
    return sweep.states(store)
