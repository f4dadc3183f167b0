"""A replicate's row is the same to the bit, alone or in company, inline or on Ray, on one thread or two."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from flatdist import run_cell
from flatdist.cells.cell import Cell
from flatdist.launch import Settings, launch
from flatdist.planning import Shard, WorkItem
from flatdist.store import Store

# What may differ between two computations of one replicate: when, where from and how fast.
CIRCUMSTANCES = ["wall_seconds", "finished_at", "git_dirty", "git_sha"]
COMPANY = 16
CELLS = [
    Cell(d_out=8, d_in=6, rank=1, n=40, steps=700, evaluations=5),
    Cell(d_out=8, d_in=6, rank=1, n=40, steps=700, evaluations=5, ensemble="rademacher", depth=2, learning_rate=0.03),
    Cell(d_out=8, d_in=6, rank=1, n=40, method="sam", steps=300, evaluations=3),
    Cell(d_out=8, d_in=6, rank=1, n=40, method="min_nuclear_norm"),
    Cell(d_out=8, d_in=6, rank=1, n=40, method="min_hessian_trace"),
]


def tables(store: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    opened = Store(store)
    return opened.trials().drop(columns=CIRCUMSTANCES), opened.history()


def assert_same_rows(ours: pd.DataFrame, expected: pd.DataFrame) -> None:
    keys = [name for name in ("cell_id", "replicate", "step") if name in expected]
    ours, expected = (table.sort_values(keys).reset_index(drop=True) for table in (ours, expected))
    pd.testing.assert_frame_equal(ours, expected, check_exact=True, check_dtype=False)  # a null makes a column float


@pytest.fixture(scope="module")
def inline(tmp_path_factory: pytest.TempPathFactory) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Every replicate computed beside fifteen others, in this process."""
    shards = tuple(Shard((WorkItem(cell, tuple(range(COMPANY))),), 1.0) for cell in CELLS)
    store = tmp_path_factory.mktemp("inline")
    plan = SimpleNamespace(cells=CELLS, shards=shards, done=0, sweeps=(), settings=Settings("inline"))
    launch(plan, store, settings=Settings("inline"), display="none")
    trials, history = tables(store)
    assert len(trials) == COMPANY * len(CELLS)
    assert set(trials["status"]) <= {"converged", "budget_exhausted"}
    return trials, history


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.method}-{cell.ensemble}")
@pytest.mark.parametrize("threads", [1, 2])
def test_alone_as_beside_fifteen_others(inline: Any, cell: Cell, threads: int) -> None:
    trials, history = run_cell(cell, [11], threads=threads)
    chosen = {"cell_id": cell.cell_id, "replicate": 11}
    for ours, packed in ((trials.drop(columns=CIRCUMSTANCES), inline[0]), (history, inline[1])):
        expected = packed[(packed[list(chosen)] == pd.Series(chosen)).all(axis=1)]
        assert len(ours) == len(expected)
        assert_same_rows(ours, expected)


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_on_ray_as_inline(inline: Any, tmp_path: Path, make_plan: Any) -> None:
    plan = make_plan(CELLS, range(COMPANY), per_shard=2)
    launch(plan, tmp_path, settings=Settings(slots=2), display="none")
    for ours, expected in zip(tables(tmp_path), inline, strict=True):
        assert_same_rows(ours, expected)
