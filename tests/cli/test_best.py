"""Ranking cells by a metric."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import pytest

from flatdist.cli import main
from flatdist.store import Store
from flatdist.sweeps import load_sweep
from flatdist.threshold.median import median_interval


def test_median_intervals_cover() -> None:
    generator = random.Random(5)
    covered = 0
    for _ in range(2000):
        _, low, high, coverage = median_interval([generator.expovariate(1.0) for _ in range(12)])
        covered += low <= math.log(2) <= high
    assert coverage == pytest.approx(0.9614, abs=1e-4)
    assert 0.95 < covered / 2000 < 0.98  # 0.961 exactly: the third smallest and third largest of 12
    assert median_interval([3.0, 1.0, 2.0]) == (2.0, -math.inf, math.inf, 1.0)  # three values bound nothing


def test_ranking(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tuning.yaml"
    path.write_text("fixed: {d_out: 4, d_in: 4, rank: 1, n: 8}\naxes: {learning_rate: [0.1, 0.2, 0.3]}\n")
    cells = load_sweep(path).cells
    errors = [[0.5, 0.6, 0.7], [0.1, 0.3, math.nan], [math.nan, math.nan, 0.01]]
    rows = [
        cell.row() | {"cell_id": cell.cell_id, "replicate": r, "relative_error": error}
        for cell, values in zip(cells, errors, strict=True)
        for r, error in enumerate(values)
    ]
    store = str(tmp_path / "results")
    Store(store).write(rows, [])
    assert main(["best", str(path), "--store", store, "--json"]) == 0
    ranked = json.loads(capsys.readouterr().out)
    assert [entry["fields"]["learning_rate"] for entry in ranked] == [0.2, 0.1, 0.3]
    assert [entry["median"] for entry in ranked] == [0.3, 0.6, None]
    assert main(["best", str(path), "--store", store, "--metric", "relative_eror"]) == 2
    assert "did you mean 'relative_error'" in capsys.readouterr().err
    assert main(["best", str(path), "--store", store, "--where", "relative_error < 0"]) == 2
    assert "nothing to rank" in capsys.readouterr().err
    assert main(["best", str(path), "--store", store]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[1:5] == ["0.2", "0.3", "-inf", "inf"]
