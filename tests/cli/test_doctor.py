"""``flatdist doctor`` says what is there, and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flatdist.cli import main
from flatdist.store import Store


def test_one_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLATDIST_CACHE_DIR", str(tmp_path / "cache"))
    assert main(["doctor", "--store", str(tmp_path / "store"), "--json"]) == 0
    (node,) = json.loads(capsys.readouterr().out)["nodes"]
    assert node["processors"] >= 1
    assert node["numerics"]["numerics of sam"] >= 1
    assert node["problems"] == []
    assert "no such folder yet" in node["store"]
    assert "none yet" in node["kernel_cache"]
    assert list(tmp_path.iterdir()) == []  # nothing was made
    (tmp_path / "store").mkdir()
    Store(tmp_path / "store").check_access()
    assert main(["doctor", "--store", str(tmp_path / "store")]) == 0
    shown = capsys.readouterr().out
    assert "can be written and read" in shown
    assert "torch" in shown


def test_credentials_in_a_stores_location_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", "s3://user:secret@bucket/x"]) == 2
    assert "credentials" in capsys.readouterr().err


def test_a_store_that_cannot_be_used_is_a_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from flatdist.errors import StoreError

    def refuse(store: Store) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(Store, "check_access", refuse)
    assert main(["doctor", "--store", str(tmp_path)]) == 1
    assert "PROBLEM       the disk is full" in capsys.readouterr().out


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_every_node_of_a_cluster(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--store", str(tmp_path), "--address", "auto", "--json"]) == 0
    nodes = json.loads(capsys.readouterr().out)["nodes"]
    assert len(nodes) == 2  # the driver, and the one node
    assert nodes[1]["torch"] == nodes[0]["torch"]
