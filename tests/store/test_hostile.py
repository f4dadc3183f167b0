"""Stores from strangers: names, links and types that no flatdist wrote; what lies beside the store is untouched."""

from __future__ import annotations

import functools
import json
import os
import shutil
import stat
import subprocess
import sys
import time
import warnings
from pathlib import Path

import boto3
import numpy as np
import pytest

from flatdist.errors import StoreError
from flatdist.store import Store, StoreWarning
from flatdist.store.filesystem import LocalFilesystem
from flatdist.store.layout import part_path

OLD = time.time() - 7200


@pytest.fixture
def filled(store, cells, rows) -> Store:
    """A store with something of every kind in it, old enough for everything to be deleted that may be."""
    for cell in cells[:3]:
        store.write(*rows(cell, range(2)))
    store.compact(grace=0)
    store.write(*rows(cells[3], range(2)))
    store.write_failures([{"cell_id": cells[4].cell_id, "replicate": 0, "error_type": "ValueError"}])
    store.sweeps.save("s", "name: s", [cells[0].cell_id], 2)
    store.checkpoints.save(cells[0].cell_id, 0, 10, {"w": np.ones(1)})
    store.checkpoints.save(cells[5].cell_id, 0, 10, {"w": np.ones(1)})
    store.invalidate([(cells[3].cell_id, 1)])
    return store


@pytest.fixture
def sentinel(tmp_path) -> Path:
    """Somebody's own files beside the store; :func:`untouched` looks at all there is of them."""
    folder = tmp_path / "thesis"
    (folder / "sub" / "ab").mkdir(parents=True)
    for name in ("thesis.tex", "sub/data.csv", "sub/ab/model.parquet", "00000001.json", "000000000010.npz"):
        (folder / name).write_text("precious")
        os.utime(folder / name, (OLD, OLD))
    return folder


def look(folder: Path) -> dict:
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_mtime_ns, status.st_ino, content)
    return found


def everything(store: Store, other: Store) -> None:
    """Every operation that reads, copies or deletes."""
    for action in (
        lambda: Store(store.uri).done(thorough=True),
        lambda: Store(store.uri).trials(),
        lambda: Store(store.uri).history(),
        lambda: Store(store.uri).failed(),
        lambda: Store(store.uri).check_access(),
        lambda: [Store(store.uri).sweeps.load(name) for name in Store(store.uri).sweeps.names()],
        lambda: other.merge(store.uri),
        lambda: Store(store.uri).compact(grace=0),
        lambda: Store(store.uri).gc(grace=0),
        lambda: Store(store.uri).gc(grace=0),
    ):
        with warnings.catch_warnings(record=True):
            warnings.simplefilter("always")
            try:
                action()
            except StoreError as error:  # a refusal in words is an answer
                assert store.uri in str(error)  # noqa: PT017


LINKS = [
    "history/v1/part/zz",
    "history/v1/part/ab",
    "trials/v1/part/zz",
    "trials/v1/segment/zz",
    "history/v1/segment/ab",
    "failures/v1/part/ab",
    "checkpoints/abc",
    "checkpoints/abc/0",
    "sweeps/linked",
    "tombstones/v1/zz",
    "manifest/v1/00000099.json",
    "manifest/v1/zz",
    "index/v1/ab",
    "set-aside",
    "set-aside/trials",
    "claims",
    "drivers",
]


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("inner", ["", "sub"])
def test_links_below_the_root_are_never_followed(filled, sentinel, tmp_path, name, inner):
    before = look(sentinel)
    place = Path(filled.uri, name)
    place.parent.mkdir(parents=True, exist_ok=True)
    wanted = filled.trials()
    place.symlink_to(sentinel / inner, target_is_directory=True)
    other = Store(tmp_path / "other")
    everything(filled, other)
    assert look(sentinel) == before
    assert b"precious" not in b"".join(path.read_bytes() for path in Path(other.uri).rglob("*") if path.is_file())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert Store(filled.uri).trials().equals(wanted)
        assert other.trials().equals(wanted)


@pytest.mark.parametrize("folder", ["trials", "trials/v1/part", "checkpoints", "history", "sweeps", "tombstones/v1"])
def test_a_whole_folder_that_is_a_link_is_not_followed(filled, sentinel, tmp_path, folder):
    place = Path(filled.uri, folder)
    shutil.move(place, sentinel / "moved")
    place.symlink_to(sentinel / "moved", target_is_directory=True)
    before = look(sentinel)
    everything(filled, Store(tmp_path / "other"))
    assert look(sentinel) == before


