"""Sweeps that choose n or their replicates, from plan to export, by their file and by their name."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from posteriors import remembered_posteriors

import flatdist
from flatdist.cli import main
from flatdist.fits.threshold import fit_thresholds
from flatdist.store import Store

TEXT = """
name: edges
replicates: 3
fixed: {d_out: 5, d_in: 5, rank: 1, method: min_nuclear_norm}
blocks:
  - axes: {n: {boundary: {from: 0.5*dof, to: entries, budget: 40, precision: 0.15}}}
  - fixed: {nested: true}
    axes: {n: {first_success: {from: 1, to: entries}}}
  - fixed: {n: 12, method: min_frobenius_norm}
"""
RUN = ["--executor", "inline", "--no-probe", "--display", "none"]


@pytest.fixture(autouse=True, scope="module")
def _posteriors() -> Iterator[None]:
    with remembered_posteriors():
        yield


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[str, list[str]]:
    path = tmp_path / "edges.yaml"
    path.write_text(TEXT)
    return str(path), ["--store", str(tmp_path / "results")]


def test_every_command_knows_a_boundary(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, store = sweep
    assert main(["plan", path, *store, "--no-probe"]) == 0
    planned = capsys.readouterr().out
    assert "groups: edges: 0 of 2 finished, 0 runs requested so far" in planned
    assert "at most 55, which would take" in planned  # 40, and 5 steps for each of 3 replicates
    assert main(["plan", path, *store, "--no-probe", "--json"]) == 0
    forecast = json.loads(capsys.readouterr().out)["groups"][0]
    assert (forecast["groups"], forecast["finished"], forecast["at_most"]) == (2, 0, 55)
    assert 15 < forecast["expected"] <= 55

    assert main(["sweep", path, *store, *RUN, "--limit", "2"]) == 0
    assert "stopped at the limit of 2 cells" in capsys.readouterr().out
    assert len(Store(store[1]).done()) == 2
    assert main(["sweep", "edges", *store, *RUN]) == 0
    printed = capsys.readouterr().out
    assert "round 2: " in printed
    assert "edges: 2 of 2 groups finished with" in printed

    assert main(["status", *store]) == 0
    assert "2 of 2" in capsys.readouterr().out
    assert main(["status", "edges", *store, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["sweeps"][0]
    assert counts["missing"] == counts["failed"] == 0
    trials = flatdist.load_trials(store[1], "edges")
    assert len(trials) == counts["done"] == counts["replicates"] == len(flatdist.load_trials(store[1], path))

    assert main(["cells", path, *store, "--json"]) == 0
    cells = json.loads(capsys.readouterr().out)
    assert sum(cell["done"] for cell in cells) == sum(cell["replicates"] for cell in cells) == len(trials)
    assert main(["show", cells[0]["cell_id"], *store]) == 0
    assert main(["export", "edges", *store, "--out", str(tmp_path / "rows.parquet")]) == 0
    assert len(pd.read_parquet(tmp_path / "rows.parquet")) == len(trials)
    assert main(["best", "edges", *store]) == 0
    capsys.readouterr()
    assert main(["plan", "edges", *store, "--no-probe"]) == 0
    assert "nothing to run" in capsys.readouterr().out

    searched = trials[(trials["method"] == "min_nuclear_norm") & ~trials["nested"].astype(bool)]
    fitted = fit_thresholds(searched, ["method"]).iloc[0]
    assert 0.5 * math.log(fitted["n50_high"] / fitted["n50_low"]) <= 0.15 or len(searched) == 40


def test_a_sweep_in_parts_and_then_whole_runs_nothing_twice(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = sweep
    for count, condition in enumerate(("nested", "not nested"), 1):
        assert main(["sweep", path, *store, *RUN, "--where", condition]) == 0
        rows = Store(store[1]).trials()  # what a part has finished can be analysed at once, by name and by file
        assert len(flatdist.load_trials(store[1], "edges")) == len(flatdist.load_trials(store[1], path)) == len(rows)
        capsys.readouterr()
        assert main(["status", "edges", *store, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["sweeps"][0]["finished"] == count
    assert main(["sweep", path, *store, *RUN]) == 0
    assert Store(store[1]).trials().equals(rows)
    assert len(flatdist.load_trials(store[1], "edges")) == len(rows)
    capsys.readouterr()


def test_another_range_of_n_is_another_group_and_is_not_recorded(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = sweep
    assert main(["sweep", path, *store, *RUN, "--where", "nested"]) == 0
    recorded = len(flatdist.load_trials(store[1], "edges"))
    assert main(["sweep", path, *store, *RUN, "--where", "not nested and n > 10"]) == 0
    assert "changes 1 of 2 groups" in capsys.readouterr().err
    found = flatdist.load_trials(store[1], "edges")
    assert len(found) == recorded + 3 < len(flatdist.load_trials(store[1]))  # with the cell that the file lists


def test_one_n_from_the_command_line(sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    path, store = sweep
    assert main(["sweep", path, *store, *RUN, "--set", "n=20"]) == 0
    assert Store(store[1]).sweeps.names() == ["edges+n-20"]  # which lists its cells
    assert set(Store(store[1]).trials()["n"]) == {20}
    capsys.readouterr()


def test_a_failing_group_leaves_the_others_alone(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flatdist.trials import solve as solving

    path, store = sweep
    solve = solving.solve

    def broken(cell, replicates, *rest):  # type: ignore[no-untyped-def]
        if cell.nested and 1 in replicates:
            raise ArithmeticError("made up")
        return solve(cell, replicates, *rest)

    monkeypatch.setattr(solving, "solve", broken)
    assert main(["sweep", path, *store, *RUN]) == 1
    assert "replicates of 1 cells failed: ArithmeticError: made up" in capsys.readouterr().err
    assert main(["status", "edges", *store, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["sweeps"][0]
    assert counts["failed"] > 0
    assert (counts["missing"], counts["finished"]) == (0, 2)
    monkeypatch.setattr(solving, "solve", solve)
    assert main(["sweep", "edges", *store, *RUN]) == 1  # what failed still stands
    assert main(["sweep", "edges", *store, *RUN, "--retry-failed"]) == 0
    found = flatdist.load_trials(store[1], "edges", where="nested")
    assert set(found["replicate"]) == {0, 1, 2}
    capsys.readouterr()


def test_an_interrupted_sweep_ends_with_the_same_rows(
    sweep: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flatdist.trials import solve as solving

    path, store = sweep
    assert main(["sweep", path, *store, *RUN]) == 0
    solve, calls = solving.solve, 0

    def interrupted(cell, replicates, *rest):  # type: ignore[no-untyped-def]
        nonlocal calls
        calls += 1
        if calls % 7 == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return solve(cell, replicates, *rest)

    monkeypatch.setattr(solving, "solve", interrupted)
    other = ["--store", str(tmp_path / "interrupted")]
    statuses = [main(["sweep", path, *other, *RUN])]
    while statuses[-1] == 130 and len(statuses) < 20:
        statuses.append(main(["sweep", path, *other, *RUN]))
    assert len(statuses) > 2
    assert statuses[-1] == 0
    keys = ["cell_id", "replicate", "relative_error"]
    whole, parts = (flatdist.load_trials(where, "edges", columns=keys) for where in (store[1], other[1]))
    pd.testing.assert_frame_equal(whole, parts)
    capsys.readouterr()
