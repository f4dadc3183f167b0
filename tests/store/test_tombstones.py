"""Invalidated replicates vanish, run again and are seen again, whoever writes what and when."""

from __future__ import annotations

import pytest

from flatdist.store import Store


@pytest.fixture
def first(store, cells, rows):
    store.write(*rows(cells[0], range(3), value=1.0))
    return cells[0].cell_id


@pytest.mark.parametrize("compact", [False, True])
def test_an_invalidated_replicate_runs_again_and_is_seen_again(store, cells, rows, first, compact):
    """Even the whole shard again, whose keys are the same: its part takes another name."""
    old = {info.path for info in store.files.list("trials/v1/part")}
    if compact:
        store.compact()
    assert store.invalidate([(first, 0), (first, 1), (first, 2), (first, 99)]) == 3
    assert store.done() == {}
    assert len(store.trials()) == len(store.history()) == 0
    Store(store.uri).write(*rows(cells[0], range(3), value=2.0))
    assert store.done() == {first: {0, 1, 2}}
    assert store.trials()["relative_error"].tolist() == [2.0, 3.0, 4.0]
    assert {info.path for info in store.files.list("trials/v1/part")} > old
    if compact:
        store.compact(grace=0)
    assert store.history()["population_loss"].tolist() == [2.0] * 3 + [3.0] * 3 + [4.0] * 3


def test_what_was_running_meanwhile_does_not_count(store, cells, rows, first):
    """A worker that began before the invalidation finishes afterwards: its row is of the voided generation."""
    late = Store(store.uri)
    late.done()
    store.invalidate([(first, 0)])
    late.write(*rows(cells[0], range(1), value=7.0))
    assert store.done() == {first: {1, 2}}
    Store(store.uri).write(*rows(cells[0], range(1), value=8.0))
    late.write(*rows(cells[0], range(1), value=9.0))
    assert store.trials()["relative_error"].tolist() == [8.0, 2.0, 3.0]


def test_it_can_be_invalidated_again_and_twice_at_once_is_once(store, cells, rows, first):
    for value in (2.0, 3.0):
        assert store.invalidate([(first, 1)]) == 1
        assert Store(store.uri).invalidate([(first, 1)]) == 0  # nothing is left to void
        store.write(*rows(cells[0], [1], value=value))
    assert store.trials()["relative_error"].tolist() == [1.0, 4.0, 3.0]


def test_failures_and_checkpoints_are_voided_too(store, cells, rows):
    import numpy as np

    key = cells[0].cell_id
    store.write_failures([{"cell_id": key, "replicate": 4, "attempt": 1, "error_type": "ValueError"}])
    store.checkpoints.save(key, 4, 10, {"weights": np.ones(2)})
    assert store.failed() == {key: {4: 1}}
    assert store.invalidate([(key, 4)]) == 1
    assert store.failed() == {}
    assert len(store.failures()) == 1
    assert store.checkpoints.latest(key, 4) is None
    store.checkpoints.save(key, 4, 5, {"weights": np.zeros(2)})
    assert Store(store.uri).checkpoints.latest(key, 4)[0] == 5
    assert store.gc(grace=0).files == 1  # the voided run's checkpoint
    assert Store(store.uri).checkpoints.latest(key, 4)[0] == 5


def test_a_merge_brings_tombstones_and_respects_them(tmp_path, cells, rows):
    mine, theirs = Store(tmp_path / "mine"), Store(tmp_path / "theirs")
    for one in (mine, theirs):
        one.write(*rows(cells[0], range(2), value=1.0))
    key = cells[0].cell_id
    theirs.invalidate([(key, 0)])
    theirs.write(*rows(cells[0], [0], value=5.0))
    mine.invalidate([(key, 1)])
    assert mine.merge(theirs).replicates == 1
    assert mine.done() == {key: {0}}  # their row of 1 is the one that was voided here
    assert mine.trials()["relative_error"].tolist() == [5.0]
    assert mine.merge(theirs).replicates == 0
