"""Parts of a job array: one sweep, shared through its store alone."""

from __future__ import annotations

import os
import signal
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
from flatdist.launch import LaunchResult, LaunchSettings, parts
from flatdist.launch.parts import Claims, Part, PartRun, make_units, read_part
from flatdist.launch.progress.display import SilentDisplay
from flatdist.planning import WorkItem
from flatdist.planning.forecast import nominal_seconds
from flatdist.store import Store

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


def test_units_hold_everything_once_and_share_the_cost(make_cell: Any) -> None:
    cells = [make_cell(n, steps=steps) for n, steps in ((20, 100), (21, 4000), (22, 4000), (23, 40000), (24, 200))]
    items = [WorkItem(cell, tuple(range(50))) for cell in cells]
    units = make_units(items, 4, "fused")
    assert [unit.name for unit in units] == [unit.name for unit in make_units(items[::-1], 4, "fused")]
    keys = Counter((item.cell.cell_id, r) for unit in units for item in unit.items for r in item.replicates)
    assert set(keys.values()) == {1}
    assert len(keys) == 250
    shares = Counter[int]()
    for unit in units:
        shares[unit.owner] += unit.seconds  # type: ignore[assignment]
    whole = sum(50 * nominal_seconds(cell, "fused") for cell in cells)
    longest = max(unit.seconds for unit in units)
    assert sum(shares.values()) == pytest.approx(whole)
    assert all(abs(share - whole / 4) <= longest for share in shares.values())


def work(
    store: Path, number: int, count: int, items: list[WorkItem], runner: str = "sleeping"
) -> tuple[LaunchResult, int]:
    settings = LaunchSettings(runner=f"launch_fakes:{runner}", flush_seconds=0.05)
    opened, part = Store(store), Part(number, count)
    with Claims(opened, part) as claims:
        run = PartRun(part, claims, opened, settings, "fused", SilentDisplay())
        result = run.run(items)
    return result, run.computed


def test_parts_share_the_work_and_leave_nothing_behind(tmp_path: Path, make_cell: Any) -> None:
    items = [WorkItem(make_cell(n, steps=30), (0, 1, 2, 3)) for n in range(20, 30)]
    ends: dict[int, tuple[LaunchResult, int]] = {}

    def run(number: int) -> None:
        ends[number] = work(tmp_path, number, 3, items)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(computed for _, computed in ends.values()) == 40  # none twice
    assert min(computed for _, computed in ends.values()) > 5
    assert {result.exit_code for result, _ in ends.values()} == {0}
    assert all(result.stored + result.elsewhere == 40 for result, _ in ends.values())
    assert Store(tmp_path).done() == {item.cell.cell_id: {0, 1, 2, 3} for item in items}
    assert [path for name in ("claims", "pulses") for path in (tmp_path / name).glob("*")] == []
    assert work(tmp_path, 2, 3, items) == (ends[2][0].__class__(40, 40, 0, seconds=pytest.approx(0, abs=60)), 0)


def test_what_a_dead_part_had_claimed_is_run_by_others(
    tmp_path: Path, make_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(parts, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(parts, "POLL_SECONDS", 0.1)
    items = [WorkItem(make_cell(n, steps=5), (0, 1)) for n in range(20, 30)]
    dead = Claims(Store(tmp_path), Part(2, 2))
    dead._pulse()  # its last
    assert dead.take(make_units(items, 2, "fused")[-1].name)
    begun = time.monotonic()
    result, computed = work(tmp_path, 1, 2, items)
    assert (result.stored, result.exit_code, computed) == (20, 0, 20)
    assert time.monotonic() - begun > 2.0  # not before its lease was over
    assert not list((tmp_path / "claims").glob("*"))


def test_work_that_a_living_part_has_claimed_is_left_to_it(
    tmp_path: Path, make_cell: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("LEASE_SECONDS", 1.0), ("BEAT_SECONDS", 0.2), ("POLL_SECONDS", 0.1)):
        monkeypatch.setattr(parts, name, seconds)
    items = [WorkItem(make_cell(n, steps=5), (0, 1)) for n in range(20, 30)]
    with Claims(Store(tmp_path), Part(2, 2)) as alive:
        assert alive.take(make_units(items, 2, "fused")[-1].name)
        result, computed = work(tmp_path, 1, 2, items)
    assert result.elsewhere > 0
    assert computed == result.stored == 20 - result.elsewhere
    assert result.exit_code == 0
    assert "are running in other parts" in result.summary()


def test_failures_are_not_tried_by_every_part(tmp_path: Path, make_cell: Any) -> None:
    items = [WorkItem(make_cell(n), (0, 1)) for n in (20, 21)]
    first, _ = work(tmp_path, 1, 2, items, "always_failing")
    second, computed = work(tmp_path, 2, 2, items, "always_failing")
    assert (first.failed, first.exit_code) == (4, 1)
    assert (second.failed, second.exit_code, computed) == (4, 1, 0)
    assert len(Store(tmp_path).failures()) == 4


@pytest.mark.slow
def test_parts_on_the_command_line_where_one_is_killed(tmp_path: Path) -> None:
    """Three processes; the third is killed at once, and the others run its share."""
    path = tmp_path / "array.yaml"
    path.write_text(TEXT.replace("replicates: 3", "replicates: 10").replace("steps: 30", "steps: 60000"))
    script = (
        "import sys; from flatdist.launch import parts; parts.LEASE_SECONDS = 4.0; parts.BEAT_SECONDS = 0.5;"
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
    pulses = tmp_path / "store" / "pulses"
    deadline = time.monotonic() + 120
    while len(list(pulses.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(processes[2].pid, signal.SIGKILL)
    said = [process.communicate(timeout=250)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, -signal.SIGKILL], said
    assert "part 1 of 3: ran" in said[0]
    trials = Store(tmp_path / "store").trials()
    assert len(trials) == 30
    assert not trials.duplicated(["cell_id", "replicate"]).any()
    assert main(["status", "array", "--store", str(tmp_path / "store")]) == 0


@pytest.mark.slow
def test_one_part_drives_a_search_and_the_others_compute(tmp_path: Path) -> None:
    path = tmp_path / "search.yaml"
    path.write_text(
        "replicates: 2\nfixed: {d_out: 4, d_in: 4, rank: 1, n: 14, steps: 40, evaluations: 3}\n"
        "search: {fields: {learning_rate: {loguniform: [0.01, 0.1]}}, budget: 6, round: 3}\n"
    )
    command = [
        sys.executable,
        "-m",
        "flatdist",
        "sweep",
        str(path),
        "--store",
        str(tmp_path / "s"),
        "--display",
        "none",
    ]
    processes = [subprocess.Popen([*command, "--part", f"{k}/2"], stdout=subprocess.PIPE, text=True) for k in (1, 2)]
    said = [process.communicate(timeout=250)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert all("best so far" in text for text in said)
    trials = Store(tmp_path / "s").trials()
    assert len(trials) == 12
    alone = tmp_path / "alone"
    assert main(["sweep", str(path), "--store", str(alone), "--executor", "inline", "--display", "none"]) == 0
    assert set(Store(alone).trials()["cell_id"]) == set(trials["cell_id"])  # the same search


def test_options_that_do_not_go_with_parts_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "array.yaml"
    path.write_text(TEXT)
    for options, message in (
        (["--part", "5/4"], "--part 5/4 is not a part"),
        (["--part", "1/2", "--limit", "3"], "--part shares the whole sweep"),
        (["--part", "1/2", "--address", "auto"], "--part runs without Ray"),
    ):
        assert main(["sweep", str(path), "--store", str(tmp_path / "store"), *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "store").exists()
