"""Two drivers of one sweep share its work; a driver compacts as it goes and at its end."""

from __future__ import annotations

import contextlib
import json
import os
import threading

import pytest

from flatdist.cells.cell import Cell
from flatdist.launch import LaunchSettings, launch
from flatdist.planning import PlanSettings, make_plan
from flatdist.store import Store
from flatdist.store import drivers as drivers_module
from flatdist.store.drivers import Driver, is_shared, sharing_key
from flatdist.sweeps import parse_sweep

SWEEP = """
name: shared
replicates: 4
fixed: {d_out: 4, d_in: 4, rank: 1, steps: 40, evaluations: 2, depth: 2, learning_rate: 0.01, dtype: float64}
axes: {n: {range: [8, 57, 1]}}
"""


def test_the_second_driver_knows_of_the_first_and_a_dead_one_is_forgotten(store):
    key = sharing_key(["a"])
    with Driver(store, key) as first:
        assert (first.slot, first.since, is_shared(store, key)) == (0, None, False)
        with Driver(Store(store.uri), key) as second:
            assert second.slot == 1
            assert 0 <= second.since < 60
            assert is_shared(store, key)
            assert not is_shared(store, sharing_key(["b"]))
        assert not is_shared(store, key)
    assert store.files.list("drivers/v1") == []
    gone = {"host": os.uname().nodename, "pid": 4194303}
    store.files.write(f"drivers/v1/{key}/0.json", json.dumps(gone).encode())
    with Driver(store, key) as alone:
        assert (alone.slot, alone.since) == (0, None)
    store.files.write(f"drivers/v1/{key}/0.json", b"rubbish")
    with Driver(store, key) as beside:
        assert beside.slot == 1


def test_a_driver_compacts_at_its_end(store, cells, rows, monkeypatch):
    monkeypatch.setattr(drivers_module, "AT_THE_END", 3)
    for cell in cells[:4]:
        store.write(*rows(cell, range(2)))
    wanted = store.history()
    with Driver(store, sharing_key(["a"])):
        assert store.files.list("manifest/v1") == []
    assert len(store.files.list("manifest/v1")) == 1
    assert Store(store.uri).history().equals(wanted)


@pytest.mark.slow
@pytest.mark.xfail(strict=False, reason="within one shard the first driver sees late what the second stores")
def test_two_drivers_of_200_replicates_repeat_less_than_a_tenth(tmp_path, monkeypatch):
    """Both in this process, item by item in turn, so that neither is faster."""
    sweep = parse_sweep(SWEEP, name="shared")
    assert sum(len(sweep.replicates_of(cell.cell_id)) for cell in sweep.cells) in (196, 200)
    ran: list[tuple[str, int]] = []
    from flatdist.launch import worker

    original = worker.load_runner
    turn = threading.Barrier(2, timeout=120)

    def load(name):
        run = original(name)

        def counted(cell: Cell, replicates, *rest, **named):
            with contextlib.suppress(threading.BrokenBarrierError):
                turn.wait()
            ran.extend((cell.cell_id, replicate) for replicate in replicates)
            yield from run(cell, replicates, *rest, **named)

        return counted

    monkeypatch.setattr(worker, "load_runner", load)
    texts: list[str] = []

    class Display:
        def __getattr__(self, name):
            return texts.append if name == "message" else lambda *_: None

    def drive():
        store = Store(tmp_path / "results")
        plan = make_plan([sweep], store, PlanSettings(executor="inline", slots=1))
        try:
            launch(plan, store.uri, executor="inline", settings=LaunchSettings(), display=Display())
        finally:
            turn.abort()

    threads = [threading.Thread(target=drive) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    distinct = len({*ran})
    assert sum(map(len, Store(tmp_path / "results").done().values())) == distinct >= 196
    assert len(ran) - distinct < 0.1 * distinct
    assert any("another driver wrote to this sweep" in text and "from the other end" in text for text in texts)
