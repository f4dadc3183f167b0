from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flatdist.launch import LaunchResult, Settings, launch
from flatdist.launch.progress.display import Display
from flatdist.launch.ray import tune as ray_tune
from flatdist.launch.ray.cluster import versions
from flatdist.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore::ResourceWarning")]


def run(plan: Any, store: Path, runner: str, **settings: Any) -> tuple[LaunchResult, list[str]]:
    display = Display()
    chosen = Settings(runner=f"launch_fakes:{runner}", slots=2, **settings)
    return launch(plan, store, settings=chosen, display=display), display.messages


@pytest.mark.usefixtures("local_ray")
def test_a_plan_runs_as_tune_trials_on_loopback_alone_and_prints_none_of_their_tables(
    tmp_path: Path, make_cell: Any, make_plan: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.tune.progress_reporter.IS_NOTEBOOK", True)  # where Tune prints most, and clears the cell
    cells = [make_cell(n, steps=100) for n in range(20, 32)]
    store = Store(tmp_path / "store")
    seen: list[tuple[str, int]] = []

    def look() -> None:
        deadline = time.monotonic() + 60
        while not store.done() and time.monotonic() < deadline:
            time.sleep(0.1)
        seen.extend(listening(family_of(os.getpid())))

    thread = threading.Thread(target=look)
    thread.start()
    result, messages = run(make_plan(cells, (0, 1), per_shard=4), tmp_path / "store", "sleeping", flush_seconds=0.05)
    thread.join()
    assert (result.exit_code, result.stored) == (0, 24)
    assert store.done() == {cell.cell_id: {0, 1} for cell in cells}
    assert messages[-1] == "24 of 24 replicates are stored"
    printed = capfd.readouterr()
    assert printed.out == ""
    assert "trial" not in printed.err.lower()
    assert len(seen) > 5  # Ray's daemons and workers do listen
    assert [address for address, _ in seen if not address.startswith("127.") and address != "::1"] == []


@pytest.mark.usefixtures("local_ray")
def test_a_node_of_another_version_that_joined_late_computes_nothing(
    tmp_path: Path, make_cell: Any, make_plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_tune, "versions", lambda: versions() | {"sampling": 99})
    result, _ = run(make_plan([make_cell()], (0,)), tmp_path / "store", "canned", max_deaths=1)
    assert (result.stored, result.failed, result.exit_code) == (0, 0, 1)
    assert "and 99 where the sweep was started" in (result.stopped or "")


@pytest.mark.usefixtures("local_ray")
def test_a_worker_that_dies_takes_nothing_with_it(tmp_path: Path, make_cell: Any, make_plan: Any) -> None:
    """n = 13 kills its worker, always; all three cells are one shard."""
    cells = [make_cell(n) for n in (12, 13, 18)]
    plan = make_plan(cells, (0,), per_shard=3)
    result, _ = run(plan, tmp_path / "store", "deadly", flush_seconds=0.05, max_deaths=1)
    store = Store(tmp_path / "store")
    assert (result.stored, result.failed, result.missing, result.exit_code) == (2, 1, 0, 1)
    assert store.done() == {cell.cell_id: {0} for cell in cells if cell.n != 13}
    failures = store.failures()
    assert set(failures["cell_id"]) == {cells[1].cell_id}
    assert set(failures["error_type"]) == {"WorkerDied"}
    assert "died 2 times" in failures["message"].iloc[0]


@pytest.mark.usefixtures("local_ray")
def test_every_thread_pool_in_a_trial_has_the_trials_size(tmp_path: Path, make_cell: Any, make_plan: Any) -> None:
    plan = make_plan([make_cell(40), make_cell(41)], (0,), per_shard=2)
    for executor, cpus in (("ray", 1), ("inline", 2), ("inline", 1)):  # the last has to shrink its pools
        settings = Settings(executor, runner="launch_fakes:inspecting", cpus_per_trial=cpus, slots=2)
        folder = tmp_path / f"{executor}-{cpus}"
        result = launch(plan, folder, settings=settings, display="none")
        assert result.exit_code == 0
        inspected = [json.loads(text) for text in Store(folder).trials()["host"]]
        assert {"torch", "numba"} <= {pool for pools in inspected for pool in pools}
        for pool, threads in (item for pools in inspected for item in pools.items()):
            assert threads == (cpus if pool in ("torch", "numba") or pool.startswith("openmp") else 1), pool


@pytest.mark.usefixtures("local_ray")
def test_an_interrupted_sweep_stores_what_is_finished_within_seconds(
    tmp_path: Path, make_cell: Any, make_plan: Any
) -> None:
    plan = make_plan([make_cell(n, steps=300) for n in range(20, 60)], (0, 1), per_shard=10)
    store = Store(tmp_path / "store")
    at: list[float] = []

    def interrupt() -> None:
        deadline = time.monotonic() + 60
        while not store.done() and time.monotonic() < deadline:
            time.sleep(0.05)
        at.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    result, messages = run(plan, tmp_path / "store", "sleeping", flush_seconds=1.0)
    took = time.monotonic() - at[0]
    thread.join()
    assert result.exit_code == 130
    assert 0 < result.stored < result.wanted
    assert "rerun the command" in messages[-1]
    assert took < 10  # a promise to users, an order of magnitude above what it takes


def test_sigterm_ends_a_process_with_a_ray_of_its_own(tmp_path: Path) -> None:
    """Ray puts a handler of its own in place when it starts; the process must still end as promised."""
    script = """
import sys
from types import SimpleNamespace
from flatdist.cells.cell import Cell
from flatdist.launch import Settings, launch
from flatdist.planning import Shard, WorkItem
cells = [Cell(d_out=8, d_in=8, rank=1, n=n, steps=300) for n in range(20, 60)]
shards = tuple(Shard((WorkItem(cell, (0, 1)),), 1.0) for cell in cells)
plan = SimpleNamespace(cells=cells, shards=shards, done=0, sweeps=())
settings = Settings(runner="launch_fakes:sleeping", slots=1, flush_seconds=0.5)
sys.exit(launch(plan, sys.argv[1], settings=settings, display="plain").exit_code)
"""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parents[1] / "helpers"), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),
        "RAY_AUTH_MODE": "disabled",
    }
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "store")], stderr=subprocess.PIPE, env=environment, text=True
    )
    family: set[int] = set()
    store = Store(tmp_path / "store")
    deadline = time.monotonic() + 120
    while not store.done() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    family = family_of(process.pid)
    process.terminate()
    _, printed = process.communicate(timeout=60)
    assert process.returncode == 130, printed
    assert "rerun the command" in printed
    assert "SIGTERM received" not in printed
    assert len(family) > 3
    gone = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in family) and time.monotonic() < gone:
        time.sleep(0.1)
    assert [pid for pid in family if Path(f"/proc/{pid}").exists()] == []


def family_of(pid: int) -> set[int]:
    """A process and all its descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    family, new = {pid}, [pid]
    while new:
        found = children.get(new.pop(), [])
        family.update(found)
        new += found
    return family


def listening(pids: set[int]) -> Iterator[tuple[str, int]]:
    """Addresses and ports on which processes listen, from /proc/net."""
    inodes = set()
    for pid in pids:
        try:
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
        except OSError:
            continue
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A" and columns[9] in inodes:  # 0A: LISTEN
                host, port = columns[1].split(":")
                words = struct.pack(f"={len(host) // 8}I", *(int(host[i : i + 8], 16) for i in range(0, len(host), 8)))
                address = socket.inet_ntop(family, words)
                yield address.removeprefix("::ffff:"), int(port, 16)