def test_the_root_itself_may_be_a_link(filled, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(filled.uri, target_is_directory=True)
    assert Store(link).trials().equals(filled.trials())
    assert Store(link).uri == str(link)


def test_files_that_are_not_flatdists_are_left_alone_and_named_once(filled, tmp_path):
    names = [
        "checkpoints/README.txt",
        "checkpoints/abc/zero/1.npz",
        "trials/v1/part/ab/NOTES.txt",
        "history/v1/part/NOTES.txt",
        "history/v1/x.parquet",
        "sweeps/todo.md",
        "manifest/v1/٣.json",
        "manifest/v1/².json",
        "tombstones/v1/aa.json",
    ]
    names += [f"manifest/v1/{'9' * 30}.json", "failures/v1/part/ab/a b\nc\x1b[31m.parquet"]
    for name in names:
        path = Path(filled.uri, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
        os.utime(path, (OLD, OLD))
    os.mkfifo(Path(filled.uri, "trials/v1/part/pipe"))
    Path(filled.uri, "trials/v1/part/qq.parquet").mkdir()
    opened = Store(filled.uri)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        wanted = opened.done()
        opened.gc(grace=0)
        assert opened.done() == wanted
    assert all("left alone, since flatdist did not write it" in str(warning.message) for warning in caught)
    told = " ".join(str(warning.message) for warning in caught)
    assert told.count("NOTES.txt") == 2, "each once"
    assert "\x1b" not in told
    assert "\n" not in told
    for name in names:
        assert Path(filled.uri, name).read_text() == "mine"
    everything(filled, Store(tmp_path / "other"))
    copied = {str(path.relative_to(tmp_path / "other")) for path in (tmp_path / "other").rglob("*")}
    assert not copied & {*names}


def test_a_path_that_no_store_contains_is_not_touched(store, tmp_path):
    (tmp_path / "outside.txt").write_text("mine")
    for path in ("../outside.txt", "/etc/passwd", "trials/../../outside.txt", "notes.txt", "", "trials/v1/part/../x"):
        for act in (store.files.read, store.files.delete, lambda one: store.files.write(one, b"x")):
            with pytest.raises(StoreError, match="is not a file of a store"):
                act(path)
    assert (tmp_path / "outside.txt").read_text() == "mine"


def test_a_link_planted_where_a_temporary_file_will_be_is_not_written_through(
    store, cells, rows, sentinel, monkeypatch
):
    before = look(sentinel)
    monkeypatch.setattr("flatdist.store.filesystem.uuid.uuid4", lambda: type("U", (), {"hex": "0" * 32}))
    store.files.write("tombstones/v1/" + "0" * 32 + ".json", b"[]")
    Path(store.uri, "tombstones/v1/.tmp-" + "0" * 32).symlink_to(sentinel / "thesis.tex")
    with pytest.raises(StoreError, match="cannot write"):
        store.files.write("tombstones/v1/" + "1" * 32 + ".json", b"[]")
    assert look(sentinel) == before


@pytest.mark.parametrize(
    "text",
    [
        '{"format":1,"number":1,"writer":"","segments":[["../../../../x",1,1]],"superseded":{}}',
        '{"format":"1","number":1,"writer":"","segments":[],"superseded":{}}',
        '{"format":1,"number":1,"writer":"","segments":[["a",1e400,1]],"superseded":{}}',
        '{"format":1,"number":1,"writer":"","segments":[["a",true,1]],"superseded":[]}',
        '{"format":1,"number":1,"writer":"","segments":[["%s",1,1]],"superseded":{}}' % ("a" * 32),
        "[]",
        "null",
        "[" * 100_000 + "]" * 100_000,
        '{"a":' * 50_000 + "1" + "}" * 50_000,
    ],
)
@pytest.mark.parametrize("where", ["manifest", "order", "record"])
def test_json_of_any_content_is_named_and_passed_over(filled, text, where):
    path = {"manifest": "manifest/v1/00000007.json", "order": "sweeps/s/order/00000007.json"}.get(where)
    wanted = filled.trials()
    if where == "record":
        (path,) = [info.path for info in filled.files.list("sweeps/s") if "order" not in info.path]
    filled.files.write(path, text.encode())
    opened = Store(filled.uri)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if where == "manifest":
            assert opened.trials().equals(wanted)
        elif where == "order":
            assert opened.sweeps.load("s").source == "name: s"
        else:
            with pytest.raises(StoreError, match="every record of sweep 's' is damaged"):
                opened.sweeps.load("s")
    assert [path in str(warning.message) for warning in caught] == [True]


def test_checkpoints_that_are_not_ours_are_passed_over(filled, cells):
    import io
    import zipfile

    key = cells[5].cell_id
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (10**13,)})
    giant, bomb, pickled, array = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(giant, "w") as archive:
        archive.writestr("layer_0.npy", header.getvalue() + b"\0" * 64)
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("layer_0.npy", b"\0" * (1 << 26))
    np.savez(pickled, w=np.array([{"a": 1}], dtype=object))
    np.save(array, np.zeros(3))
    for step, content in enumerate(
        [giant, bomb, pickled, array, io.BytesIO(b"PK\x03\x04rubbish"), io.BytesIO()], start=20
    ):
        filled.files.write(f"checkpoints/{key}/0/{step:012d}.npz", content.getvalue())
    opened = Store(filled.uri)
    with pytest.warns(StoreWarning, match="resuming from the previous one") as caught:
        step, arrays = opened.checkpoints.latest(key, 0)
    assert (step, arrays["w"].tolist(), len(caught)) == (10, [1.0], 6)
    opened.checkpoints.save(key, 0, 15, {"w": np.ones(1)})
    assert Store(filled.uri).checkpoints.latest(key, 0)[0] == 15, "what was passed over is gone"


