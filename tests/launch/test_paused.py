"""Items that are to pause at a rung, as Tune trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from flatdist.cells.cell import Cell
from flatdist.launch import Settings, launch
from flatdist.launch.progress.display import Display
from flatdist.planning import Shard, WorkItem
from flatdist.store import Store
from flatdist.sweeps.early_stopping import is_paused


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_paused_replicates_are_neither_missing_nor_tried_again(tmp_path: Path, make_plan: Any) -> None:
    cells = [
        Cell(d_out=4, d_in=4, rank=1, n=14, steps=960, evaluations=97, learning_rate=rate) for rate in (0.01, 0.02)
    ]
    plan = make_plan(cells)
    plan.shards = tuple(Shard((WorkItem(cell, (0, 1), until=100),), 1.0) for cell in cells)
    display = Display()
    store = Store(tmp_path / "store")
    result = launch(plan, store.uri, settings=Settings(engine="batched", slots=2), display=display)
    assert (result.wanted, result.paused, result.stored, result.missing, result.exit_code) == (4, 4, 0, 0, 0)
    assert display.messages[-1] == "0 of 4 replicates are stored, 4 paused"
    assert not [text for text in display.messages if "tried again" in text]
    assert all(is_paused(store, cell, replicate, 100) for cell in cells for replicate in (0, 1))
    assert store.failed() == {}
