"""The run on a GPU goes through without one, and finds its engines right."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_gpu_benchmark_runs_through_on_a_cpu(tmp_path):
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--quick", "--out", str(tmp_path)]
    interpreted = os.environ | {"TRITON_INTERPRET": "1"}
    ended = subprocess.run(command, cwd=ROOT, env=interpreted, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert all(distance < 3e-6 for row in found["correct"].values() for distance in row.values())
    assert len(found["correct"]) == 4
    assert all(same for row in found["bits"].values() for same in row.values())
    assert all(row["NaN stays"] and row["neighbour same"] for row in found["sessions"].values())
    assert {row["seconds"] > 0 for row in found["whole"].values()} == {True}
