"""What a search minimises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from search_fakes import row

from flatdist.cells.cell import Cell
from flatdist.errors import SweepError
from flatdist.store import Store
from flatdist.sweeps.metric import cell_value, parse_metric

CELL = Cell(d_out=4, d_in=4, rank=1, n=12, steps=800, evaluations=5, learning_rate=0.03)


def written(folder: Path, curve: list[float], squared_norm: float, **values: Any) -> Store:
    store, key = Store(folder), {"cell_id": CELL.cell_id, "replicate": 0}
    history = [key | {"step": 200 * i, "population_loss": error * squared_norm} for i, error in enumerate(curve)]
    results = {"population_loss": curve[-1] * squared_norm, "relative_error": curve[-1]}
    store.write([row(CELL, 0, **results | values)], history)
    return store


def test_steps_to_an_error_relative_to_the_ground_truth(tmp_path: Path) -> None:
    store = written(tmp_path, [1.0, 0.3, 0.05, 0.2, 0.02], squared_norm=9.0)
    for target, steps in ((0.5, 200), (0.1, 400), (0.04, 800)):
        assert parse_metric(f"steps_to={target}").values(store, [CELL.cell_id]) == {CELL.cell_id: {0: steps}}


def test_what_never_gets_there_is_infinite_and_guides_by_how_close_it_came(tmp_path: Path) -> None:
    metric = parse_metric("steps_to=0.01")
    near, far = written(tmp_path / "near", [1.0, 0.02], 1.0), written(tmp_path / "far", [1.0, 0.1], 1.0)
    assert metric.values(near, [CELL.cell_id])[CELL.cell_id][0] == math.inf
    guides = [metric.values(store, [CELL.cell_id], guide=True)[CELL.cell_id][0] for store in (near, far)]
    assert guides == pytest.approx([800 * (1 + math.log10(2)), 1600])
    diverged = written(tmp_path / "diverged", [1.0, 0.001], 1.0, status="diverged")
    assert metric.values(diverged, [CELL.cell_id], guide=True)[CELL.cell_id][0] == math.inf


def test_a_cell_is_the_median_of_its_replicates() -> None:
    assert cell_value({0: 1.0, 1: 5.0, 2: 2.0}, range(3), math.inf) == 2.0
    assert cell_value({0: 1.0, 1: math.nan}, range(3), math.inf) == math.inf  # one diverged, one failed
    assert cell_value({0: 1.0, 1: 3.0}, range(3), -math.inf) == 1.0


def test_metrics_by_name() -> None:
    assert parse_metric("steps_to = 1e-3").text == "steps_to=0.001"
    assert parse_metric("train_loss").rung_column == "train_loss"
    assert parse_metric("wall_seconds").rung_column is None
    for text, message in (("train_los", "did you mean 'train_loss'"), ("steps_to=-1", "needs a relative error"),
                          ("train_loss=3", "is not a metric"), (None, "is not a metric")):  # fmt: skip
        with pytest.raises(SweepError, match=message):
            parse_metric(text)
