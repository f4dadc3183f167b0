"""Driving a search: the same cells however often it is killed, nothing twice, failures that do not stop it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from search_fakes import Runner, made_up, row

from flatdist.cells.cell import Cell
from flatdist.launch.launching import LaunchResult
from flatdist.launch.rounds import Driver
from flatdist.store import Store
from flatdist.sweeps import Sweep
from flatdist.sweeps.rounds import Request, Round, RoundLog


def driver(sweep: Sweep, folder: Path, **options: bool) -> tuple[Driver, Runner]:
    store = Store(folder)
    log = RoundLog(store, sweep.name, sweep.source, sweep.replicates, sweep.identity)
    runner = Runner(store)
    return Driver(sweep, log, store, runner, **options), runner


def points(folder: Path, sweep: Sweep) -> list[dict]:  # type: ignore[type-arg]
    return [dict(one.note) for one in driver(sweep, folder)[0].log.requests()]


@pytest.mark.parametrize("searcher", ["random", "optuna"])
def test_a_killed_search_asks_for_the_same_cells_and_runs_none_twice(tmp_path: Path, searcher: str) -> None:
    sweep = made_up(searcher)
    whole, runner = driver(sweep, tmp_path / "whole")
    assert whole.finish() == 0
    assert len(runner.ran) == 12 * 3
    ran = []
    for kill in (2, 4, 1, 3):  # before the second item, at the end of a round, at once, ...
        one, runner = driver(sweep, tmp_path / "killed")
        runner.before = kill
        with pytest.raises(KeyboardInterrupt):
            one.finish()
        ran += runner.ran
    one, runner = driver(sweep, tmp_path / "killed")
    assert one.finish() == 0
    ran += runner.ran
    assert points(tmp_path / "killed", sweep) == points(tmp_path / "whole", sweep)
    assert len(ran) == len(set(ran)) == 36
    one, runner = driver(sweep, tmp_path / "killed")
    assert one.finish() == 0
    assert runner.ran == []


def test_a_larger_budget_goes_on(tmp_path: Path) -> None:
    assert driver(made_up(budget="8"), tmp_path)[0].finish() == 0
    one, runner = driver(made_up(), tmp_path)
    assert one.finish() == 0
    assert len(runner.ran) == 4 * 3
    assert points(tmp_path, made_up())[:8] == points(tmp_path, made_up(budget="8"))[:8]


def test_more_replicates_are_run_of_the_same_cells(tmp_path: Path) -> None:
    assert driver(made_up(), tmp_path)[0].finish() == 0
    before = points(tmp_path, made_up())
    one, runner = driver(made_up(replicates="4"), tmp_path)
    assert one.finish() == 0
    assert {replicate for _, replicate in runner.ran} == {3}
    assert len(runner.ran) == 12
    assert points(tmp_path, made_up()) == before


def test_rows_that_are_in_the_store_are_not_run_again(tmp_path: Path) -> None:
    sweep = made_up()
    one, runner = driver(sweep, tmp_path)
    cell = sweep.next_round([], one.store)[1].cell  # type: ignore[arg-type]
    one.store.write([row(cell, r) for r in range(3)], [])
    assert one.finish() == 0
    assert len(runner.ran) == 11 * 3
    assert cell.cell_id not in {cell_id for cell_id, _ in runner.ran}


def test_failures_count_as_worst_and_are_tried_again_when_asked(tmp_path: Path) -> None:
    sweep = made_up("optuna")
    one, runner = driver(sweep, tmp_path)
    bad = sweep.next_round([], one.store)[0].cell.cell_id
    runner.failing = {bad}
    assert one.finish() == 1
    told = sweep.told(one.log.rounds, one.store)
    assert told[0].value == float("inf")
    assert all(value.value < float("inf") for value in told[1:])
    again, runner = driver(sweep, tmp_path)
    assert again.finish() == 1
    assert runner.ran == []
    retried, runner = driver(sweep, tmp_path, retry_failed=True)
    assert retried.finish() == 0
    assert runner.ran == [(bad, 0), (bad, 1), (bad, 2)]


def test_an_interrupted_or_stopped_round_ends_the_search(tmp_path: Path) -> None:
    for result, status in ((LaunchResult(12, 3, 0, interrupted=True), 130), (LaunchResult(12, 3, 0), 1)):
        one, _ = driver(made_up(), tmp_path / str(status))
        one.run = lambda items, result=result: result  # type: ignore[misc]
        assert one.finish() == status
        assert len(one.log.rounds) == 1


class Bisection:
    """Finds the smallest n whose rows succeed, one replicate a round: another strategy on the same machinery."""

    def next_round(self, rounds: Sequence[Round], store: Store) -> list[Request]:
        low, high = 0, 64
        for one in rounds:
            cell = one.requests[0].cell
            error = store.trials([cell.cell_id])["relative_error"].iloc[0]
            low, high = (low, cell.n) if error < 0.01 else (cell.n, high)
        if high - low <= 1:
            return []
        return [Request(Cell(d_out=4, d_in=4, rank=1, n=(low + high) // 2), (len(rounds),))]


def test_other_strategies_use_the_same_rounds(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def run(items: Sequence) -> LaunchResult:  # type: ignore[type-arg]
        for item in items:
            rows = [{"cell_id": item.cell.cell_id, "replicate": r, "relative_error": 1e-3 if item.cell.n >= 23 else 1.0}
                    for r in item.replicates]  # fmt: skip
            store.write(rows, [])
        return LaunchResult(len(items), len(items), 0)

    log = RoundLog(store, "edge", "", None, "bisection")
    assert Driver(Bisection(), log, store, run).finish() == 0
    assert [one.requests[0].cell.n for one in log.rounds] == [32, 16, 24, 20, 22, 23]
    assert [one.requests[0].replicates for one in RoundLog(store, "edge", "", None, "bisection").rounds][2] == (2,)
