"""A sweep with a ``search`` from plan to best, by its file and by its name."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import pytest

import flatdist
from flatdist.cli import main
from flatdist.launch import sweeping
from flatdist.launch.interrupt import sigterm_interrupts
from flatdist.launch.launching import LaunchResult, launch
from flatdist.planning import Plan, Settings
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


class Session:
    """In place of Ray: counts how often it was started."""

    started = 0

    def __init__(self, settings: Settings) -> None:
        assert settings.executor == "ray"

    def __enter__(self) -> None:
        Session.started += 1

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""


@pytest.mark.parametrize(("seconds", "started"), [(60.0, 0), (-math.inf, 1)])
def test_rounds_that_end_sooner_than_ray_starts_run_in_this_process(
    sweep: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, seconds: float, started: int
) -> None:
    path, store = sweep
    executors: list[str] = []

    def inline(plan: Plan, uri: str, *, settings: Settings, **options: Any) -> LaunchResult:
        executors.append(settings.executor)
        return launch(plan, uri, settings=dataclasses.replace(settings, executor="inline"), **options)

    monkeypatch.setattr(sweeping, "LAUNCH_SECONDS", seconds)
    monkeypatch.setattr(sweeping, "launch", inline)
    monkeypatch.setattr("flatdist.launch.ray.cluster.ClusterSession", Session)
    Session.started = 0
    assert main(["sweep", path, *store, "--no-probe", "--display", "none", "--engine", "batched"]) == 0
    assert set(executors) == {"ray" if started else "inline"}
    assert len(executors) > 2  # rounds, and the rungs within them
    assert Session.started == started  # once for all rounds
    rows = flatdist.load_trials(store[1], sweep="tiny")
    other = [store[0], store[1] + "-inline"]
    assert main(["sweep", path, *other, *RUN]) == 0
    assert rows["relative_error"].tolist() == flatdist.load_trials(other[1], sweep="tiny")["relative_error"].tolist()