def test_an_object_store_with_foreign_keys(bucket, s3, tmp_path, cells, rows, sentinel):
    before = look(tmp_path)
    evil = Store(f"{bucket}/s")
    evil.write(*rows(cells[0], range(2)))
    evil.sweeps.save("s", "name: s", [cells[0].cell_id], 2)
    client = boto3.client("s3", endpoint_url=s3.url)
    name = bucket.removeprefix("s3://")
    keys = [
        "s/failures/v1/part/../../../../../outside/PWNED.txt",
        "s/failures/v1/part/xx/../../../../../../outside/PWNED2.txt",
        "s/tombstones/v1/../../../outside3.json",
        "s/trials/v1/part//double.parquet",
        "s/history/v1/part/./dot.parquet",
        "s/trials/v1/part/ab/notes.txt",
        "s/sweeps/s/order/x.json",
    ]
    for key in keys:
        client.put_object(Bucket=name, Key=key, Body=b"ssh-rsa AAAA attacker")
    mine = Store(tmp_path / "a" / "b" / "mine")
    with pytest.warns(StoreWarning, match="left alone, since flatdist did not write it"):
        assert mine.merge(evil.uri).replicates == 2
    assert len(mine.trials()) == 2
    with pytest.warns(StoreWarning, match="left alone"):
        assert len(Store(evil.uri).history()) == 6
    shutil.rmtree(tmp_path / "a")
    assert look(tmp_path) == before
    left = {item["Key"] for item in client.list_objects_v2(Bucket=name)["Contents"]}
    assert {*keys} <= left
    client.close()


