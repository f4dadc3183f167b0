"""Drivers of one store share its work; a driver compacts as it goes and at its end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from flatdist.launch import launch, launching, worker
from flatdist.launch.parts import Part
from flatdist.planning import Settings, make_plan
from flatdist.store import Store
from flatdist.store import drivers as drivers_module
from flatdist.store.drivers import Driver
from flatdist.store.filesystem import LocalFilesystem
from flatdist.sweeps import parse_sweep

SWEEP = """
name: shared
replicates: 4
fixed: {d_out: 4, d_in: 4, rank: 1, steps: 40, evaluations: 2, depth: 2, learning_rate: 0.01, dtype: float64}
axes: {n: {range: [8, 57, 1]}}
"""
WORK = {("a", 0), ("a", 1), ("b", 0)}


def test_drivers_see_what_others_are_running_and_forget_the_dead(store):
    with Driver(store, sweeps=["one"]) as first:
        assert first.others() == []
        assert first.take(WORK) == WORK
        with Driver(Store(store.uri), sweeps=["one"]) as second, Driver(store, first.launch) as of_first:
            (seen,) = {one.keys for one in second.others() if one.sweeps == {"one"}}
            assert (seen, second.elsewhere()) == (WORK, WORK)
            assert second.take({("a", 1), ("c", 0)}) == {("c", 0)}
            assert of_first.take({("a", 1)}) == {("a", 1)}  # the same launch's own
            first.take(set())
            assert second.take({("b", 0), ("c", 0)}) == {("b", 0), ("c", 0)}
        assert first.others() == []
    assert store.files.list("drivers/v1") == []
    path = f"drivers/v1/{'0' * 12}-{'1' * 12}.json"
    gone = {"host": os.uname().nodename, "pid": 4194303, "sweeps": [], "running": {"a": [0]}}
    store.files.write(path, json.dumps(gone).encode())
    with Driver(store) as alone:
        assert alone.take(WORK) == WORK
        assert [info.path for info in store.files.list("drivers/v1") if info.path == path] == []
        store.files.write(path, b"rubbish")  # somebody, who knows what at: alive for a while
        assert [one.keys for one in alone.others()] == [frozenset()]


def test_a_driver_taken_for_dead_shows_itself_again(store):
    with Driver(store) as first, Driver(Store(store.uri)) as second:
        first.take(WORK)
        for info in store.files.list("drivers/v1"):
            store.files.delete(info.path)
        assert second.take(WORK) == WORK
        assert first.elsewhere() == WORK
        assert second.elsewhere() == WORK  # both run it: harmless, and it ends with them


class CallsBack(LocalFilesystem):
    """Does something before its k-th operation."""

    def __init__(self, root, count, act):
        super().__init__(root)
        self.count, self.act = count, act

    def _called(self):
        self.count -= 1
        if self.count == 0:
            self.act()

    def _read(self, *arguments):
        self._called()
        return super()._read(*arguments)

    def _write(self, *arguments):
        self._called()
        super()._write(*arguments)

    def _list(self, *arguments):
        self._called()
        return super()._list(*arguments)


def test_no_two_drivers_take_the_same_work_whatever_the_moment(tmp_path):
    """The second takes work, and perhaps gives it back, between any two operations of the first."""
    outcomes = set()
    for k in range(1, 8):
        folder = str(tmp_path / str(k))
        with Driver(Store(folder)) as second:
            theirs = []
            files = CallsBack(folder, 0, lambda driver=second, found=theirs: found.append(driver.take({("a", 0)})))
            with Driver(Store(folder, filesystem=files)) as first:
                files.count = k
                mine = first.take({("a", 0)})
                acted = bool(theirs)
                taken = theirs[0] if acted else second.take({("a", 0)})
                assert not mine & taken, f"both took it before operation {k}"
                outcomes.add((acted, bool(mine), bool(taken)))
    assert outcomes == {(True, False, True), (True, True, False), (False, True, False)}


def test_a_driver_compacts_at_its_end(store, cells, rows, monkeypatch):
    monkeypatch.setattr(drivers_module, "AT_THE_END", 3)
    for cell in cells[:4]:
        store.write(*rows(cell, range(2)))
    wanted = store.history()
    with Driver(store):
        pass
    assert store.files.list("manifest/v1") == []
    with Driver(store, tidies=True):
        assert store.files.list("manifest/v1") == []
    assert len(store.files.list("manifest/v1")) == 1
    assert Store(store.uri).history().equals(wanted)


class Baton:
    """Lets one of several threads run at a time, each up to its next step."""

    def __init__(self, count):
        self._turn, self._alive, self._changed = 0, list(range(count)), threading.Condition()

    def wait(self, number):
        with self._changed:
            assert self._changed.wait_for(lambda: self._turn == number, timeout=250)

    def pass_on(self, number, *, leaves=False):
        with self._changed:
            after = [one for one in self._alive if one > number] + [one for one in self._alive if one < number]
            if leaves:
                self._alive.remove(number)
            self._turn = after[0] if after else number
            self._changed.notify_all()
        if not leaves:
            self.wait(number)


@pytest.mark.parametrize("parts", [None, 3], ids=["two drivers", "three parts"])
def test_drivers_repeat_nothing(tmp_path, monkeypatch, parts):
    """200 replicates for two drivers: one step after the other in turn, so that nothing depends on time."""
    count = parts or 2
    sweep = parse_sweep(SWEEP if parts is None else SWEEP.replace("57", "20"), name="shared")
    total = sum(len(sweep.replicates_of(cell.cell_id)) for cell in sweep.cells)
    baton, me = Baton(count), threading.local()
    ran: list[tuple[int, str, int]] = []
    original = worker.load_runner

    def load(name):
        run = original(name)

        def counted(cell, replicates, *rest, **named):
            baton.pass_on(me.number)
            ran.extend((me.number, cell.cell_id, replicate) for replicate in replicates)
            yield from run(cell, replicates, *rest, **named)

        return counted

    monkeypatch.setattr(worker, "load_runner", load)
    waits = SimpleNamespace(monotonic=time.monotonic, sleep=lambda seconds: baton.pass_on(me.number))
    monkeypatch.setattr(launching, "time", waits)
    texts: list[str] = []

    class Display:
        def __getattr__(self, name):
            return texts.append if name == "message" else lambda *_: None

    def drive(number):
        me.number = number
        baton.wait(number)
        try:
            store = Store(tmp_path / "results")
            plan = make_plan([sweep], store, Settings(executor="inline", slots=1))
            part = Part(number + 1, parts) if parts else None
            settings = Settings("inline", runner="launch_fakes:canned")
            launch(plan, store.uri, settings=settings, display=Display(), part=part)
        finally:
            baton.pass_on(number, leaves=True)

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (
        total
        == len({key[1:] for key in ran})
        == sum(map(len, Store(tmp_path / "results").done().values()))
        == (50 if parts is None else 13) * 4
    )
    assert len(ran) == total
    shares = [sum(number == one for one, _, _ in ran) for number in range(count)]
    assert min(shares) > total / (2 * count), shares  # a turn of the second is fewer replicates
    said = [text for text in texts if "another driver wrote to this sweep" in text]
    assert len(said) == (0 if parts else 1)
    assert all("starts from the other end of the work and skips what is done" in text for text in said)


@pytest.mark.slow
def test_two_processes_share_a_sweep(tmp_path):
    """The same command twice: less than a tenth of the replicates is computed by both."""
    path = tmp_path / "shared.yaml"
    path.write_text(SWEEP.replace("steps: 40,", "steps: 20000,"))
    command = [sys.executable, "-m", "flatdist", "sweep", str(path), "--store", str(tmp_path / "s")]
    options = ["--executor", "inline", "--display", "plain", "--no-probe", "--yes"]
    processes = [subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=250)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert len(Store(tmp_path / "s").trials()) == 200
    parts = [pq.read_table(one, columns=["cell_id"]) for one in (tmp_path / "s" / "trials" / "v1" / "part").rglob("*")
             if one.is_file()]  # fmt: skip
    assert 200 <= sum(map(len, parts)) < 1.1 * 200  # taken-over parts are kept for an hour


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_process_that_ended_unnoticed_by_its_parent_is_dead():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        assert drivers_module._runs(process.pid)
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its status is still there
        assert not drivers_module._runs(process.pid)
