"""Damaged files: named, set aside, their replicates run again; a store that cannot be written only leaves them out."""

from __future__ import annotations

import io
import re
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flatdist.errors import StoreError
from flatdist.store import Store, StoreWarning, parquet
from flatdist.store.filesystem import LocalFilesystem
from flatdist.store.layout import manifest_path, part_path, segment_folder


def truncate(store, path, size=None):
    data = store.files.read(path)
    store.files.write(path, data[: len(data) // 2 if size is None else size])


@pytest.mark.parametrize("table", ["trials", "history"])
@pytest.mark.parametrize("size", [0, 3, None])
def test_a_truncated_part_is_named_set_aside_and_runs_again(store, cells, rows, table, size):
    part = store.write(*rows(cells[0], range(2)))
    store.write(*rows(cells[1], range(2)))
    path = part_path(table, part)
    truncate(store, path, size)
    with pytest.warns(StoreWarning, match=f"{path}.*") as caught:
        assert Store(store.uri).done() == {cells[1].cell_id: {0, 1}}
    assert "moved to set-aside/; their replicates count as missing and run again" in str(caught[0].message)
    assert {info.path for info in store.files.list("set-aside")} == {
        f"set-aside/{part_path(name, part)}" for name in ("trials", "history")
    }
    assert store.done() == {cells[1].cell_id: {0, 1}}  # and no second warning
    store.write(*rows(cells[0], range(2)))
    assert store.done() == {cell.cell_id: {0, 1} for cell in cells[:2]}
    assert len(store.history()) == 12


def test_a_part_whose_history_is_missing_runs_again(store, cells, rows):
    part = store.write(*rows(cells[0], range(2)))
    store.files.delete(part_path("history", part))
    with pytest.warns(StoreWarning, match=r"history/v1/part/.* \(is missing\)"):
        assert store.done() == {}


def test_readers_leave_a_damaged_part_out_and_where_it_is(store, cells, rows):
    part = store.write(*rows(cells[0], range(2)))
    store.write(*rows(cells[1], range(2)))
    truncate(store, part_path("trials", part))
    with pytest.warns(StoreWarning, match=r"1 file is damaged and left out.*trials/v1/part/"):
        assert set(store.trials()["cell_id"]) == {cells[1].cell_id}
    assert store.files.list("set-aside") == []


def test_a_damaged_part_in_a_store_that_cannot_be_written_counts_as_missing(store, cells, rows, monkeypatch):
    part = store.write(*rows(cells[0], range(2)))
    truncate(store, part_path("trials", part))

    def refuse(self, path, data):
        raise StoreError("read-only")

    monkeypatch.setattr(LocalFilesystem, "write", refuse)
    with pytest.warns(StoreWarning, match="ignored, since they cannot be moved"):
        assert Store(store.uri).done() == {}


def damage_page(store, path, column, change):
    """Change the bytes of a column's page; the footer, and the other columns, can still be read."""
    data = store.files.read(path)
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    (chunk,) = [c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == column]
    begin, end = chunk.data_page_offset, chunk.data_page_offset + chunk.total_compressed_size
    store.files.write(path, data[:begin] + change(data[begin:end]) + data[end:])


def flip_last_bit(page):
    return page[:-1] + bytes([page[-1] ^ 1])


def overwrite(page):
    return b"\xff" * len(page)


@pytest.mark.parametrize("change", [flip_last_bit, overwrite])
def test_trials_damaged_inside_a_page_run_again(store, cells, rows, change):
    """No index needs the column, and a flipped bit is a number like any other: the checksum tells."""
    part = store.write(*rows(cells[0], range(2)))
    store.write(*rows(cells[1], range(2)))
    damage_page(store, part_path("trials", part), "relative_error", change)
    with pytest.warns(StoreWarning, match="left out; .*flatdist sweep"):
        assert set(Store(store.uri).trials()["cell_id"]) == {cells[1].cell_id}
    with pytest.warns(StoreWarning, match="moved to set-aside/; their replicates count as missing and run again"):
        assert Store(store.uri).done() == {cells[1].cell_id: {0, 1}}
    store.write(*rows(cells[0], range(2)))
    assert Store(store.uri).done() == {cell.cell_id: {0, 1} for cell in cells[:2]}


@pytest.mark.parametrize("table", ["trials", "history"])
@pytest.mark.parametrize("whole", [False, True], ids=["a page", "the footer"])
def test_damage_in_a_segment_costs_its_rows_until_they_run_again(store, cells, rows, table, whole):
    column = {"trials": "relative_error", "history": "population_loss"}[table]
    for cell in cells[:2]:
        store.write(*rows(cell, range(2)))
    store.compact()
    for one in (*store.files.list("trials/v1/part"), *store.files.list("history/v1/part")):
        store.files.delete(one.path)  # as a later compaction would
    wanted = store.history()
    (info,) = store.files.list(f"{table}/v1/segment")
    if whole:
        truncate(store, info.path)
    else:
        damage_page(store, info.path, column, flip_last_bit)
    with pytest.warns(StoreWarning, match=f"damaged and left out.*flatdist sweep.*{info.path}"):
        assert len(getattr(Store(store.uri), table)(columns=[column])) == 0
    if not whole:  # what is not asked for is not read
        other = {"trials": "n", "history": "step"}[table]
        assert len(getattr(Store(store.uri), table)(columns=[other])) in (4, 12)
    assert sum(map(len, Store(store.uri).done().values())) == 4, "whoever only counts looks at the index"
    with pytest.warns(StoreWarning, match=f"set aside: 4 replicates count as missing and run again: {info.path}"):
        assert Store(store.uri).done(thorough=True) == {}
    assert store.files.read(f"set-aside/{info.path}")
    assert len(Store(store.uri).history()) == 0, "and no second warning"
    for cell in cells[:2]:
        store.write(*rows(cell, range(2)))
    assert Store(store.uri).history().equals(wanted)
    assert Store(store.uri).compact().parts == 2


def test_only_the_damaged_row_groups_of_a_segment_are_lost(store, cells, rows, monkeypatch):
    monkeypatch.setattr(parquet, "ROW_GROUP", 5)
    for cell in cells[:4]:
        store.write(*rows(cell, range(3)))
    store.compact()
    for one in (*store.files.list("trials/v1/part"), *store.files.list("history/v1/part")):
        store.files.delete(one.path)
    before = store.history()
    (info,) = store.files.list("history/v1/segment")
    damage_page(store, info.path, "population_loss", flip_last_bit)  # rows 0 to 4: replicates 0 and 1 of the first cell
    first = before["cell_id"][0]
    with pytest.warns(StoreWarning, match="column population_loss in row group 0"):
        left = Store(store.uri).history()
    assert left.equals(before[6:].reset_index(drop=True))
    with pytest.warns(StoreWarning, match=f"{re.escape(store.uri)}.*set aside: 2 replicates"):
        done = Store(store.uri).done(thorough=True)
    assert done[first] == {2}
    assert sum(map(len, done.values())) == 10
    assert Store(store.uri).history().equals(left)


def test_what_a_damaged_segment_took_over_counts_again_where_it_is_still_there(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    wanted = store.history()
    (info,) = store.files.list("history/v1/segment")
    truncate(store, info.path)
    with pytest.warns(StoreWarning, match="set aside: 0 replicates count as missing"):
        assert Store(store.uri).done(thorough=True) == {cells[0].cell_id: {0, 1}}
    assert Store(store.uri).history().equals(wanted)


def test_a_damaged_history_part_runs_again_and_is_not_compacted(store, cells, rows):
    part = store.write(*rows(cells[0], range(2)))
    store.write(*rows(cells[1], range(2)))
    damage_page(store, part_path("history", part), "population_loss", overwrite)
    with pytest.warns(StoreWarning, match="left out"):
        assert store.compact().parts == 1
    assert {info.path for info in store.files.list("trials/v1/part")} > {part_path("trials", part)}
    with pytest.warns(StoreWarning, match="moved to set-aside/; their replicates count as missing and run again"):
        assert Store(store.uri).done() == {cells[1].cell_id: {0, 1}}


def test_behind_a_damaged_manifest_the_one_before_holds(store, cells, rows):
    for cell in cells[:3]:
        store.write(*rows(cell, range(2)))
        store.compact(grace=0)
    wanted = store.history()
    for text in (None, "[" * 100_000, '{"format":2,"number":9' + "9" * 5000 + "}", "null", "[]", '{"format":2}'):
        if text is None:
            truncate(store, manifest_path(3))
        else:
            store.files.write(manifest_path(3), text.encode())
        with pytest.warns(StoreWarning, match=r"00000003.json \(.*skipped|skipped.*00000003.json"):
            assert Store(store.uri).history().equals(wanted)
    with pytest.warns(StoreWarning, match="skipped"):
        assert Store(store.uri).compact(grace=0).number == 4
    assert Store(store.uri).history().equals(wanted)


def test_a_segment_and_the_index_that_change_places_leave_the_parts(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    store.write(*rows(cells[1], range(2)))
    paths = [store.files.list(folder)[0].path for folder in ("index/v1", segment_folder("trials"))]
    contents = [store.files.read(path) for path in paths]
    for path, content in zip(paths, reversed(contents), strict=True):
        Path(store.uri, path).write_bytes(content)
    with pytest.warns(StoreWarning, match="skipped|left out"):
        assert {*Store(store.uri).trials()["cell_id"]} == {cells[1].cell_id}
    with pytest.warns(StoreWarning, match="skipped|left out|damaged"):  # the part that was compacted still exists
        assert sum(map(len, Store(store.uri).done(thorough=True).values())) == 4
    assert len(Store(store.uri).trials()) == 4


def test_without_its_index_a_manifest_is_read_from_the_segments(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    wanted = store.history()
    (info,) = store.files.list("index/v1")
    truncate(store, info.path)
    with pytest.warns(StoreWarning, match="index/v1.*skipped|skipped.*index/v1"):
        assert Store(store.uri).history().equals(wanted)
    with pytest.warns(StoreWarning, match="skipped"):
        assert Store(store.uri).compact().number == 2
    assert Store(store.uri).history().equals(wanted)


def test_a_damaged_tombstone_is_read_from_its_copy(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.invalidate([(cells[0].cell_id, 0)])
    other, one = store.files.list("tombstones/v1")
    truncate(store, one.path)
    with pytest.warns(StoreWarning, match="read from the copy"):
        assert Store(store.uri).done() == {cells[0].cell_id: {1}}
    assert Store(store.uri).done() == {cells[0].cell_id: {1}}, "and the damage is mended"
    for info in (one, other):
        truncate(store, info.path)
    with pytest.raises(StoreError, match=r"is damaged.*restore it from a backup, or delete it and run 'flatdist inval"):
        Store(store.uri).done()


def test_files_that_change_places_are_damage(store, cells, rows, old_form):
    names = [store.write(*rows(cell, range(2))) for cell in cells[:4]]
    for name in names[2:]:
        old_form(store, name)
    old = [name.split("-")[0] for name in names[2:]]
    for table in ("trials", "history"):
        for one, other in (names[:2], old):
            paths = [part_path(table, one), part_path(table, other)]
            contents = [store.files.read(path) for path in paths]
            for path, content in zip(paths, reversed(contents), strict=True):
                store.files.write(path, content)
            with pytest.warns(StoreWarning, match="2 files are damaged and moved to set-aside"):
                assert sum(map(len, Store(store.uri).done().values())) == 4
            for where in ("trials", "history"):
                for name in (one, other):
                    path = part_path(where, name)
                    store.files.write(path, store.files.read(f"set-aside/{path}", checked=False))
            for path, content in zip(paths, contents, strict=True):
                store.files.write(path, content)
            assert sum(map(len, Store(store.uri).done().values())) == 8


@pytest.mark.parametrize("old", [False, True])
def test_a_flip_in_a_column_name_never_reads_as_null(store, cells, rows, old_form, old):
    name = store.write(*rows(cells[0], range(2)))
    if old:
        old_form(store, name)
        name = name.split("-")[0]
    path = part_path("trials", name)
    data = store.files.read(path)
    at, places = -1, []
    while (at := data.find(b"relative_error", at + 1)) >= 0:
        places.append(at)
    assert places
    wanted = store.trials()
    for place in places:
        store.files.write(path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = Store(store.uri).trials()
        assert found.equals(wanted) if not caught else len(found) == 0 and path in str(caught[0].message)
        assert caught or old


@pytest.mark.parametrize(
    ("many", "said"), [(True, "declares 30,000,000 rows"), (False, "declares 2 rows and 8.,...,... bytes")]
)
def test_absurd_sizes_are_refused_before_memory_is_full(store, many, said):
    """A small file that declares 30 million rows, which Parquet's run lengths can hold, or two rows of long text."""
    rows = (
        {"cell_id": pa.repeat("x", 30_000_000), "replicate": pa.repeat(pa.scalar(1, pa.int32()), 30_000_000)}
        if many
        else {"cell_id": ["x", "y"], "replicate": pa.array([1, 1], pa.int32()), "host": ["h" * 40_000_000] * 2}
    )
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(rows), sink, compression="zstd", row_group_size=1 << 26, use_dictionary=many)
    data = sink.getvalue().to_pybytes()
    assert len(data) < 200_000
    path = part_path("trials", "ab" * 16)
    store.files.write(path, data)
    with pytest.warns(StoreWarning, match=said):
        assert len(store.trials()) == 0


def test_nothing_is_unpickled(store, tmp_path):
    """A checkpoint with a pickle in it is refused, by the reader too."""
    import io

    import numpy as np

    with pytest.raises(StoreError, match="holds objects"):
        store.checkpoints.save("abc", 0, 1, {"w": np.array([object()])})
    buffer = io.BytesIO()
    np.savez(buffer, w=np.array([{"a": 1}], dtype=object))
    store.files.write("checkpoints/abc/0/000000000001.npz", buffer.getvalue())
    with pytest.warns(StoreWarning, match="resuming from the previous one"):
        assert store.checkpoints.latest("abc", 0) is None
