"""A sweep in one archive: the same contents make the same hash, and some of its replicates come out again."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from flatdist.cells.cell import Cell
from flatdist.cli import bundle, main
from flatdist.cli.bundle import read_bundle
from flatdist.errors import StoreError
from flatdist.launch.sweeping import keep_diff
from flatdist.store import Store
from flatdist.sweeps import parse_sweep

TEXT = """name: little
replicates: 2
fixed: {d_out: 4, d_in: 5, rank: 1, n: 12, steps: 40, evaluations: 3}
axes: {method: [label_noise_sgd, sam, min_nuclear_norm, min_hessian_trace], batch_size: [full, 5], width: [5, [6, 7]]}
"""


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "little.yaml").write_text(TEXT)
    assert main(["sweep", "little.yaml", "--executor", "inline", "--display", "none", "--no-probe"]) == 0
    return tmp_path


def test_an_archive_holds_all_and_comes_out_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = finished / "figures" / "little"
    figures.mkdir(parents=True)
    (figures / "one.svg").write_text("<svg/>")
    assert main(["bundle", "little"]) == 0
    said = capsys.readouterr().out
    assert main(["bundle", "little", "--out", "again.zip"]) == 0
    assert said.splitlines()[-1] == capsys.readouterr().out.splitlines()[-1]  # the same hash
    contents, _ = read_bundle(finished / "little.zip")
    assert {"sweep.yaml", "trials.parquet", "history.parquet", "versions.txt", "figures/one.svg"} <= contents.keys()
    trials = pd.read_parquet(io.BytesIO(contents["trials.parquet"]))
    cells = {cell.cell_id: cell for cell in parse_sweep(TEXT).cells}
    for row in trials.to_dict("records"):
        assert Cell.from_row({str(k): v for k, v in row.items()}).cell_id == row["cell_id"] in cells
    assert main(["verify", "little.zip", "--replicates", str(len(trials))]) == 0
    assert capsys.readouterr().out.count("agrees to the bit") == len(trials)


def test_what_does_not_agree_is_said(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["bundle", "little"]) == 0
    contents, _ = read_bundle(finished / "little.zip")
    trials = pd.read_parquet(io.BytesIO(contents["trials.parquet"]))
    trials["cpu_features"] = "another processor"

    def verify(factor: float, more: float = 0.0) -> tuple[int, str]:
        monkeypatch.setattr(bundle, "read_bundle", lambda path: (contents | {"trials.parquet": parquet}, "x"))
        frame = trials.assign(population_loss=trials["population_loss"] * factor + more)
        parquet = frame.to_parquet(index=False)
        capsys.readouterr()
        return main(["verify", "little.zip", "--replicates", "2"]), capsys.readouterr().out

    status, said = verify(1 + 5e-5)
    assert (status, said.count("agrees within the tolerance between machines")) == (0, 2)
    status, said = verify(1.0, more=0.01)
    assert status == 1
    assert "tolerances apart" in said


def test_archives_from_strangers_are_refused(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", "little"]) == 0
    (finished / "text.zip").write_text("no archive")
    with zipfile.ZipFile(finished / "little.zip") as old, zipfile.ZipFile(finished / "changed.zip", "w") as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) + (b"#" if name == "sweep.yaml" else b""))
    with zipfile.ZipFile(finished / "future.zip", "w") as new:
        new.writestr("manifest.json", json.dumps({"format": 99, "files": {}}))
    with zipfile.ZipFile(finished / "empty.zip", "w") as new:
        new.writestr("manifest.json", json.dumps({"format": 1, "files": {"../x": "0"}}))
    for name, message in (
        ("text.zip", "is not a bundle of flatdist"),
        ("changed.zip", "sweep.yaml is not what the manifest lists"),
        ("future.zip", "has format 99"),
        ("empty.zip", "is not a bundle"),
        ("none.zip", "cannot be read: No such file"),
    ):
        assert main(["verify", name]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(StoreError):
        read_bundle(finished / "text.zip")


def test_uncommitted_changes_are_kept_with_the_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess
    from types import SimpleNamespace

    from flatdist.machine import provenance

    store = Store(tmp_path)
    monkeypatch.setattr(provenance, "revision", lambda: ("abc", True))
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: SimpleNamespace(stdout="+ token=abcdefghijkl\n"))
    for _ in range(2):
        keep_diff(store, "little")
    (path,) = (tmp_path / "sweeps" / "little" / "diff").iterdir()
    assert path.read_text() == "+ token=***\n"
    monkeypatch.setattr(provenance, "revision", lambda: ("abc", False))
    keep_diff(store, "clean")
    assert not (tmp_path / "sweeps" / "clean").exists()
