"""Sweep records, failures, checkpoints, locations and the loaders."""

from __future__ import annotations

import datetime
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from flatdist.cli import main
from flatdist.errors import StoreError
from flatdist.results import load_history, load_trials
from flatdist.store import Store, StoreWarning, documents
from flatdist.store.filesystem import _TEMPORARY
from flatdist.store.layout import digest
from flatdist.store.location import normalise, redact


def test_the_latest_record_of_a_sweep_needs_no_clock(store):
    store.sweeps.save("a", "one", ["x"], 2)
    store.sweeps.save("a", "two", ["x", "y"], 2)
    store.sweeps.save("a", "one", ["x"], 2)  # back again: the first record, the latest meaning
    store.sweeps.save("a", "one", ["x"], 2)
    record = Store(store.uri).sweeps.load("a")
    assert (record.source, record.cell_ids, record.number) == ("one", ("x",), 3)
    assert len(store.files.list("sweeps/a")) == 2 + 3
    store.sweeps.save("b", "adaptive", ["x"], 2, rounds=[["x"], ["y"]])
    assert store.sweeps.load("b").rounds == [["x"], ["y"]]
    assert store.sweeps.names() == ["a", "b"]


def test_a_record_that_is_missing_is_named_and_the_one_before_it_used(store):
    for source in ("one", "two"):
        store.sweeps.save("a", source, ["x"], 2)
    (record,) = (info.path for info in store.files.list("sweeps/a") if b"two" in store.files.read(info.path))
    store.files.delete(record)
    with pytest.warns(StoreWarning, match=r"sweeps/a/order/0*2\.json \(the record that it names is missing"):
        assert store.sweeps.load("a").source == "one"


def test_temporaries_of_dead_writers_are_deleted_in_every_folder(store):
    for folder in ("trials/v1/part/ab", "history/v1/segment", "manifest/v1", "sweeps/a", "checkpoints/x/0", "drivers"):
        path = Path(store.uri) / folder / f"{_TEMPORARY}dead"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    assert store.files.delete_temporaries(older_than=1.0) == 0
    assert store.files.delete_temporaries(older_than=store.files.clock() + 60) == 6


def test_a_record_of_a_later_flatdist_hides_no_other_sweep(store, cells, rows, capsys):
    source = "name: a\nreplicates: 2\nfixed: {d_out: 6, d_in: 5, rank: 1, steps: 20}\naxes: {n: [10]}\n"
    store.write(*rows(cells[0], range(2)))
    for name in ("a", "z"):
        store.sweeps.save(name, source.replace("name: a", f"name: {name}"), [cells[0].cell_id], 2)
    later = {"format": 9, "name": "later", "source": "name: later", "cell_ids": ["x"], "replicates": 1, "rounds": None}
    unknown = source.replace("name: a", "name: unknown").replace("n: [10]", "n: [10], method: [telepathy]")
    store.sweeps.save("unknown", unknown, ["x"], 2)
    store.sweeps.save("strange", "name: strange", ["x"], 1, rounds={"format": 9, "search": "?", "rounds": 3})
    data = documents.to_json(later)
    store.files.write(f"sweeps/later/{digest(data)}.json", data)
    store.files.write("sweeps/later/order/00000001.json", documents.to_json({"record": digest(data)}))
    assert main(["status", "--store", store.uri]) == 0
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines() if line.startswith(("a ", "z "))] == ["a", "z"]
    assert "skipping sweep later" in printed.err
    assert "recorded by a newer flatdist (format 9)" in printed.err
    assert "skipping sweep unknown" in printed.err
    assert main(["status", "later", "--store", store.uri]) == 2


