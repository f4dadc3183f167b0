from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from flatdist.errors import StoreError
from flatdist.launch.worker import PatientCheckpoints, RowBuffer


class MemoryStore:
    """A store that refuses the first few writes."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.parts: list[list[dict[str, Any]]] = []
        self.written = threading.Event()
        self.checkpoints = self

    def write(self, trials: list[dict[str, Any]], history: list[dict[str, Any]]) -> str:
        if self.refusals:
            self.refusals -= 1
            raise StoreError("503 slow down")
        self.parts.append(trials)
        self.written.set()
        return "part"

    def save(self, *state: Any) -> None:
        raise StoreError("disk full")

    def discard(self, *key: Any) -> None:
        raise AssertionError("asked to discard what was never saved")


def row(replicate: int) -> SimpleNamespace:
    return SimpleNamespace(trial={"cell_id": "a", "replicate": replicate}, history=[])


def buffer(store: Any, told: list[Any], **options: Any) -> RowBuffer:
    values = {
        "flush_seconds": 100.0,
        "patience": 100.0,
        "stored": lambda outcomes: told.append(len(outcomes)),
        "notice": told.append,
        "should_stop": lambda: False,
    }
    return RowBuffer(store, **(values | options))


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flatdist.launch.worker.FIRST_WAIT", 0.001)
    monkeypatch.setattr("flatdist.launch.worker.LONGEST_WAIT", 0.001)


def test_rows_are_written_together_and_reported_after_the_write() -> None:
    store, told = MemoryStore(), []
    with buffer(store, told) as rows:
        for replicate in range(3):
            rows.add(row(replicate))
        assert (store.parts, told) == ([], [])
    assert [len(part) for part in store.parts] == told == [3]


def test_a_row_does_not_wait_for_the_next_one() -> None:
    store = MemoryStore()
    with buffer(store, [], flush_seconds=0.01) as rows:
        rows.add(row(0))
        assert store.written.wait(20)  # with nothing added in the meantime
        store.written.clear()
        rows.add(row(1))
        assert store.written.wait(20)
    assert [len(part) for part in store.parts] == [1, 1]


def test_finished_rows_are_stored_when_the_work_breaks_off() -> None:
    store = MemoryStore()

    def work() -> None:
        with buffer(store, []) as rows:
            rows.add(row(0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert [len(part) for part in store.parts] == [1]


def test_a_store_that_answers_with_errors_for_a_while_loses_nothing() -> None:
    store, told = MemoryStore(refusals=5), []
    with buffer(store, told) as rows:
        rows.add(row(0))
    assert [len(part) for part in store.parts] == [1]
    assert len(told) == 6
    assert "503 slow down" in told[0]


def test_a_store_that_stays_silent_ends_the_work_with_its_error() -> None:
    store = MemoryStore(refusals=10**9)
    with pytest.raises(StoreError, match="503"), buffer(store, [], patience=0.01) as rows:
        rows.add(row(0))
    assert store.parts == []


def test_an_error_in_the_background_is_raised_where_rows_are_added() -> None:
    store = MemoryStore(refusals=10**9)
    accepted = []

    def work() -> None:
        with buffer(store, [], patience=0.01, flush_seconds=0.001) as rows:
            for replicate in range(2):
                rows.add(row(replicate))
                accepted.append(replicate)
                rows._thread.join(20)

    with pytest.raises(StoreError, match="503"):
        work()
    assert accepted == [0]


def test_a_checkpoint_that_cannot_be_saved_is_no_reason_to_stop() -> None:
    store, told = MemoryStore(), []
    checkpoints = PatientCheckpoints(buffer(store, told))
    checkpoints.save("a", 0, 100, {})
    assert "disk full" in told[0]
    checkpoints.discard("b", 0)
