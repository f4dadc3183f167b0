"""Searches under Ray Tune's own schedulers: what is recorded, what goes on, and what a whole sweep leaves."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from search_fakes import TEXT, made_up, row

import flatdist
from flatdist.cli import main
from flatdist.launch.progress.state import TrialStopped
from flatdist.launch.ray.scheduled import Suggested
from flatdist.launch.ray.trial import NUMBER, cell_of
from flatdist.store import Store
from flatdist.sweeps import Sweep
from flatdist.sweeps.search import Search

ASHA = "{asha: {grace_period: 100, reduction_factor: 2}}\n  budget"


def made(store: Store, sweep: Sweep | None = None) -> Suggested:
    sweep = sweep or made_up(budget="4\n  scheduler: asha")
    rounds = sweep.rounds(store)
    assert rounds is not None
    assert isinstance(rounds.strategy, Search)
    return Suggested(rounds.strategy, rounds.log, store)


def finish(work: Suggested, store: Store, trial: str, config: dict[str, Any]) -> None:
    cell = cell_of({}, {name: value for name, value in config.items() if name != NUMBER})
    store.write([row(cell, replicate) for replicate in range(3)], [])
    work.complete(trial, {"step": cell.steps, "stored": 3, "relative_error": 0.5}, error=False)


def test_suggestions_are_recorded_before_they_run_and_stopped_ones_with_their_value(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = made(store)
    assert work.count == 4
    first, second, third = (work.suggest(f"t{i}", "finished") for i in range(3))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert isinstance(third, dict)
    sweep = made_up(budget="4\n  scheduler: asha").recorded(store)
    assert [cell.cell_id for cell in sweep.cells] == [c["cell_id"] for c in (first, second, third)]
    assert list(work.shards()) == [0, 1, 2]

    finish(work, store, "t0", first)
    work.complete("t1", {"step": 200, "relative_error": 0.7}, error=False)
    assert list(work.events()) == [TrialStopped(1)]
    sweep = sweep.recorded(store)
    assert {c: (s.step, s.value) for c, s in sweep.stopped.items()} == {second["cell_id"]: (200, 0.7)}

    work.stopping = True  # the user interrupts: a trial that ends now was not stopped by the scheduler
    work.complete("t2", {"step": 100, "relative_error": 0.9}, error=False)
    assert len(sweep.recorded(store).stopped) == 1

    again = made(store)
    assert again.count == 2
    left = again.suggest("u0", "finished")
    assert isinstance(left, dict)
    assert left["cell_id"] == third["cell_id"]
    finish(again, store, "u0", left)
    last = again.suggest("u1", "finished")
    assert isinstance(last, dict)
    finish(again, store, "u1", last)
    assert again.suggest("u2", "finished") == "finished"
    assert again.ended == 4 * 3
    assert made(store).count == 0


def test_a_trial_that_is_stopped_while_paused_is_recorded_by_its_last_report(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = made(store)
    config = work.suggest("t0", "finished")
    assert isinstance(config, dict)
    searcher = work._tune_searcher()
    searcher.on_trial_result("t0", {"step": 300, "relative_error": 0.4})
    searcher.on_trial_complete("t0")  # as Tune does for a paused trial
    stopped = made_up(budget="4\n  scheduler: asha").recorded(store).stopped
    assert {cell: (one.step, one.value) for cell, one in stopped.items()} == {config["cell_id"]: (300, 0.4)}


def test_a_failed_trial_is_no_stopped_one(tmp_path: Path) -> None:
    work = made(Store(tmp_path))
    for trial, result, error in (("a", {}, True), ("b", {"step": 800, "failed": 1, "relative_error": math.inf}, False)):
        assert isinstance(work.suggest(trial, "finished"), dict)
        work.complete(trial, result, error=error)
    assert not made_up(budget="4\n  scheduler: asha").recorded(Store(tmp_path)).stopped


def test_a_scheduler_needs_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "made-up.yaml"
    path.write_text(TEXT.replace("SEARCHER", "random").replace("budget", "scheduler: asha\n  budget"))
    store = ["--store", str(tmp_path / "store"), "--no-probe", "--display", "none"]
    assert main(["sweep", str(path), *store, "--executor", "inline"]) == 2
    assert "--executor inline runs without Ray; use early_stopping there" in capsys.readouterr().err
    assert main(["sweep", str(path), *store, "--part", "1/2"]) == 2
    said = capsys.readouterr()
    assert "--part runs without Ray" in said.err
    assert not said.out  # nothing is planned
    assert not (tmp_path / "store").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("scheduler", ["{asha: {grace_period: 100, reduction_factor: 2}}", "hyperband"])
def test_a_sweep_runs_under_tunes_scheduler(tmp_path: Path, capsys: pytest.CaptureFixture[str], scheduler: str) -> None:
    path = tmp_path / "tiny.yaml"
    text = TEXT.replace("SEARCHER", "random").replace("budget: 12", f"scheduler: {scheduler}\n  budget: 6")
    path.write_text(
        text.replace("made-up", "tiny").replace("steps: 800, evaluations: 9", "steps: 800, evaluations: 17")
    )
    store = ["--store", str(tmp_path / "store")]
    run = ["--no-probe", "--display", "none", "--engine", "batched"]
    assert main(["sweep", str(path), *store, *run]) == 0
    assert "best so far" in capsys.readouterr().out
    sweep = flatdist.load_sweep(path).recorded(Store(tmp_path / "store"))
    trials = flatdist.load_trials(tmp_path / "store", sweep="tiny")
    assert len(sweep.cells) == 6
    assert set(trials["cell_id"]) | set(sweep.stopped) == {cell.cell_id for cell in sweep.cells}
    assert not set(trials["cell_id"]) & set(sweep.stopped)
    assert sweep.stopped or scheduler == "hyperband"  # six trials may all fit its first bracket
    for stopped in sweep.stopped.values():
        assert 100 <= stopped.step < 800 or scheduler == "hyperband"
    assert main(["sweep", str(path), *store, *run]) == 0  # nothing left: no Ray is asked
    assert len(flatdist.load_trials(tmp_path / "store", sweep="tiny")) == len(trials)
