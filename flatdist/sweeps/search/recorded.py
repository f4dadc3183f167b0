"""A search sweep with the cells that the store says it has asked for: what every command but ``sweep`` works on."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from flatdist.cells.cell import Cell
from flatdist.errors import SweepError
from flatdist.sweeps.search.rounds import Stopped, recorded_rounds
from flatdist.sweeps.search.strategy import TRIES

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.sweeps import Sweep


def with_recorded_cells(sweep: Sweep, store: Store) -> Sweep:
    """The sweep with the cells of its recorded rounds, and which of them were stopped early."""
    if sweep.search is None:
        return sweep
    rounds = recorded_rounds(store, sweep.name, sweep.search.identity, sweep.replicates)
    cells = {request.cell.cell_id: request.cell for one in rounds for request in one.requests}
    stopped: dict[str, Stopped] = {}
    if sweep.search.early_stopping is not None:
        for one in rounds:
            stopped |= {one.requests[index].cell.cell_id: where for index, where in one.stopped().items()}
    return dataclasses.replace(sweep, cells=tuple(cells.values()), stopped=stopped)


def with_stand_ins(sweep: Sweep) -> Sweep:
    """A search sweep for a forecast: without the cells that were stopped, and with draws for those yet to come.

    Raises:
        SweepError: its conditions leave out everything.
    """
    search = sweep.search
    assert search is not None
    known = {cell.cell_id for cell in sweep.cells}
    left = max(0, search.budget - len(known))
    stand_ins: dict[str, Cell] = {}
    index = misses = 0
    while len(stand_ins) < left and misses < TRIES + len(known):
        cell = search.cell({domain.field: domain.drawn(search.seed, index) for domain in search.domains})
        index += 1
        if cell is None or cell.cell_id in known or cell.cell_id in stand_ins:
            misses += 1
            continue
        misses = 0
        stand_ins[cell.cell_id] = cell
    if not known and not stand_ins and left:
        raise SweepError(
            f"sweep {sweep.name!r}: where leaves out all of {misses} suggestions that were tried; widen search.fields "
            "or loosen where"
        )
    running = [cell for cell in sweep.cells if cell.cell_id not in sweep.stopped]
    return dataclasses.replace(sweep, cells=(*running, *stand_ins.values()))
