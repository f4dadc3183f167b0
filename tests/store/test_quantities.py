"""The map column: written, read, compacted, and null in parts that were written before it existed."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pytest

from flatdist.cells.cell import Cell
from flatdist.cli import main
from flatdist.store import Store
from flatdist.store.schema import conform, rows_to_table, schema, to_frame


def row(replicate, quantities):
    cell = Cell(method="theorem_probe", d_out=2, d_in=3, rank=1, n=20)
    key = {"cell_id": cell.cell_id, "configuration_id": cell.configuration_id, "replicate": replicate}
    return key | cell.row() | {"status": "converged", "quantities": quantities, "numerics_version": 1}


def test_quantities_survive_the_store_and_its_compaction(tmp_path):
    store = Store(tmp_path)
    store.write([row(0, {"a": 1.5, "b": -2.0})], [])
    store.write([row(1, None)], [])
    for _ in range(2):
        found = store.trials().sort_values("replicate")["quantities"].tolist()
        assert found == [{"a": 1.5, "b": -2.0}, None]
        store.compact()


def test_parts_without_the_column_read_as_null():
    bookkeeping = {"generation": [0], "part": ["p"]}
    new = rows_to_table("trials", [row(0, {"a": 1.0})], bookkeeping)
    old = conform(new.drop_columns(["quantities"]), "trials")
    both = pa.concat_tables([old, new], promote_options="default")
    assert to_frame(both)["quantities"].tolist() == [None, {"a": 1.0}]
    assert both.schema.field("quantities").type == schema("trials").field("quantities").type


def test_values_must_be_numbers():
    with pytest.raises(Exception, match="quantities of trials cannot hold"):
        rows_to_table("trials", [row(0, {"a": "much"})], {"generation": [0], "part": ["p"]})


def test_exported_as_json(tmp_path, capsys):
    sweep = tmp_path / "s.yaml"
    sweep.write_text(
        "name: s\nreplicates: 1\nfixed: {d_out: 2, d_in: 3, rank: 1, n: 20, method: theorem_probe}\n", encoding="utf-8"
    )
    Store(tmp_path / "store").write([row(0, {"a": 1.0})], [])
    target = tmp_path / "flat.csv"
    words = ["export", str(sweep), "--store", str(tmp_path / "store"), "--csv", "--out", str(target)]
    assert not main(words), capsys.readouterr().err
    assert json.loads(pd.read_csv(target)["quantities"][0]) == {"a": 1.0}