def test_a_shared_folder_is_written_by_two_users(tmp_path, cells, rows):
    """umask 022 of both; the folder belongs to a group, and what is made in it is the group's."""
    root = tmp_path / "shared"
    root.mkdir()
    os.chmod(root, 0o2775)
    previous = os.umask(0o022)
    try:
        store = Store(root)
        store.check_access()
        store.write(*rows(cells[0], range(2)))
        store.checkpoints.save("abc", 0, 1, {"w": np.ones(1)})
    finally:
        os.umask(previous)
    for path in root.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o060 == 0o060, path
        assert not path.is_dir() or mode & 0o2010 == 0o2010, path


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_folder_that_another_user_closed_is_named_before_work_begins(tmp_path, cells, rows):
    root = tmp_path / "shared"
    Store(root).write(*rows(cells[0], range(1)))
    for path in (tmp_path, *tmp_path.parents):
        if path.stat().st_uid == 0 and str(path).startswith("/tmp/"):
            os.chmod(path, 0o755)
    os.chmod(root, 0o777)
    code = (
        "import os, warnings\n"
        "from flatdist.store import Store\n"
        f"store = Store({str(root)!r})\n"
        "store.done()\n"
        "os.setgid(12345); os.setuid(12345)\n"
        "store.check_access()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "cannot be written by this user" in ended.stderr, ended.stderr
    assert f"chmod -R g+rwXs {root}" in ended.stderr


class Interrupted(LocalFilesystem):
    """A folder that calls back before its k-th listing, creation or deletion, for exact interleavings."""

    def __init__(self, root: str, what: str, k: int, act) -> None:
        super().__init__(root)
        self._what, self._left, self._act = what, k, act

    def _before(self, what: str, path: str) -> None:
        if path.startswith(self._what.split(" ")[1]) and what == self._what.split(" ")[0]:
            self._left -= 1
            if self._left == 0:
                self._act()

    def _list(self, folder):
        self._before("list", folder)
        return super()._list(folder)

    def _create(self, path, data):
        self._before("create", path)
        return super()._create(path, data)

    def _delete(self, path):
        self._before("delete", path)
        super()._delete(path)


@pytest.mark.parametrize("k", range(1, 5))
@pytest.mark.parametrize(
    "what", ["list manifest", "list trials", "list tombstones", "create manifest", "delete trials"]
)
def test_a_compaction_in_the_middle_of_anything_changes_no_row(store, cells, rows, what, k):
    """Whenever a rival writes, compacts and deletes: what is read afterwards is all there is, by everybody alike."""
    for cell in cells[:3]:
        store.write(*rows(cell, range(2)))
    store.compact(grace=0)
    store.write(*rows(cells[3], range(2)))

    def rival() -> None:
        other = Store(store.uri)
        other.write(*rows(cells[4], range(1)))
        other.compact(grace=0)
        other.compact(grace=0)

    wanted = store.done()
    for act in (lambda one: one.done(), lambda one: one.history(), lambda one: one.compact(grace=0)):
        opened = Store(store.uri, filesystem=Interrupted(store.uri, what, k, rival))
        act(opened)
        for _ in range(k):  # the rival may only come now
            opened.done()
        found = Store(store.uri).done()
        assert {cell: found[cell] for cell in wanted} == wanted
        assert opened.done() == found
        history = Store(store.uri).history()
        assert len(history) == 3 * sum(map(len, found.values()))


def test_a_reader_looks_at_the_manifest_again_after_it_has_listed_the_parts(store, cells, rows):
    """Else it would take the old manifest, and miss the parts that a compaction deleted before they were listed."""
    for cell in cells[:2]:
        store.write(*rows(cell, range(2)))
        store.compact(grace=0)

    def rival() -> None:
        Store(store.uri).write(*rows(cells[2], range(2)))
        for _ in range(3):
            Store(store.uri).compact(grace=0)

    Store(store.uri).write(*rows(cells[3], range(2)))
    opened = Store(store.uri, filesystem=Interrupted(store.uri, "list trials", 1, rival))
    assert sum(map(len, opened.done().values())) == 8


def test_history_that_was_written_again_is_not_deleted_with_the_old_one(store, cells, rows):
    """A part is compacted, then the same keys arrive once more; deleting what was taken over spares the new files."""
    store.write(*rows(cells[0], range(2)))
    store.compact(grace=0)
    again = functools.partial(Store(store.uri).write, *rows(cells[0], range(2), value=9.0))
    opened = Store(store.uri, filesystem=Interrupted(store.uri, "create manifest", 1, again))
    store.write(*rows(cells[1], range(1)))
    opened.compact(grace=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Store(store.uri).done() == {cells[0].cell_id: {0, 1}, cells[1].cell_id: {0}}
        assert len(Store(store.uri).history()) == 9
    assert len(store.files.list("trials/v1/part")) == len(store.files.list("history/v1/part"))


def test_history_that_release_0_1_is_writing_again_is_not_deleted(store, tmp_path, cells, rows, old_form):
    """Its parts take the same name; the new history arrives between the two looks at what is to be deleted."""
    other = Store(tmp_path / "other")
    for one, value in ((store, 0.5), (other, 9.0)):
        name = one.write(*rows(cells[0], range(2), value=value))
        old_form(one, name)
    store.compact(grace=0)
    time.sleep(0.02)
    part = name.split("-")[0]
    paths = {table: part_path(table, part) for table in ("history", "trials")}
    new = {table: other.files.read(path) for table, path in paths.items()}
    arrives = functools.partial(store.files.write, paths["history"], new["history"])
    store.write(*rows(cells[1], range(1)))
    Store(store.uri, filesystem=Interrupted(store.uri, "list history", 1, arrives)).compact(grace=0)
    assert not [info for info in store.files.list("trials/v1/part") if info.path == paths["trials"]]
    store.files.write(paths["trials"], new["trials"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # trials without their history are damage
        assert Store(store.uri).done() == {cells[0].cell_id: {0, 1}, cells[1].cell_id: {0}}
        assert len(Store(store.uri).history()) == 9


def test_of_two_generations_the_higher_holds_whatever_the_names(store, cells, rows):
    for cell in cells:
        first = store.write(*rows(cell, range(1), value=1.0))
        store.invalidate([(cell.cell_id, 0)])
        second = Store(store.uri).write(*rows(cell, range(1), value=2.0))
        assert first != second
    # without the tombstones, as in a store whose were lost: the later run still holds
    for info in store.files.list("tombstones/v1"):
        store.files.delete(info.path)
    assert Store(store.uri).trials()["relative_error"].tolist() == [2.0] * len(cells)
    Store(store.uri).compact()
    assert Store(store.uri).trials()["relative_error"].tolist() == [2.0] * len(cells)
    assert json.loads(max(Path(store.uri).glob("manifest/v1/*")).read_text())["format"] == 2
