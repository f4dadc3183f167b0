"""Compaction changes files and nothing that is read, beside writers, readers and other compactions."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flatdist.store import Store
from flatdist.store.filesystem import LocalFilesystem


def same(one: Store, other: Store) -> None:
    pd.testing.assert_frame_equal(one.trials(), other.trials())
    pd.testing.assert_frame_equal(one.history(), other.history())


def test_many_parts_become_few_files_with_the_same_rows(store, cells, rows):
    for cell in cells:
        for replicate in range(4):
            store.write(*rows(cell, [replicate], value=0.1 * replicate))
    before = store.trials(), store.history()
    result = store.compact(grace=0)
    assert (result.number, result.parts, result.segments) == (1, 24, 1)
    pd.testing.assert_frame_equal(store.trials(), before[0])
    pd.testing.assert_frame_equal(Store(store.uri).history(), before[1])
    assert store.compact(grace=0).deleted == 48
    assert store.files.list("trials/v1/part") == store.files.list("history/v1/part") == []
    pd.testing.assert_frame_equal(store.history(), before[1])
    assert store.compact(grace=0).number == 2  # nothing to do


def test_replaced_files_stay_for_the_grace_period(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    store.write(*rows(cells[1], range(2)))
    assert store.compact().deleted == 0
    assert len(store.files.list("trials/v1/part")) == 2
    assert len(store.files.list("trials/v1/segment")) == 2


def test_large_segments_are_left_alone(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact(small=1)
    first = store.files.list("trials/v1/segment")
    store.write(*rows(cells[1], range(2)))
    assert store.compact(small=1).segments == 2
    assert set(first) <= set(store.files.list("trials/v1/segment"))
    store.invalidate([(cells[0].cell_id, 0)])
    assert store.compact(small=1, grace=0).segments == 2  # rewritten, since a row of it no longer holds
    store.compact(grace=0)  # the successor that allows the old file to be deleted
    assert first[0] not in store.files.list("trials/v1/segment")
    assert store.done() == {cells[0].cell_id: {1}, cells[1].cell_id: {0, 1}}


def test_small_segments_are_joined_with_what_is_new_and_with_each_other(store, cells, rows):
    for cell in cells[:2]:
        store.write(*rows(cell, range(2)))
        assert store.compact().segments == 1
    store.write(*rows(cells[2], range(2)))
    assert store.compact(small=1).segments == 2
    wanted = store.history()
    assert store.compact().segments == 1, "although nothing is new"
    assert store.compact().number == 4, "one alone is joined with nothing"
    pd.testing.assert_frame_equal(Store(store.uri).history(), wanted)


def test_of_two_compactions_at_once_one_publishes_and_the_other_starts_anew(store, cells, rows, monkeypatch):
    store.write(*rows(cells[0], range(2)))
    rival, original = Store(store.uri), LocalFilesystem.create
    raced = []

    def create(self, path, data):
        if "manifest" in path and not raced:
            raced.append(path)
            rival.compact()
        return original(self, path, data)

    monkeypatch.setattr(LocalFilesystem, "create", create)
    assert store.compact().number == 1
    assert raced
    assert len(store.files.list("trials/v1/segment")) == 1  # the loser's file is gone
    assert len(store.trials()) == 2


def test_what_another_compaction_writes_just_now_is_never_a_leftover(store, cells, rows, monkeypatch):
    """Even where the clock was set back meanwhile, so that it seems to be from yesterday."""
    store.write(*rows(cells[0], range(2)))
    store.compact(grace=0)
    old, new = (Path(store.uri, f"trials/v1/segment/{digit * 32}.parquet") for digit in "ab")
    old.write_bytes(b"by a compaction that died")
    original = LocalFilesystem.create

    def create(self, path, data):
        published = original(self, path, data)
        if "manifest" in path:
            new.write_bytes(b"by one that is about to publish it")
            os.utime(new, (0, 0))
        return published

    monkeypatch.setattr(LocalFilesystem, "create", create)
    assert store.compact(grace=0).number == 2
    assert new.exists()
    assert not old.exists()


def test_a_reader_that_is_overtaken_by_a_deletion_reads_again(store, cells, rows, monkeypatch):
    for cell in cells[:3]:
        store.write(*rows(cell, range(2)))
    expected = store.history()
    rival, original = Store(store.uri), LocalFilesystem.read
    raced = []

    def read(self, path, **named):
        if "history/v1/part" in path and not raced:
            raced.append(path)
            rival.compact(grace=0)
            rival.compact(grace=0)
        return original(self, path, **named)

    monkeypatch.setattr(LocalFilesystem, "read", read)
    pd.testing.assert_frame_equal(store.history(), expected)
    assert raced


def test_a_part_written_again_while_its_first_version_is_replaced_counts_once(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    late = Store(store.uri)
    late.write(*rows(cells[0], range(2)))  # the same name, a new file
    assert len(store.trials()) == 2
    assert len(store.history()) == 6
    store.compact(grace=0)
    store.compact(grace=0)
    assert store.files.list("trials/v1/part") == []
    assert len(store.history()) == 6


def test_writers_readers_and_compactions_at_once(tmp_path, cells, rows):
    """Threads for processes: every object is its own. Reads see whole, distinct rows, ever more."""
    problems: list[BaseException] = []
    written = threading.Event()

    def guarded(action):
        def run():
            try:
                action()
            except BaseException as error:
                problems.append(error)

        return threading.Thread(target=run)

    def write(offset):
        for number, cell in enumerate(cells):
            Store(tmp_path).write(*rows(cell, range(offset, offset + 3)))
            if number == 2:
                written.set()

    def compact():
        written.wait(30)
        for _ in range(4):
            Store(tmp_path).compact(grace=0)

    def read():
        seen = 0
        for _ in range(6):
            frame = Store(tmp_path).history(columns=["cell_id", "replicate", "step"])
            assert not frame.duplicated().any()
            assert len(frame) % 3 == 0
            assert len(frame) >= seen
            seen = len(frame)

    threads = [guarded(action) for action in (lambda: write(0), lambda: write(2), compact, compact, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert Store(tmp_path).done() == {cell.cell_id: set(range(5)) for cell in cells}


steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 2), st.sets(st.integers(0, 3), min_size=1)),
        st.tuples(st.just("invalidate"), st.integers(0, 2), st.sets(st.integers(0, 3), min_size=1)),
        st.tuples(st.sampled_from(["compact", "gc", "merge"]), st.just(0), st.just(frozenset())),
    ),
    max_size=8,
)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_any_history_of_a_store_shows_what_a_dictionary_would(tmp_path_factory, cells, rows, story):
    """Rows are known by the run that wrote them: a key shows one of its runs since it was last invalidated."""
    root = tmp_path_factory.mktemp("story")
    store, runs, counter = Store(root / "0"), {}, 0
    for number, (what, which, replicates) in enumerate(story):
        cell = cells[which]
        if what == "write":
            counter += 10
            store.write(*rows(cell, sorted(replicates), value=float(counter)))
            for replicate in replicates:
                runs.setdefault((cell.cell_id, replicate), set()).add(counter + replicate)
        elif what == "invalidate":
            keys = [(cell.cell_id, replicate) for replicate in replicates]
            assert store.invalidate(keys) == sum(runs.pop(key, None) is not None for key in keys)
        elif what == "merge":
            other = Store(root / str(number + 1))
            other.merge(store)
            same(other, store)
            store = other
        else:
            getattr(store, what)(grace=0)
    frame = store.trials()
    found = {(row.cell_id, row.replicate): row.relative_error for row in frame.itertuples()}
    assert len(found) == len(frame)
    assert found.keys() == runs.keys()
    assert all(value in runs[key] for key, value in found.items())
    history = store.history().groupby(["cell_id", "replicate"])["population_loss"].agg(["nunique", "first", "size"])
    assert len(history) == len(found)
    assert ((history["nunique"] == 1) & (history["size"] == 3)).all()
    assert all(history.loc[key, "first"] == value for key, value in found.items())


def test_gc_drops_old_numerics_and_leftovers(store, cells, rows):
    store.write(*rows(cells[0], range(3)))
    newer = [row | {"cell_id": "f" * 20, "numerics_version": 2} for row in rows(cells[0], range(2))[0]]
    store.write(newer, [])
    store.write(*rows(cells[1], range(1)))
    collected = store.gc(grace=0)
    assert collected.rows == 3
    assert set(store.trials(all_numerics=True)["cell_id"]) == {"f" * 20, cells[1].cell_id}
    assert store.gc(grace=0).rows == 0


@pytest.mark.parametrize("position", range(4))
def test_a_merge_keeps_the_rows_that_were_here(tmp_path, cells, rows, position):
    """Whichever of the two parts has the smaller name."""
    mine, theirs = Store(tmp_path / "mine"), Store(tmp_path / "theirs")
    mine.write(*rows(cells[position], range(2), value=1.0))
    theirs.write(*rows(cells[position], range(4), value=2.0))
    assert mine.merge(theirs).replicates == 2
    assert mine.trials()["relative_error"].tolist() == [1.0, 2.0, 4.0, 5.0]
    assert mine.history()["population_loss"].tolist() == [1.0] * 3 + [2.0] * 3 + [4.0] * 3 + [5.0] * 3
    assert mine.merge(theirs).replicates == 0


@pytest.mark.parametrize("compacted", [False, True])
def test_merge_takes_what_is_missing_and_repeats_without_effect(tmp_path, cells, rows, compacted):
    mine, theirs = Store(tmp_path / "mine"), Store(tmp_path / "theirs")
    mine.write(*rows(cells[0], range(2), value=1.0))
    theirs.write(*rows(cells[0], range(4), value=2.0))
    theirs.write(*rows(cells[1], range(2), value=2.0))
    theirs.write_failures([{"cell_id": cells[2].cell_id, "replicate": 0, "error_type": "ValueError"}])
    theirs.sweeps.save("theirs", "name: theirs", [cells[0].cell_id], 4)
    for one in (mine, theirs):
        one.sweeps.save("both", f"name: both  # {one.uri}", [cells[0].cell_id], 4)
        if compacted:
            one.compact()
    merged = mine.merge(theirs.uri)
    assert (merged.replicates, merged.failures, merged.sweeps, merged.sweeps_kept) == (4, 1, ("theirs",), ("both",))
    assert mine.done() == theirs.done()
    assert len(mine.history()) == 18
    assert mine.failed() == {cells[2].cell_id: {0: 1}}
    assert str(tmp_path / "mine") in mine.sweeps.load("both").source
    again = mine.merge(theirs)
    assert (again.replicates, again.failures, again.sweeps) == (0, 0, ())
