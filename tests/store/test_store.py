"""Rows in, rows out: each key once, the right row of duplicates, columns and types as declared."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flatdist.cells.cell import Cell
from flatdist.cells.columns import HISTORY, TRIALS, column_names
from flatdist.errors import StoreError
from flatdist.store import Store
from flatdist.store.layout import part_name, part_path


def test_rows_come_back_as_written(store, cells, rows):
    trials, history = rows(cells[0], [1, 0], learning_rate_final=np.float32(0.25), singular_values=np.array([2.0, 1.0]))
    store.write(trials, history[::-1])
    frame = store.trials()
    assert tuple(frame.columns) == column_names(TRIALS)
    assert frame["replicate"].tolist() == [0, 1]
    assert frame.loc[0, "width"] == (6, 6)
    assert frame.loc[0, "learning_rate_final"] == 0.25
    assert frame.loc[1, "singular_values"].tolist() == [2.0, 1.0]
    assert np.isnan(frame.loc[0, "learning_rate"])  # auto
    assert frame.loc[0, "finished_at"] == pd.Timestamp("2026-01-02T03:04:05.000678Z")
    assert frame["n"].dtype == np.int32
    steps = store.history()
    assert tuple(steps.columns) == column_names(HISTORY)
    assert steps["step"].tolist() == [0, 10, 20, 0, 10, 20]
    assert steps["population_loss"].tolist() == [0.5] * 3 + [1.5] * 3
    assert store.done() == {cells[0].cell_id: {0, 1}}
    assert store.done([cells[1].cell_id]) == {}


@pytest.mark.parametrize("compacted", [False, True])
def test_only_rows_that_say_so_have_diverged(store, cells, rows, compacted):
    for cell, status in zip(cells, ("diverged", None, "converged"), strict=False):
        store.write(*rows(cell, range(2), status=status))
    if compacted:
        store.compact()
    assert Store(store.uri).diverged() == {cells[0].cell_id: {0, 1}}
    assert Store(store.uri).diverged([cells[1].cell_id]) == {}


def test_an_empty_store(store):
    assert store.done() == {}
    assert store.failed() == {}
    assert store.sweeps.names() == []
    assert store.write([], []) == ""
    assert tuple(store.trials().columns) == column_names(TRIALS)
    assert len(store.history()) == len(store.failures()) == 0


def test_the_same_rows_take_the_same_place_and_others_of_the_same_keys_another(store, cells, rows):
    first = store.write(*rows(cells[0], range(4)))
    assert store.write(*rows(cells[0], [3, 2, 1, 0])) == first
    assert first.split("-")[0] == part_name((cells[0].cell_id, replicate, 0) for replicate in range(4))
    assert [len(store.files.list(table)) for table in ("trials", "history")] == [1, 1]
    second = store.write(*rows(cells[0], range(4), value=7.0))
    value = 0.5 if first < second else 7.0
    assert store.trials()["relative_error"].tolist() == [value + replicate for replicate in range(4)]
    assert store.history()["population_loss"].tolist()[::3] == [value + replicate for replicate in range(4)]


@pytest.mark.parametrize("compacted", [(), ("short",), ("long",), ("short", "long")])
def test_of_overlapping_parts_the_smallest_name_wins_with_its_history(store, cells, rows, compacted):
    """0-2 by one driver, 0-5 by another; whatever was compacted in between, every reader sees the same rows."""
    names = {}
    for name, replicates, value in (("short", 3, 100.0), ("long", 6, 200.0)):
        names[name] = store.write(*rows(cells[0], range(replicates), value=value))
        if name in compacted:
            store.compact()
    winner = min(names, key=names.get)
    value = {"short": 100.0, "long": 200.0}[winner]
    frame = store.trials(columns=["replicate", "relative_error", "part"])
    assert frame["replicate"].tolist() == list(range(6))
    assert frame["relative_error"].tolist()[:3] == [value, value + 1, value + 2]
    assert frame["relative_error"].tolist()[3:] == [203.0, 204.0, 205.0]
    assert set(frame["part"][:3]) == {names[winner].split("-")[0]}
    history = store.history()
    assert len(history) == 18
    assert history["population_loss"].tolist()[::3] == frame["relative_error"].tolist()


def test_a_column_added_later_is_null_in_older_parts(store, cells, rows, old_form):
    """Both ways: older parts lack a column that is declared now, and newer ones have one that is not declared yet."""
    older = store.write(*rows(cells[0], range(2)))
    newer = store.write(*rows(cells[1], range(2), certificate=0.125))
    old_form(store, older, lambda table: table.drop_columns(["certificate", "host", "status"]))
    old_form(store, newer, lambda table: table.append_column("curvature", pa.array([1.5, 2.5])))
    for compacted in (False, True):
        if compacted:
            store.compact()
        frame = Store(store.uri).trials()
        assert tuple(frame.columns) == (*column_names(TRIALS), "curvature")
        by_cell = frame.set_index("cell_id")
        assert by_cell.loc[cells[0].cell_id, "certificate"].isna().all()
        assert by_cell.loc[cells[0].cell_id, "curvature"].isna().all()
        assert by_cell.loc[cells[1].cell_id, "certificate"].tolist() == [0.125] * 2
        assert by_cell.loc[cells[1].cell_id, "curvature"].tolist() == [1.5, 2.5]
        few = store.trials(where=[("certificate", "<", 1)], columns=["cell_id", "certificate"])
        assert set(few["cell_id"]) == {cells[1].cell_id}


@pytest.mark.parametrize("compacted", [False, True])
def test_rows_older_than_a_field_of_every_problem_have_its_default(store, cells, rows, old_form, compacted):
    """Else they would make a group of their own, and be left out by conditions on the field."""
    old_form(store, store.write(*rows(cells[0], range(2))), lambda table: table.drop_columns(["spectral_tail"]))
    fields = {name: getattr(cells[1], name) for name in cells[1].relevant_fields}
    tailed = Cell(**{**fields, "spectral_tail": 0.25})
    store.write(*rows(cells[1], range(2)))
    store.write(*rows(tailed, range(2)))
    if compacted:
        store.compact()
    opened = Store(store.uri)
    tails = opened.trials().groupby("cell_id")["spectral_tail"].unique().map(list).to_dict()
    assert tails == {cells[0].cell_id: [0.0], cells[1].cell_id: [0.0], tailed.cell_id: [0.25]}
    for where, count in (("spectral_tail == 0", 4), ("2*spectral_tail < 0.4", 4), ("spectral_tail in [0, 0.25]", 6)):
        assert len(opened.trials(where=where)) == count, where
        assert set(opened.history(where=where)["cell_id"]) == set(opened.trials(where=where)["cell_id"])
    assert (opened.history(columns=["cell_id", "step", "spectral_tail"])["spectral_tail"] >= 0).all()


@pytest.mark.parametrize("compacted", [False, True])
def test_rows_older_than_a_field_of_their_method_have_its_default(store, cells, rows, old_form, compacted):
    """Else replicates from before and after would be two series of every figure, and conditions would miss some."""
    old_form(store, store.write(*rows(cells[0], range(2))), lambda table: table.drop_columns(["init"]))
    store.write(*rows(cells[0], range(2, 4)))
    solver = Cell(d_out=4, d_in=4, rank=1, n=9, method="min_nuclear_norm")
    store.write(*rows(solver, range(2)))
    if compacted:
        store.compact()
    opened = Store(store.uri)
    starts = opened.trials().fillna({"init": "none"}).groupby("cell_id")["init"].unique().map(list).to_dict()
    assert starts == {cells[0].cell_id: ["gaussian"], solver.cell_id: ["none"]}
    assert list(opened.trials(columns=["cell_id", "init"])) == ["cell_id", "init"]
    assert set(opened.trials(where="n > 0", columns=["init"])["init"].dropna()) == {"gaussian"}
    for where, count in (("init == 'gaussian'", 4), ("init is None", 2), ("init != 'gaussian'", 2)):
        assert len(opened.trials(where=where)) == count, where
    assert set(opened.history(where="init == 'gaussian'")["cell_id"]) == {cells[0].cell_id}
    assert set(opened.history(columns=["cell_id", "step", "init"])["init"].dropna()) == {"gaussian"}


def test_meaning_and_unit_of_every_column_are_in_the_file(store, cells, rows):
    part = store.write(*rows(cells[0], range(1)))
    for table, columns in (("trials", TRIALS), ("history", HISTORY)):
        schema = pq.read_schema(pa.BufferReader(store.files.read(part_path(table, part))))
        for column in columns:
            metadata = schema.field(column.name).metadata
            assert metadata[b"meaning"].decode() == column.meaning
            assert metadata[b"unit"].decode() == column.unit
        assert schema.metadata[b"flatdist.schema_version"]


def test_a_column_of_only_nulls_keeps_its_type(store, cells, rows):
    part = store.write(*rows(cells[0], range(1)))
    schema = pq.read_schema(pa.BufferReader(store.files.read(part_path("trials", part))))
    assert str(schema.field("learning_rate").type) == "double"
    assert str(schema.field("git_dirty").type) == "bool"
    assert str(schema.field("width").type).startswith("list<")


def test_malformed_rows_are_refused_and_nothing_is_written(store, cells, rows):
    trials, history = rows(cells[0], range(2))
    bad = [
        ([trials[0] | {"relativ_error": 1.0}], [], r"'relativ_error' that does not exist \(did you mean 'relative_err"),
        ([trials[0] | {"n": "many"}], [], r"column n of trials cannot hold 'many'; allowed: int32"),
        ([trials[0], trials[0]], [], "given twice"),
        ([trials[0]], history, "has no row in trials"),
        ([{"replicate": 1}], [], "needs a cell_id and a replicate"),
        ([trials[0]], [{k: v for k, v in history[0].items() if k != "step"}], "column step of history is missing"),
    ]
    for some_trials, some_history, message in bad:
        with pytest.raises(StoreError, match=message):
            store.write(some_trials, some_history)
    assert store.done() == {}
    assert store.files.list("trials") == []


def test_latest_numerics_of_every_configuration(store, cells, rows):
    """Raised numerics: other cell ids, the same configuration; readers see the newest unless asked."""
    store.write(*rows(cells[0], range(3), value=1.0))
    store.write(*rows(cells[1], range(2), value=5.0))
    newer = [row | {"cell_id": "f" * 20, "numerics_version": 2} for row in rows(cells[0], range(2), value=2.0)[0]]
    store.write(newer, [{"cell_id": "f" * 20, "replicate": 0, "step": 0}])
    for compacted in (False, True):
        if compacted:
            store.compact()
        assert store.trials()["relative_error"].tolist() == sorted([5.0, 6.0, 2.0, 3.0], key=lambda v: (v < 5, v))
        assert len(store.trials(all_numerics=True)) == 7
        assert len(store.history()) == 7
        assert len(store.history(all_numerics=True)) == 16
        assert store.trials([cells[0].cell_id])["relative_error"].tolist() == [1.0, 2.0, 3.0]
        followed = store.trials([cells[0].cell_id], follow_configurations=True)
        assert followed["relative_error"].tolist() == [2.0, 3.0]
    # sampling outranks the method's version
    store.write([newer[0] | {"cell_id": "e" * 20, "numerics_version": 1, "sampling_version": 2}], [])
    assert set(store.trials([cells[0].cell_id], follow_configurations=True)["cell_id"]) == {"e" * 20}


def test_access_is_checked(tmp_path):
    Store(tmp_path / "new" / "folder").check_access()
    assert [path for path in (tmp_path / "new").rglob("*") if not path.is_dir()] == []
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="a file or a link is where a folder is needed"):
        Store(tmp_path / "file").check_access()


def test_two_handles_see_each_other(store, cells, rows):
    other = Store(store.uri)
    assert other.done() == {}
    store.write(*rows(cells[0], range(2)))
    assert other.done() == {cells[0].cell_id: {0, 1}}
    store.compact(grace=0)
    assert other.done() == {cells[0].cell_id: {0, 1}}
    assert len(other.trials()) == 2


@pytest.mark.parametrize("compacted", [False, True])
def test_a_condition_may_compare_columns_of_training_with_those_of_the_cell(store, cells, rows, compacted):
    for cell in cells[:3]:  # n = 10, 20, 30
        store.write(*rows(cell, range(2)))
    if compacted:
        store.compact()
    found = Store(store.uri).history(where="step >= n", columns=["replicate", "n", "step"])
    rows_of = [(10, 10), (10, 20), (20, 20)]
    assert sorted(found.itertuples(index=False, name=None)) == [(r, n, step) for r in (0, 1) for n, step in rows_of]


@pytest.mark.parametrize("compacted", [False, True])
def test_history_is_ordered_by_key_and_step_however_it_was_written(store, cells, rows, old_form, compacted):
    """A part from elsewhere need not be sorted; one of release 0.1 states no digest that would tell."""
    name = store.write(*rows(cells[0], range(3)))
    wanted = store.history()
    path = part_path("history", name.split("-")[0])
    old_form(store, name)
    table = pq.read_table(pa.BufferReader(store.files.read(path)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.take(np.random.default_rng(3).permutation(len(table))), sink, write_page_checksum=True)
    store.files.write(path, sink.getvalue().to_pybytes())
    if compacted:
        store.compact()
    assert Store(store.uri).history().equals(wanted)