def test_sweeps_saved_at_once_are_all_numbered(store):
    threads = [
        threading.Thread(target=lambda n=n: Store(store.uri).sweeps.save("a", f"{n}", ["x"], n)) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.sweeps.load("a").number == 6
    assert len(store.files.list("sweeps/a/order")) == 6


def test_an_unknown_sweep_names_the_known_ones(store):
    with pytest.raises(StoreError, match="has no sweep 'quickstart'; it has none yet"):
        store.sweeps.load("quickstart")
    store.sweeps.save("quickstart", "", [], 1)
    with pytest.raises(StoreError, match=r"no sweep 'quikstart' \(did you mean 'quickstart'\?\); it has quickstart"):
        store.sweeps.load("quikstart")


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a b", "$(x)", "a" * 200, "a\0b", "-rf"])
def test_a_sweep_name_cannot_leave_its_folder(store, name):
    with pytest.raises(StoreError, match="cannot name a folder"):
        store.sweeps.save(name, "", [], 1)


@pytest.mark.parametrize("cell_id", ["../x", "a/b", ""])
def test_a_cell_id_cannot_leave_its_folder(store, cell_id):
    with pytest.raises(StoreError, match="cannot name a folder"):
        store.checkpoints.save(cell_id, 0, 1, {"w": np.ones(1)})


def test_failures_count_until_the_replicate_is_done(store, cells, rows):
    key = cells[0].cell_id
    failure = {
        "cell_id": key,
        "replicate": 1,
        "attempt": 1,
        "error_type": "ValueError",
        "message": "no",
        "at": datetime.datetime.now(datetime.UTC),
    }
    store.write_failures([failure, failure | {"replicate": 2}])
    store.write_failures([failure | {"attempt": 2}])
    assert store.failed() == {key: {1: 2, 2: 1}}
    assert store.failed([cells[1].cell_id]) == {}
    store.write(*rows(cells[0], [1]))
    assert store.failed([key]) == {key: {2: 1}}
    assert store.failures([key])["attempt"].tolist() == [1, 2, 1]
    assert store.failures([cells[1].cell_id]).empty


def test_credentials_reach_no_file(store, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG")
    text = "PUT s3://AKIA:hunter22@bucket/x?X-Amz-Signature=abcdef failed with wJalrXUtnFEMI/K7MDENG"
    store.write_failures([{"cell_id": "a", "replicate": 0, "message": text, "traceback": text, "error_type": "E"}])
    store.sweeps.save("s", f"# {text}", [], 1)
    content = b"".join(store.files.read(info.path) for info in store.files.list(""))
    for secret in (b"hunter22", b"abcdef", b"wJalr"):
        assert secret not in content
    assert redact(text) == "PUT s3://***@bucket/x?X-Amz-Signature=*** failed with ***"
    assert "hunter22" not in store.failures()["message"][0]


@pytest.mark.parametrize(
    "location",
    [
        "s3://key:secret-word@bucket/x",
        "s3://key@bucket",
        "s3://key:begin/secret-word@bucket/x",
        "s3://key:begin@/secret-word@bucket/x",
        "gs://bucket/x?token=secret-word",
        "s3://bucket/x#secret-word",
    ],
)
def test_a_location_with_credentials_is_refused_without_repeating_them(location):
    with pytest.raises(StoreError, match="holds only a scheme, a bucket and a folder") as caught:
        Store(location)
    assert "secret-word" not in str(caught.value)


def test_locations_are_normalised(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    for given, meant in {
        "results": str(tmp_path / "results"),
        "results/": str(tmp_path / "results"),
        "./a//b/": str(tmp_path / "a" / "b"),
        "~/results": "/home/someone/results",
        "file:///data/my%20results": "/data/my results",
        "file:/data/results/": "/data/results",
        "FILE:///data": "/data",
        "s3://bucket/folder/": "s3://bucket/folder",
        "s3://bucket//folder///x//": "s3://bucket/folder/x",
        "S3://bucket": "s3://bucket",
        "gs://bucket/x": "gs://bucket/x",
        "az://container/x": "az://container/x",
    }.items():
        assert normalise(given) == meant


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("", "needs a location"),
        ("  ", "needs a location"),
        ("a\0b", "control characters"),
        ("a\x1b[31m", "control characters"),
        ("s3://", "names no bucket"),
        ("s3:/bucket/x", r"is not a complete location; write s3://bucket/folder"),
        ("s3:bucket", r"is not a complete location; write s3://bucket/folder"),
        ("file:results", "is not a complete location; allowed: a folder, s3://"),
        ("file://host/x", "names a folder of this machine"),
        ("C:\\results", "looks like a Windows path"),
        ("c:/results", "looks like a Windows path"),
        ("$HOME/results", r"'\$' is not expanded here"),
        ("s3://${BUCKET}/x", r"'\$' is not expanded here"),
        ("~nobody-of-that-name/x", "there is no such home directory"),
        ("s3://bucket/../x", "have no meaning in a bucket"),
        ("s3://bucket/a\\b", "have no meaning in a bucket"),
        ("hdfs://host/x", r"no storage is known for hdfs://; allowed: a folder, s3://"),
    ],
)
def test_other_locations_are_refused(location, message):
    with pytest.raises(StoreError, match=message):
        Store(location)


def test_checkpoints_keep_the_last_two_and_survive_a_damaged_one(store):
    for step in (10, 20, 30):
        arrays = {"layer_0": np.full((2, 3), step, np.float32), "keys": np.arange(2, dtype=np.uint32)}
        store.checkpoints.save("abc", 7, step, arrays)
    names = [info.path for info in store.files.list("checkpoints")]
    assert [name.split("-")[0] for name in names] == [f"checkpoints/abc/7/{step:012d}" for step in (20, 30)]
    step, arrays = store.checkpoints.latest("abc", 7)
    assert step == 30
    assert arrays["layer_0"].dtype == np.float32
    assert arrays["keys"].tolist() == [0, 1]
    store.files.write(names[1], store.files.read(names[1])[:100])
    with pytest.warns(StoreWarning, match="resuming from the previous one"):
        assert store.checkpoints.latest("abc", 7)[0] == 20
    Store(store.uri).checkpoints.save("abc", 7, 40, {"layer_0": np.ones(1)})
    assert len(store.files.list("checkpoints")) == 2
    store.checkpoints.discard("abc", 7)
    assert store.checkpoints.latest("abc", 7) is None


def test_checkpoints_of_finished_replicates_are_collected(store, cells, rows):
    for replicate in (0, 1):
        store.checkpoints.save(cells[0].cell_id, replicate, 10, {"w": np.ones(1)})
    store.write(*rows(cells[0], [0]))
    store.gc(grace=0)
    assert [info.path.split("/")[2] for info in store.files.list("checkpoints")] == ["1"]


def test_loaders_take_a_name_a_file_or_everything(store, cells, rows, tmp_path):
    for cell in cells[:3]:
        store.write(*rows(cell, range(2)))
    store.sweeps.save("few", "", [cells[1].cell_id, cells[5].cell_id], 2)
    assert len(load_trials(store.uri)) == 6
    assert set(load_trials(store.uri, sweep="few")["cell_id"]) == {cells[1].cell_id}
    assert len(load_history(store.uri, sweep="few", where="replicate == 1", columns=["step"])) == 3
    file = tmp_path / "sweep.yaml"
    file.write_text("name: other\nreplicates: 2\nfixed: {d_out: 6, d_in: 5, rank: 1, steps: 20}\naxes: {n: [10, 30]}\n")
    assert set(load_trials(store, sweep=file)["n"]) == {10, 30}
    assert set(load_history(store, sweep=str(file))["cell_id"]) == {cells[0].cell_id, cells[2].cell_id}
    with pytest.raises(StoreError, match="there is no such folder; run a sweep into it first"):
        load_trials(tmp_path / "nowhere")
    with pytest.raises(StoreError, match="no sweep 'fwe'"):
        load_trials(store, sweep="fwe")


def test_a_sweep_by_name_shows_its_configurations_at_the_newest_numerics(store, cells, rows):
    store.write(*rows(cells[0], range(2), value=1.0))
    store.sweeps.save("old", "", [cells[0].cell_id], 2)
    newer = [row | {"cell_id": "f" * 20, "numerics_version": 2} for row in rows(cells[0], range(2), value=2.0)[0]]
    store.write(newer, [])
    assert load_trials(store, sweep="old")["relative_error"].tolist() == [2.0, 3.0]
    assert len(load_trials(store, sweep="old", all_numerics=True)) == 4


def test_importing_the_store_is_light():
    """Workers and the command line import it long before they read anything; readers have no torch."""
    heavy = {"torch", "ray", "numba", "pandas", "pyarrow", "fsspec"}
    code = f"import sys, flatdist.store; print(sorted({heavy} & set(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['torch', 'ray', 'numba']));"
        "import flatdist.store as s; print(len(s.Store(sys.argv[1]).trials()))"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, "/nonexistent"], capture_output=True, text=True, check=True
    ).stdout
    assert out.strip() == "0"
