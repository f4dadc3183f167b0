"""Driving groups: the same rows however often it is killed and whatever else runs, nothing twice, nothing wedged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from made_up import TEXT, asked, driver, made_up, n50, row, states_of, stored

import flatdist
from flatdist.cells.cell import Cell
from flatdist.errors import StoreError
from flatdist.fits.threshold import fit_thresholds
from flatdist.store import Store
from flatdist.sweepfile import Changes
from flatdist.sweeps import parse_sweep
from flatdist.sweeps.rounds import RoundLog


def test_a_sweep_finds_its_boundaries(tmp_path: Path) -> None:
    one, runner = driver(made_up(), tmp_path)
    assert one.finish() == 0
    assert len(runner.ran) == len(set(runner.ran))
    assert set(runner.ran) == stored(tmp_path) == asked(one)
    trials = flatdist.load_trials(tmp_path, "made-up")
    assert len(trials) == len(runner.ran)
    found = fit_thresholds(trials[trials["method"] == "min_nuclear_norm"], ["rank", "nested"])
    for fitted in found.to_dict("records"):
        truth = n50(Cell(d_out=8, d_in=8, rank=int(fitted["rank"]), n=9))
        assert abs(math.log(fitted["n50"] / truth)) < 0.25
    searched = found[~found["nested"].astype(bool)]
    assert (0.5 * (searched["n50_high"] / searched["n50_low"]).map(math.log) <= 0.12).all()
    plain = trials[trials["method"] == "min_frobenius_norm"]
    assert sorted(plain["replicate"]) == [0, 1, 2]
    states = states_of(made_up(), Store(tmp_path))
    assert [state.is_finished for state in states] == [True] * 3


@pytest.mark.parametrize("keep", [True, False])
def test_a_killed_sweep_ends_with_the_same_rows(tmp_path: Path, keep: bool) -> None:
    whole, _ = driver(made_up(), tmp_path / "whole")
    assert whole.finish() == 0
    ran = []
    for kill in (1, 3, 8, 10, 2, 6, 5):  # before anything, inside a round, between rounds
        one, runner = driver(made_up(), tmp_path / "killed", keep=keep)
        runner.before = kill
        with pytest.raises(KeyboardInterrupt):
            one.finish()
        ran += runner.ran
    one, runner = driver(made_up(), tmp_path / "killed", keep=keep)
    assert one.finish() == 0
    ran += runner.ran
    assert stored(tmp_path / "killed") == stored(tmp_path / "whole")
    assert len(ran) == len(set(ran))
    one, runner = driver(made_up(), tmp_path / "killed", keep=keep)
    assert one.finish() == 0
    assert runner.ran == []


@pytest.mark.parametrize("rounds", [{}, {"format": 2}, {"format": 3}, {"format": 2, "common": {}, "rounds": [7]}])
def test_a_damaged_record_is_said(tmp_path: Path, rounds: dict[str, object]) -> None:
    Store(tmp_path).sweeps.save("made-up", TEXT, [], 3, {"search": "groups", **rounds})
    for sweep in ("made-up", None):
        with pytest.raises(StoreError, match="the rounds of sweep 'made-up'"):
            flatdist.load_trials(tmp_path, sweep) if sweep else made_up().recorded(Store(tmp_path))


def test_a_kill_while_a_round_is_recorded_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = driver(made_up(), tmp_path / "whole")
    assert whole.finish() == 0
    save = RoundLog.save
    for after in (False, True):
        for number in (1, 2, 4):
            one, _ = driver(made_up(), tmp_path / "killed")

            def killed(log: RoundLog, number: int = number, after: bool = after) -> None:
                if len(log.rounds) < number:
                    return save(log)
                if after:
                    save(log)
                raise KeyboardInterrupt

            monkeypatch.setattr(RoundLog, "save", killed)
            with pytest.raises(KeyboardInterrupt):
                one.finish()
    monkeypatch.setattr(RoundLog, "save", save)
    one, _ = driver(made_up(), tmp_path / "killed")
    assert one.finish() == 0
    assert stored(tmp_path / "killed") == stored(tmp_path / "whole")


def test_parts_of_a_sweep_ask_for_the_same_rows_as_the_whole(tmp_path: Path) -> None:
    whole, _ = driver(made_up(), tmp_path / "whole")
    assert whole.finish() == 0
    for condition in ("rank == 2", "rank == 1"):
        part = parse_sweep(TEXT, changes=Changes(conditions=(condition,)))
        assert driver(part, tmp_path / "parts", keep=False)[0].finish() == 0
    one, runner = driver(made_up(), tmp_path / "parts")
    assert one.finish() == 0
    assert runner.ran == []
    assert stored(tmp_path / "parts") == stored(tmp_path / "whole")


def test_more_budget_precision_and_replicates_go_on(tmp_path: Path) -> None:
    small = made_up("budget: 60, precision: 0.12", "budget: 16, precision: 0.2")
    assert driver(small, tmp_path)[0].finish() == 0
    before = stored(tmp_path)
    more = parse_sweep(small.source.replace("budget: 16, precision: 0.2", "budget: 40, precision: 0.15"))
    one, runner = driver(more, tmp_path)
    assert one.finish() == 0
    assert before < stored(tmp_path)
    assert not before & set(runner.ran)
    assert before <= asked(one)
    replicated = parse_sweep(more.source.replace("replicates: 3", "replicates: 5"))
    one, runner = driver(replicated, tmp_path)
    assert one.finish() == 0
    assert {replicate for _, replicate in runner.ran} == {3, 4}


def test_groups_come_and_go(tmp_path: Path) -> None:
    assert driver(made_up("rank: [1, 2]", "rank: [1]"), tmp_path)[0].finish() == 0
    before = stored(tmp_path)
    one, runner = driver(made_up(), tmp_path)
    assert one.finish() == 0
    assert not before & set(runner.ran)
    one, _ = driver(made_up("rank: [1, 2]", "rank: [2]"), tmp_path)
    one.log.save()
    assert one.finish() == 0
    left = flatdist.load_trials(tmp_path, "made-up")
    assert set(left.loc[~left["nested"].astype(bool) & (left["method"] == "min_nuclear_norm"), "rank"]) == {2}


def test_another_range_or_tolerance_is_another_search(tmp_path: Path) -> None:
    assert driver(made_up(), tmp_path)[0].finish() == 0
    for old, new in (("from: 0.5*dof", "from: 0.6*dof"), ("budget: 60", "tolerance: 1e-3, budget: 60")):
        sweep = made_up(old, new)
        one, _ = driver(sweep, tmp_path)
        boundaries = [request for request in one.log.requests() if not request.cell.nested and request.cell.n != 30]
        assert not boundaries
        assert one.finish() == 0


def test_rows_of_other_sweeps_are_used_where_asked_for_and_ignored_elsewhere(tmp_path: Path) -> None:
    whole, _ = driver(made_up(), tmp_path / "whole")
    assert whole.finish() == 0
    store = Store(tmp_path / "shared")
    cells = {request.cell.cell_id: request.cell for request in whole.log.requests()}
    there = [row(cell, r) for cell in cells.values() for r in range(40)]
    store.write(there, [])
    one, runner = driver(made_up(), tmp_path / "shared")
    assert one.finish() == 0
    assert asked(one) == asked(whole)
    assert not {(line["cell_id"], line["replicate"]) for line in there} & set(runner.ran)
    loaded = flatdist.load_trials(tmp_path / "shared", "made-up")
    assert set(zip(loaded["cell_id"], loaded["replicate"], strict=True)) == asked(whole)
    assert len(flatdist.load_trials(tmp_path / "shared")) > len(loaded)
    columns = flatdist.load_trials(tmp_path / "shared", "made-up", columns=["n", "relative_error"])
    assert list(columns.columns) == ["n", "relative_error"]
    assert len(columns) == len(loaded)


def test_failing_runs_wedge_nothing_and_can_be_tried_again(tmp_path: Path) -> None:
    one, runner = driver(made_up(), tmp_path)
    runner.fails = lambda cell, replicate: replicate == 1
    assert one.finish() == 1
    assert all(state.is_finished for state in states_of(made_up(), Store(tmp_path)))
    again, runner = driver(made_up(), tmp_path)
    assert again.finish() == 1
    assert runner.ran == []
    retried, runner = driver(made_up(), tmp_path, retry_failed=True)
    assert retried.finish() == 0
    assert (tmp_path / "sweeps").is_dir()
    assert {replicate for _, replicate in runner.ran} >= {1}


def test_a_diverged_run_is_a_failure_of_recovery(tmp_path: Path) -> None:
    one, runner = driver(made_up(), tmp_path)
    write = runner.store.write

    def diverge(trials: list, history: list) -> str:  # type: ignore[type-arg]
        return write([{**line, "status": "diverged", "relative_error": None} for line in trials], history)

    runner.store.write = diverge  # type: ignore[method-assign, assignment]
    assert one.finish() == 0
    trials = flatdist.load_trials(tmp_path, "made-up")
    fitted = fit_thresholds(trials[trials["method"] == "min_nuclear_norm"], ["rank", "nested"])
    assert set(fitted["censored"]) == {"right"}
    assert len(trials) < 300


def test_a_limit_runs_the_first_cells_and_changes_no_choice(tmp_path: Path) -> None:
    whole, _ = driver(made_up(), tmp_path / "whole")
    assert whole.finish() == 0
    for limit in (2, 30):
        one, _ = driver(made_up(), tmp_path / "limited", limit=limit)
        assert one.finish() == 0
        assert len(Store(tmp_path / "limited").done()) == limit
    one, _ = driver(made_up(), tmp_path / "limited")
    assert one.finish() == 0
    assert stored(tmp_path / "limited") == stored(tmp_path / "whole")


def test_states_of_an_unfinished_sweep_are_forecast(tmp_path: Path) -> None:
    one, _ = driver(made_up(), tmp_path, limit=8)
    one.finish()
    store = Store(tmp_path)
    states = states_of(made_up(), store)
    assert any(not state.is_finished for state in states)
    assert all(state.left[0] <= state.left[1] for state in states)
    assert sum(state.left[1] for state in states[:2]) <= 2 * 60
    recorded = made_up().recorded(store)
    assert {i: set(recorded.replicates_of(i)) for i in recorded.asked} == {
        i: {r for cell, r in asked(one) if cell == i} for i in recorded.asked
    }
