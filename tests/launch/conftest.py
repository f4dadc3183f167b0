"""One local Ray for all tests that need it, private to this test run; plans made by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """Ray on two CPUs, for all tests of the session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else Ray leaves a token in the home folder
        helpers = str(Path(__file__).parents[1] / "helpers")  # the runners of launch_fakes are found by name there
        patch.setenv("PYTHONPATH", helpers)
        from flatdist.launch.ray.cluster import ClusterSession

        with ClusterSession(Settings(slots=2)):
            yield
