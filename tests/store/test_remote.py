"""The store on an S3 endpoint: the same protocol, requests that fail for a while, conditional writes."""

from __future__ import annotations

import pandas as pd
import pytest

from flatdist.errors import StoreError
from flatdist.store import Store, StoreWarning, remote
from flatdist.store.remote import RemoteFilesystem


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(remote, "_FIRST_PAUSE", 0.001)
    monkeypatch.setattr(remote, "_LONGEST_PAUSE", 0.002)


def test_everything_works_as_in_a_folder(bucket, store, cells, rows):
    far = Store(f"{bucket}/deep/folder")
    for one in (far, store):
        one.check_access()
        assert one.done() == {}
        one.write(*rows(cells[0], range(4)))
        one.write(*rows(cells[1], range(2)))
        one.write(*rows(cells[0], range(6), value=0.25))
        one.sweeps.save("quick", "name: quick", [cells[0].cell_id], 4)
        one.write_failures([{"cell_id": cells[2].cell_id, "replicate": 0, "error_type": "ValueError"}])
        one.invalidate([(cells[1].cell_id, 0)])
    assert far.done() == store.done() == {cells[0].cell_id: set(range(6)), cells[1].cell_id: {1}}
    assert far.failed() == {cells[2].cell_id: {0: 1}}
    assert far.sweeps.load("quick") == store.sweeps.load("quick")
    pd.testing.assert_frame_equal(far.trials(), store.trials())
    pd.testing.assert_frame_equal(far.history(), store.history())
    assert far.compact(grace=0).parts == 3
    far.compact(grace=0)
    pd.testing.assert_frame_equal(far.trials(where="n == 10"), store.trials(where="n == 10"))
    pd.testing.assert_frame_equal(Store(far.uri).history(), store.history())
    assert not list(far.files.list("trials/v1/part"))


@pytest.mark.parametrize("table", ["trials", "history"])
def test_a_segment_that_was_changed_is_noticed_before_a_run(bucket, s3, cells, rows, table):
    """Its token is no longer the manifest's; those that kept theirs are not fetched."""
    far = Store(bucket)
    far.write(*rows(cells[0], range(4)))
    far.compact()
    s3.requests.clear()
    assert Store(bucket).done([cells[0].cell_id], thorough=True) == {cells[0].cell_id: {0, 1, 2, 3}}
    assert not [line for line in s3.requests if line.startswith("GET") and "/segment/" in line]
    (info,) = far.files.list(f"{table}/v1/segment")
    data = bytearray(far.files.read(info.path, checked=False))
    data[len(data) // 3] ^= 1
    far.files.write(info.path, bytes(data))
    with pytest.warns(StoreWarning, match="set aside: "):
        left = Store(bucket).done([cells[0].cell_id], thorough=True)
    assert left in ({}, {cells[0].cell_id: {0, 1, 2, 3}})  # the part that it took over is still there
    assert Store(bucket).files.list("set-aside")


def test_a_part_is_two_requests(bucket, s3, cells, rows):
    far = Store(bucket)
    far.generations()
    s3.requests.clear()
    part = far.write(*rows(cells[0], range(4)))
    assert [line.split()[0] for line in s3.requests] == ["PUT", "PUT"]
    assert "/history/" in s3.requests[0]
    assert s3.requests[1].endswith(f"/trials/v1/part/{part[:2]}/{part}.parquet")


def test_requests_that_fail_for_a_while_are_repeated(bucket, s3, cells, rows, quick):
    far = Store(bucket)
    s3.failures += [500, 503, 500, 503, 500]
    part = far.write(*rows(cells[0], range(4)))
    assert not s3.failures
    s3.failures += [503, 500, 503]
    assert far.done() == {cells[0].cell_id: {0, 1, 2, 3}}
    s3.failures += [503] * 4
    assert len(far.history()) == 12
    assert part


def test_a_store_that_stays_broken_is_an_error_with_advice(bucket, s3, cells, rows, quick):
    far = Store(bucket, filesystem=RemoteFilesystem(bucket, patience=0.05))
    s3.failures += [503] * 10_000
    with pytest.raises(StoreError, match=r"cannot list tombstones/v1: .*run the same command again later"):
        far.write(*rows(cells[0], range(4)))
    s3.failures.clear()
    assert far.done() == {}


def test_who_wants_to_leave_does_not_wait_for_a_broken_store(bucket, s3, cells, rows, quick, monkeypatch):
    monkeypatch.setattr(remote, "LEAVING", 0.05)
    far, asked = Store(bucket), []
    far.shorten_waits_when(lambda: len(asked) > 0 or bool(asked.append(1)))  # asked to leave at the second look
    s3.failures += [503] * 10_000
    with pytest.raises(StoreError, match="run the same command again later"):
        far.write(*rows(cells[0], range(4)))
    assert len(s3.failures) > 9_000, "with two minutes' patience far more requests are made"
    s3.failures.clear()


def test_an_endpoint_that_does_not_answer_is_reported_before_work_begins(s3, monkeypatch):
    monkeypatch.setattr(remote, "HASTY", 0.3)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match=r"cannot write probe-.*run the same command again later"):
        Store("s3://results-anywhere").check_access()


def test_a_bucket_that_does_not_exist(s3):
    with pytest.raises(StoreError, match="bucket does not exist"):
        Store("s3://results-that-nobody-made").check_access()


def test_credentials_appear_in_no_error(bucket, s3, quick):
    far = Store(bucket, filesystem=RemoteFilesystem(bucket, patience=0.01))
    s3.failures += [403] * 10
    with pytest.raises(StoreError) as caught:
        far.check_access()
    assert "very-secret" not in str(caught.value)
    assert "AKIATESTTEST" not in str(caught.value)


def test_conditional_writes(bucket):
    files = RemoteFilesystem(bucket)
    assert files.exclusive()
    assert files.create("manifest/v1/00000001.json", b"first")
    assert not files.create("manifest/v1/00000001.json", b"second")
    assert files.read("manifest/v1/00000001.json") == b"first"


def test_a_conditional_write_whose_answer_is_lost_is_recognised_as_done(bucket, s3, quick):
    files = RemoteFilesystem(bucket)
    s3.lose_answers = 1
    assert files.create("manifest/v1/00000001.json", b"mine")
    s3.failures += [500]
    assert not files.create("manifest/v1/00000001.json", b"other")


def test_a_store_that_ignores_the_condition_is_not_compacted(bucket, cells, rows, monkeypatch):
    far = Store(bucket)
    far.write(*rows(cells[0], range(2)))

    def careless(self, path, data):
        self.write(path, data)
        return True

    monkeypatch.setattr(RemoteFilesystem, "create", careless)
    assert not far.can_compact()
    with pytest.raises(StoreError, match="does not support conditional writes"):
        far.compact()
    assert len(far.trials()) == 2


def test_checkpoints(bucket):
    import numpy as np

    far = Store(bucket)
    for step in (10, 20, 30):
        far.checkpoints.save("abc", 1, step, {"weights": np.full(3, float(step))})
    step, arrays = Store(bucket).checkpoints.latest("abc", 1)
    assert (step, arrays["weights"].tolist()) == (30, [30.0] * 3)
    assert len(far.files.list("checkpoints")) == 2
    far.checkpoints.discard("abc", 1)
    assert far.checkpoints.latest("abc", 1) is None


def test_an_unknown_scheme():
    with pytest.raises(StoreError, match=r"no storage is known for s4://; allowed: a folder, s3://"):
        Store("s4://bucket/folder")
