"""A sweep with a ``search`` from plan to best, by its file and by its name."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

import flatdist
from flatdist.cli import main
from flatdist.launch.interrupt import sigterm_interrupts
from flatdist.store import Store

TEXT = """
name: tiny
replicates: 2
fixed: {d_out: 4, d_in: 4, rank: 1, n: 14, steps: 480, evaluations: 49}
search:
  fields: {learning_rate: {loguniform: [1e-4, 0.1]}, label_noise_std: {uniform: [0, 1]}}
  searcher: optuna
  metric: steps_to=0.05
  budget: 6
  round: 3
  early_stopping: {first: 100, factor: 3}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> tuple[str, list[str]]:
    path = tmp_path / "tiny.yaml"
    path.write_text(TEXT)
    return str(path), ["--store", str(tmp_path / "results")]


RUN = ["--executor", "inline", "--no-probe", "--display", "none", "--engine", "batched"]


def test_every_command_knows_a_search(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path, store = sweep
    assert main(["plan", path, *store, "--no-probe", "--engine", "batched"]) == 0
    planned = capsys.readouterr().out
    assert "6 cells with 2 replicates each: 0 done, 12 missing, 0 failed" in planned
    assert "0 of 6 cells suggested so far; the other 6 stand in for what optuna will suggest, 3 a round" in planned

    assert main(["sweep", path, *store, *RUN, "--limit", "3"]) == 0
    assert "round 1: 3 cells" in capsys.readouterr().out
    assert main(["sweep", "tiny", *store, *RUN]) == 0
    printed = capsys.readouterr().out
    assert "3 of 6 cells suggested so far" in printed
    assert "round 2: 3 cells" in printed
    assert "best so far: median steps_to=0.05" in printed

    assert main(["status", "tiny", *store, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)["sweeps"][0]
    assert (counts["cells"], counts["missing"], counts["failed"]) == (6, 0, 0)
    assert counts["done"] + counts["stopped"] == 12
    assert counts["stopped"] > 0

    assert main(["best", path, *store, "--json"]) == 0
    ranked = json.loads(capsys.readouterr().out)
    assert 2 * len(ranked) == counts["done"]
    history = flatdist.load_history(store[1], "tiny", where={"cell_id": ranked[0]["cell_id"]})
    steps = history[history["population_loss"] < 0.05].groupby("replicate")["step"].min()
    assert ranked[0]["median"] == pytest.approx(steps.median())
    assert main(["best", "tiny", *store, "--metric", "steps_too=0.1"]) == 2
    assert "did you mean 'steps_to'" in capsys.readouterr().err
    assert len(flatdist.load_trials(store[1], path)) == len(flatdist.load_trials(store[1], "tiny")) == counts["done"]

    assert main(["plan", "tiny", *store, "--no-probe"]) == 0
    assert "nothing to run" in capsys.readouterr().out
    assert main(["cells", "tiny", *store]) == 0
    assert "6 cells" in capsys.readouterr().out


def test_a_search_runs_beside_plain_sweeps(
    sweep: tuple[str, list[str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = sweep
    plain = tmp_path / "plain.yaml"
    plain.write_text("replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 14, method: min_frobenius_norm}\n")
    assert main(["sweep", str(plain), path, *store, *RUN, "--limit", "2"]) == 0
    capsys.readouterr()
    assert Store(store[1]).sweeps.names() == ["plain", "tiny"]
    assert len(flatdist.load_trials(store[1], "plain")) == 2


def test_changed_fields_are_not_recorded_as_the_search(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, store = sweep
    options = ["--set", "steps=100", "--set", "evaluations=11", "--limit", "2"]
    assert main(["sweep", path, *store, *RUN, *options]) == 0
    assert "best so far" in capsys.readouterr().out
    assert Store(store[1]).sweeps.names() == []
    before = Store(store[1]).trials()
    assert main(["sweep", path, *store, *RUN, *options]) == 0  # chosen again from the same rows, and nothing runs
    assert Store(store[1]).trials().equals(before)
    assert len(before) == 4


def test_conditions_that_leave_out_everything_are_refused(
    sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", sweep[0], *sweep[1], *RUN, "--where", "learning_rate > 1"]) == 2
    assert "leaves out all of 50 suggestions" in capsys.readouterr().err


def test_fit_makes_no_sense_for_a_search(sweep: tuple[str, list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", sweep[0], *sweep[1], "--no-probe", "--budget", "1h", "--fit"]) == 2
    assert "--fit cannot cut a search short" in capsys.readouterr().err


def test_sigterm_between_two_launches_ends_a_search_like_sigint() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), sigterm_interrupts():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before
