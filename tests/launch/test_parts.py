"""Parts of a job array: one sweep, shared through its store alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from flatdist.cli import main
from flatdist.errors import LaunchError
from flatdist.launch import LaunchResult, launch, launching
from flatdist.launch.parts import Part, read_part
from flatdist.launch.worker import run_shard
from flatdist.planning import Settings, Shard, WorkItem, make_plan
from flatdist.planning.sharding import PIECES, in_pieces
from flatdist.store import Store, drivers

TEXT = "replicates: 3\nfixed: {d_out: 4, d_in: 4, rank: 1, steps: 30, evaluations: 2}\naxes: {n: [10, 11, 12]}\n"


def test_a_part_is_read_and_an_array_counts_from_either_end() -> None:
    assert read_part("3/8") == Part(3, 8)
    assert [read_part(f"{k}/2").number for k in (0, 1, 2)] == [2, 1, 2]
    slurm = {"SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "10", "SLURM_ARRAY_TASK_STEP": "5"}
    assert [read_part("auto", slurm | {"SLURM_ARRAY_TASK_ID": i}).number for i in ("10", "15", "20")] == [1, 2, 3]
    assert read_part("auto", {"JOB_COMPLETION_INDEX": "7", "JOB_COMPLETIONS": "8"}) == Part(8, 8)
    assert read_part("auto", {"SKYPILOT_JOB_RANK": "0", "SKYPILOT_NUM_JOBS": "2"}) == Part(1, 2)


@pytest.mark.parametrize(
    ("text", "environment", "message"),
    [
        ("5/4", {}, "--part 5/4 is not a part; allowed: K/N with K from 1 to N"),
        ("1/0", {}, "is not a part"),
        ("-1/4", {}, "is not a part"),
        ("half", {}, "is not a part"),
        ("auto", {}, "this process is in no job array (none of SLURM_ARRAY_TASK_ID"),
        ("auto", {"JOB_COMPLETION_INDEX": "3"}, "set JOB_COMPLETIONS to the number of jobs"),
        (
            "auto",
            {"SLURM_ARRAY_TASK_ID": "x", "SLURM_ARRAY_TASK_COUNT": "4"},
            "SLURM_ARRAY_TASK_ID='x' is not a number",
        ),
        ("auto", {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_COUNT": "4"}, "is outside of SLURM_ARRAY_TASK_COUNT=4"),
    ],
)
def test_what_is_no_part_is_said(text: str, environment: dict[str, str], message: str) -> None:
    with pytest.raises(LaunchError) as raised:
        read_part(text, environment)
    assert message in str(raised.value)


def test_pieces_hold_everything_once_and_cost_alike(make_cell: Any) -> None:
    cells = [make_cell(n, steps=steps) for n, steps in ((20, 100), (21, 4000), (22, 4000), (23, 40000), (24, 200))]
    items = tuple(WorkItem(cell, tuple(range(50))) for cell in cells)
    shards = [Shard(items[:2], 9.0), Shard(items[2:], 91.0)]
    pieces = in_pieces(shards, "fused", 1, 4)
    keys = Counter((item.cell.cell_id, r) for piece in pieces for item in piece.items for r in item.replicates)
    assert set(keys.values()) == {1}
    assert len(keys) == 250
    assert sum(piece.predicted_seconds for piece in pieces) == pytest.approx(100.0)
    assert max(piece.predicted_seconds for piece in pieces) < 3 * 100 / (4 * PIECES)
    alone = in_pieces(shards, "fused", 1, 1)
    assert [item for piece in alone for item in piece.items] == list(items)  # a cell's replicates train together


def work(store: Path, part: Part | None, items: list[WorkItem], runner: str = "sleeping") -> LaunchResult:
    settings = Settings("inline", runner=f"launch_fakes:{runner}", flush_seconds=0.05)
    plan = make_plan([Listed(items)], Store(store), Settings(executor="inline", slots=1))  # type: ignore[list-item]
    return launch(plan, store, settings=settings, display="none", part=part)


class Listed:
    """A sweep of given work."""

    name, description, left_out, repeated, replicates = "listed", "", 0, 0, 1

    def __init__(self, items: list[WorkItem]) -> None:
        self.cells = [item.cell for item in items]
        self._replicates = {item.cell.cell_id: item.replicates for item in items}

    def replicates_of(self, cell_id: str) -> tuple[int, ...]:
        return self._replicates[cell_id]


def test_parts_share_the_work_and_leave_nothing_behind(tmp_path: Path, make_cell: Any) -> None:
    items = [WorkItem(make_cell(n, steps=30), (0, 1, 2, 3)) for n in range(20, 30)]
    ends: dict[int, LaunchResult] = {}

    def run(number: int) -> None:
        ends[number] = work(tmp_path, Part(number, 3), items)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(result.ran for result in ends.values()) == 40  # none twice
    assert min(result.ran for result in ends.values()) > 5
    assert {result.exit_code for result in ends.values()} == {0}
    assert all(result.stored + result.elsewhere == 40 for result in ends.values())
    assert Store(tmp_path).done() == {item.cell.cell_id: {0, 1, 2, 3} for item in items}
    assert list((tmp_path / "drivers" / "v1").iterdir()) == []
    again = work(tmp_path, Part(2, 3), items)
    assert (again.wanted, again.ran) == (0, 0)


@pytest.mark.parametrize("shown", [True, False])
def test_what_a_dead_driver_was_running_is_run_by_others(
    tmp_path: Path, make_cell: Any, monkeypatch: pytest.MonkeyPatch, shown: bool
) -> None:
    """At once where its process is of this machine, else when it has been silent for a while."""
    for name, seconds in (("LEASE_SECONDS", 1.5), ("BEAT_SECONDS", 0.2)):
        monkeypatch.setattr(drivers, name, seconds)
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.1)
    items = [WorkItem(make_cell(n, steps=5), (0, 1)) for n in range(20, 30)]
    host = socket.gethostname() if shown else "elsewhere"
    running = {item.cell.cell_id: [0, 1] for item in items[:3]}
    said = {"host": host, "pid": 4194303, "sweeps": ["listed"], "running": running}
    begun = time.monotonic()
    Store(tmp_path).files.write(f"drivers/v1/{'0' * 12}-{'1' * 12}.json", json.dumps(said).encode())
    result = work(tmp_path, None, items)
    assert (result.stored, result.exit_code, result.ran) == (20, 0, 20)
    assert shown or time.monotonic() - begun > 1.5


def test_work_that_a_living_driver_has_taken_is_left_to_it(
    tmp_path: Path, make_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("LEASE_SECONDS", 1.0), ("BEAT_SECONDS", 0.2)):
        monkeypatch.setattr(drivers, name, seconds)
    monkeypatch.setattr(launching, "POLL_SECONDS", 0.1)
    items = [WorkItem(make_cell(n, steps=5), (0, 1)) for n in range(20, 30)]
    with drivers.Driver(Store(tmp_path)) as alive:
        alive.take({(items[4].cell.cell_id, 1)})
        result = work(tmp_path, Part(1, 2), items)
    assert (result.elsewhere, result.ran, result.stored, result.exit_code) == (1, 19, 19, 0)
    assert "1 are running in other drivers" in result.summary()


def test_a_paused_replicate_is_not_trained_to_its_rung_twice(tmp_path: Path, make_cell: Any) -> None:
    cell = make_cell(20, steps=960, evaluations=97, learning_rate=0.01)
    shard = Shard((WorkItem(cell, (0, 1), until=100),), 1.0)
    assert run_shard(shard, str(tmp_path), Settings(launch="0" * 12)).stored == 0
    saved = Store(tmp_path).files.list("checkpoints")
    assert len(saved) == 2
    with drivers.Driver(Store(tmp_path)):
        run_shard(shard, str(tmp_path), Settings(launch="0" * 12))
    assert Store(tmp_path).files.list("checkpoints") == saved


def test_failures_are_not_tried_by_every_part(tmp_path: Path, make_cell: Any) -> None:
    items = [WorkItem(make_cell(n), (0, 1)) for n in (20, 21)]
    first = work(tmp_path, Part(1, 2), items, "always_failing")
    second = work(tmp_path, Part(2, 2), items, "always_failing")
    assert (first.failed, first.exit_code) == (4, 1)
    assert second.wanted == 0
    assert len(Store(tmp_path).failures()) == 4


@pytest.mark.slow
def test_parts_on_the_command_line_where_one_is_killed(tmp_path: Path) -> None:
    """Three processes; the third is killed at once, and the others run its share."""
    path = tmp_path / "array.yaml"
    path.write_text(TEXT.replace("replicates: 3", "replicates: 10").replace("steps: 30", "steps: 60000"))
    script = (
        "import sys; from flatdist.store import drivers; drivers.LEASE_SECONDS = 4.0; drivers.BEAT_SECONDS = 0.5;"
        "from flatdist.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--store", str(tmp_path / "store"), "--display", "none"]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, "sweep", str(path), *options, "--part", f"{number}/3"],
            stderr=subprocess.PIPE, text=True,
        )
        for number in (1, 2, 3)
    ]  # fmt: skip
    shown = tmp_path / "store" / "drivers" / "v1"
    deadline = time.monotonic() + 120
    while len({path.name[:12] for path in shown.glob("*.json")}) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(processes[2].pid, signal.SIGKILL)
    said = [process.communicate(timeout=250)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL], said
    assert "part 1 of 3: computed" in said[0]
    trials = Store(tmp_path / "store").trials()
    assert len(trials) == 30
    assert not trials.duplicated(["cell_id", "replicate"]).any()
    assert main(["status", "array", "--store", str(tmp_path / "store")]) == 0


@pytest.mark.slow
def test_parts_of_a_search_drive_the_same_rounds_and_share_each(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(
        "replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 14, steps: 40, evaluations: 3}\n"
        "search: {fields: {learning_rate: {loguniform: [0.01, 0.1]}}, budget: 6, round: 3}\n"
    )
    options = ["--display", "none", "--no-probe"]
    command = [sys.executable, "-m", "flatdist", "sweep", str(path), "--store", str(tmp_path / "s"), *options]
    processes = [subprocess.Popen([*command, "--part", f"{k}/2"], stdout=subprocess.PIPE, text=True) for k in (1, 2)]
    said = [process.communicate(timeout=250)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all("best so far" in text for text in said)
    trials = Store(tmp_path / "s").trials()
    assert len(trials) == 12
    alone = tmp_path / "alone"
    assert main(["sweep", str(path), "--store", str(alone), "--executor", "inline", *options]) == 0
    assert set(Store(alone).trials()["cell_id"]) == set(trials["cell_id"])  # the same search


def test_options_that_do_not_go_with_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "array.yaml"
    path.write_text(TEXT)
    for options, message in (
        (["--part", "5/4"], "--part 5/4 is not a part"),
        (["--part", "1/2", "--limit", "3"], "--part excludes --budget and --limit"),
        (["--part", "1/2", "--address", "auto"], "--part runs without Ray"),
    ):
        assert main(["sweep", str(path), "--store", str(tmp_path / "store"), *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
