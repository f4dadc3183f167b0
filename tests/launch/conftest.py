"""Plans made by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from flatdist.cells.cell import Cell
from flatdist.planning import Settings, Shard, WorkItem


@dataclass
class HandmadePlan:
    """As much of a plan as a launch looks at."""

    cells: tuple[Cell, ...]
    shards: tuple[Shard, ...]
    done: int = 0
    sweeps: tuple[()] = ()
    settings: Settings = field(default_factory=Settings)


def _make_cell(n: int = 30, **fields: Any) -> Cell:
    return Cell(**({"d_out": 8, "d_in": 8, "rank": 1, "n": n, "steps": 10, "evaluations": 2} | fields))


def _make_plan(cells: Sequence[Cell], replicates: Sequence[int] = (0, 1), per_shard: int = 1) -> HandmadePlan:
    items = [WorkItem(cell, tuple(replicates)) for cell in cells]
    shards = [Shard(tuple(items[i : i + per_shard]), 1.0) for i in range(0, len(items), per_shard)]
    return HandmadePlan(tuple(cells), tuple(shards))


@pytest.fixture
def make_cell() -> Callable[..., Cell]:
    """A small cell with a given number of measurements."""
    return _make_cell


@pytest.fixture
def make_plan() -> Callable[..., HandmadePlan]:
    """A plan of given cells, all with the same replicates, so many cells a shard."""
    return _make_plan
