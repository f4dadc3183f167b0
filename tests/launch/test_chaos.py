"""The short version of ``tests/launch/chaos.py``: one fault of each kind."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

SCRIPT = Path(__file__).with_name("chaos.py")


@pytest.fixture(scope="module")
def chaos() -> ModuleType:
    spec = importlib.util.spec_from_file_location("chaos", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def torment(tmp_path: Path, storm: str, kinds: str, *more: str) -> None:
    words = [sys.executable, str(SCRIPT), "--faults", storm, "--kinds", kinds, "--folder", str(tmp_path), *more]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    logs = "\n".join(path.read_text() for path in [*tmp_path.glob("*.log"), *tmp_path.glob("*.txt")])
    assert ended.returncode == 0, ended.stdout + ended.stderr + logs
    counted = ", ".join(f"{kinds.split(',').count(kind)} x {kind}" for kind in sorted({*kinds.split(",")}))
    assert f"{storm}: {counted}" in ended.stdout
    assert "every result column equal: True" in ended.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("storm", "kinds"),
    [("folder", "kill,stop,clock,full,read-only"), ("s3", "error,lost,cut,short,slow")],
)
def test_drivers_that_share_a_sweep_outlive_faults_of_each_kind(tmp_path: Path, storm: str, kinds: str) -> None:
    torment(tmp_path, storm, kinds, "--cells", "6", "--steps", "10000")


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_that_is_killed_piece_by_piece_leaves_the_results_of_an_undisturbed_run(tmp_path: Path) -> None:
    torment(tmp_path, "ray", "driver,node", "--cells", "5", "--steps", "150000", "--interval", "0.1")


def test_the_comparison_sees_what_is_missing_twice_or_different(chaos: ModuleType) -> None:
    table = pd.DataFrame({"cell_id": ["a", "a", "b"], "replicate": [0, 1, 0], "train_loss": [0.1, None, 0.3]})
    assert chaos.differences(table.copy(), table) == []
    assert "instead of 3" in chaos.differences(table[:2], table)[0]
    twice = pd.concat([table, table[:1]], ignore_index=True)
    assert chaos.differences(twice, table)[0] == "1 keys are there twice"
    other = table.assign(train_loss=[0.1, None, 0.3000000000000001])
    assert chaos.differences(other, table) == ["column train_loss differs in 1 rows"]
