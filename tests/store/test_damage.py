"""Damaged files: named, set aside, their replicates run again; a store that cannot be written only leaves them out."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest

from flatdist.errors import StoreError
from flatdist.store import Store, StoreWarning
from flatdist.store.filesystem import LocalFilesystem
from flatdist.store.layout import manifest_path, part_path, segment_path


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
    with pytest.warns(StoreWarning, match=r"1 file cannot be read and left out.*trials/v1/part/"):
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
    with pytest.warns(StoreWarning, match="left out; the next run sets them aside"):
        assert set(Store(store.uri).trials()["cell_id"]) == {cells[1].cell_id}
    with pytest.warns(StoreWarning, match="moved to set-aside/; their replicates count as missing and run again"):
        assert Store(store.uri).done() == {cells[1].cell_id: {0, 1}}
    store.write(*rows(cells[0], range(2)))
    assert Store(store.uri).done() == {cell.cell_id: {0, 1} for cell in cells[:2]}


def test_a_flipped_bit_in_a_segment_is_an_error_that_says_what_to_do(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    (info,) = store.files.list("trials/v1/segment")
    damage_page(store, info.path, "relative_error", flip_last_bit)
    with pytest.raises(StoreError, match=r"cannot be read .*checksum.*flatdist gc --drop-segment"):
        Store(store.uri).trials()
    assert Store(store.uri).trials(columns=["n"])["n"].tolist() == [cells[0].n] * 2


def test_a_damaged_history_is_not_compacted_away(store, cells, rows):
    """The footer can be read and the data cannot: the rest is compacted, the part stays."""
    part = store.write(*rows(cells[0], range(2)))
    store.write(*rows(cells[1], range(2)))
    damage_page(store, part_path("history", part), "population_loss", overwrite)
    with pytest.warns(StoreWarning, match="not compacted"):
        assert store.compact().parts == 1
    superseded = [path for path in store.files.list("trials/v1/part") if part not in path.path]
    assert len(superseded) == 1
    assert set(store.trials()["cell_id"]) == {cell.cell_id for cell in cells[:2]}
    assert store.done() == {cell.cell_id: {0, 1} for cell in cells[:2]}


def test_a_damaged_segment_is_an_error_that_says_what_to_do(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    (info,) = store.files.list("trials/v1/segment")
    name = info.path.rsplit("/", 1)[-1].removesuffix(".parquet")
    truncate(store, segment_path("trials", name))
    with pytest.raises(StoreError, match=f"{name}.parquet cannot be read.*flatdist gc --drop-segment {name}'"):
        Store(store.uri).trials()
    with pytest.raises(StoreError, match=f"no compacted file 'other'; it has {name}"):
        store.drop_segment("other")
    store.drop_segment(name)
    assert Store(store.uri).done() == {cells[0].cell_id: {0, 1}}  # the parts were still there


def test_a_damaged_manifest_is_an_error_that_says_what_to_do(store, cells, rows):
    store.write(*rows(cells[0], range(2)))
    store.compact()
    truncate(store, manifest_path(1))
    with pytest.raises(StoreError, match=r"00000001.json is damaged.*delete it to return to the manifest before"):
        store.done()


def test_nothing_is_unpickled(store, tmp_path):
    """A checkpoint with a pickle in it is refused, by the reader too."""
    import io

    import numpy as np

    with pytest.raises(StoreError, match="holds objects"):
        store.checkpoints.save("abc", 0, 1, {"w": np.array([object()])})
    buffer = io.BytesIO()
    np.savez(buffer, w=np.array([{"a": 1}], dtype=object))
    store.files.write("checkpoints/abc/0/000000000001.npz", buffer.getvalue())
    with pytest.warns(StoreWarning, match="is not resumed from"):
        assert store.checkpoints.latest("abc", 0) is None
