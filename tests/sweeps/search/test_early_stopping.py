"""Stopping early: who goes on, and that what is stopped pretends nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from flatdist.cells.cell import Cell
from flatdist.launch import launch
from flatdist.launch.progress.display import Display
from flatdist.launch.rounds import Driver
from flatdist.planning import Settings, Shard, WorkItem, make_plan
from flatdist.store import Store
from flatdist.sweepfile.declaration import EarlyStopping
from flatdist.sweeps import Sweep, parse_sweep
from flatdist.sweeps.early_stopping import DIVERGED_AT, Halving, is_paused, paused_value
from flatdist.sweeps.metric import parse_metric
from flatdist.sweeps.rounds import RoundLog

TEXT = """
name: early
replicates: 2
fixed: {d_out: 4, d_in: 4, rank: 1, n: 14, steps: 960, evaluations: 97}
search:
  fields: {learning_rate: {loguniform: [1e-4, 0.1]}}
  metric: steps_to=0.05
  budget: 6
  round: 3
  early_stopping: {first: 100, factor: 3}
"""
CELL = Cell(d_out=4, d_in=4, rank=1, n=14, steps=960, evaluations=97, learning_rate=0.05)


def run_items(store: Store, items: Sequence[WorkItem], **settings: Any) -> Any:
    plan: Any = type(
        "Plan",
        (),
        {"cells": tuple(item.cell for item in items), "done": 0, "sweeps": (), "settings": Settings("inline")},
    )()
    plan.shards = (Shard(tuple(items), 1.0),)
    chosen = Settings("inline", engine="batched", **settings)
    return launch(plan, store.uri, settings=chosen, display=Display())


def make_driver(sweep: Sweep, folder: Path) -> tuple[Driver, list[WorkItem]]:
    search, store = sweep, Store(folder)
    assert search is not None
    ran: list[WorkItem] = []

    def run(items: Sequence[WorkItem]) -> Any:
        ran.extend(items)
        return run_items(store, items)

    halving = None
    if search.early_stopping is not None:
        halving = Halving(search.early_stopping, store, search.metric, search.mode)
    log = RoundLog(store, sweep.name, sweep.source, sweep.replicates, search.identity)
    return Driver(search, log, store, run, halving=halving), ran


def results(store: Store) -> Any:
    from flatdist.cells.columns import RESULT_COLUMNS

    frame = store.trials(columns=["cell_id", "replicate", *RESULT_COLUMNS])
    return frame.drop(columns=["singular_values", "quantities"])


def test_rungs_and_who_goes_on() -> None:
    rule = EarlyStopping(first=10, factor=3)
    assert rule.rungs(270) == [10, 30, 90]
    assert rule.rungs(29) == []
    here = {0: 0.5, 1: 0.1, 2: 0.3, 3: 0.2, 4: 0.9, 5: math.inf}
    assert rule.stopped(here, [], "min") == (0, 2, 4, 5)  # two of six go on
    assert rule.stopped(here, [0.01, 0.02, 0.03], "min") == (0, 1, 2, 3, 4, 5)  # three better ones came before
    assert rule.stopped({0: 1.0, 1: 5.0, 2: -math.inf}, [], "max") == (0, 2)
    assert rule.stopped({0: math.inf, 1: math.inf}, [], "min") == (0, 1)


def test_a_paused_replicate_has_a_checkpoint_no_row_and_ends_like_one_that_never_paused(tmp_path: Path) -> None:
    store, straight = Store(tmp_path / "paused"), Store(tmp_path / "straight")
    result = run_items(store, [WorkItem(CELL, (0, 1), until=100)])
    assert (result.paused, result.stored, result.missing, result.exit_code) == (2, 0, 0, 0)
    assert store.done() == {}
    assert store.trials().empty
    assert store.history().empty
    assert is_paused(store, CELL, 0, 100)
    assert not is_paused(store, CELL, 0, 500)
    state = store.checkpoints.latest(CELL.cell_id, 0)
    assert state is not None
    assert 100 <= state[0] < 300
    run_items(store, [WorkItem(CELL, (0, 1))])
    run_items(straight, [WorkItem(CELL, (0, 1))])
    assert results(store).equals(results(straight))
    assert store.history().equals(straight.history())
    assert store.checkpoints.latest(CELL.cell_id, 0) is None
    curve = straight.history(where=[("replicate", "==", 0), ("step", ">=", 100)])
    assert paused_value(CELL, state, 100, "population_loss") == curve["population_loss"].iloc[0]


def test_replicates_that_stand_apart_reach_the_rung_together(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run_items(store, [WorkItem(CELL, (1,), until=100)])
    assert run_items(store, [WorkItem(CELL, (0, 1, 2), until=400)]).paused == 3
    assert all(is_paused(store, CELL, replicate, 400) for replicate in range(3))
    assert not any(is_paused(store, CELL, replicate, 800) for replicate in range(3))


def test_a_diverged_replicate_is_the_worst_at_every_rung(tmp_path: Path) -> None:
    metric = parse_metric("steps_to=0.05")
    store, hot = Store(tmp_path), Cell(**{**_fields(CELL), "learning_rate": 50.0})
    assert run_items(store, [WorkItem(hot, (0, 1), until=300)]).stored == 2  # all have diverged: nothing to wait for
    assert Halving(EarlyStopping(first=100), store, metric, "min").value(hot, (0, 1), 300) == math.inf
    run_items(store, [WorkItem(CELL, (0,), until=100)])
    state = store.checkpoints.latest(CELL.cell_id, 0)
    assert state is not None
    state[1]["scalars"][DIVERGED_AT] = 90
    assert paused_value(CELL, state, 100, "population_loss") == math.inf
    assert paused_value(CELL, state, 900, "population_loss") == math.inf  # it will not get better


def test_stopped_cells_are_recorded_and_nothing_of_them_looks_complete(tmp_path: Path) -> None:
    sweep = parse_sweep(TEXT)
    assert make_driver(sweep, tmp_path)[0].finish() == 0
    store = Store(tmp_path)
    known = sweep.recorded(store)
    assert len(known.cells) == 6
    assert 2 <= len(known.stopped) <= 5
    done = store.done()
    assert set(done) == {cell.cell_id for cell in known.cells} - known.stopped.keys()
    assert all(replicates == {0, 1} for replicates in done.values())
    assert set(store.trials()["cell_id"]) == set(store.history()["cell_id"]) == set(done)
    for cell in known.cells:
        if cell.cell_id in known.stopped:
            where = known.stopped[cell.cell_id]
            assert is_paused(store, cell, 0, where.step)
            assert where.step in (100, 300)
    best = {cell.cell_id: cell.learning_rate for cell in known.cells if cell.cell_id in done}
    assert max(best.values()) == max(cell.learning_rate for cell in known.cells)  # type: ignore[type-var]
    assert make_driver(sweep, tmp_path)[0].finish() == 0


def test_a_search_killed_between_rungs_goes_on_without_training_again(tmp_path: Path) -> None:
    sweep = parse_sweep(TEXT)
    whole, _ = make_driver(sweep, tmp_path / "whole")
    assert whole.finish() == 0
    driver, ran = make_driver(sweep, tmp_path / "killed")
    launched = driver.run
    calls = 0

    def killed_in_the_second_launch(items: Sequence[WorkItem]) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return launched(items)

    driver.run = killed_in_the_second_launch
    with pytest.raises(KeyboardInterrupt):
        driver.finish()
    assert {item.until for item in ran} == {100}
    again, reran = make_driver(sweep, tmp_path / "killed")
    assert again.finish() == 0
    first = {item.cell.cell_id for item in ran}
    assert not [item for item in reran if item.until == 100 and item.cell.cell_id in first]
    assert again.log.rounds == whole.log.rounds
    assert results(Store(tmp_path / "killed")).equals(results(Store(tmp_path / "whole")))


def test_without_early_stopping_the_stopped_cells_go_on_from_their_checkpoints(tmp_path: Path) -> None:
    sweep = parse_sweep(TEXT)
    assert make_driver(sweep, tmp_path)[0].finish() == 0
    stopped = set(sweep.recorded(Store(tmp_path)).stopped)
    patient = parse_sweep(TEXT.replace("  early_stopping: {first: 100, factor: 3}\n", ""))
    driver, ran = make_driver(patient, tmp_path)
    assert driver.finish() == 0
    assert {item.cell.cell_id for item in ran} == stopped
    assert len(Store(tmp_path).done()) == 6
    assert not patient.recorded(Store(tmp_path)).stopped
    assert make_plan([patient.recorded(Store(tmp_path))], Store(tmp_path), Settings()).missing == 0


def _fields(cell: Cell) -> dict[str, Any]:
    from flatdist.cells.cell import FIELDS

    return {name: getattr(cell, name) for name in FIELDS}
