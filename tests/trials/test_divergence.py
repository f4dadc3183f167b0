"""What a diverging replicate's row says, alone and beside others, and what the largest loss of a training is."""

import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.trials.settings import Hooks, RunSettings
from flatdist.trials.train import train

EDGE = {"d_out": 4, "d_in": 5, "rank": 1, "n": 12, "steps": 3000, "evaluations": 9, "batch_size": 4}


def results(cell, replicates, engine):
    produced = train(cell, replicates, RunSettings(engine=engine), Hooks())
    return {replicate: (row | {"wall_seconds": 0.0}, history) for replicate, row, history in produced}


@pytest.mark.parametrize("engine", ["batched", "fused"])
def test_a_diverged_row_does_not_depend_on_its_company(engine):
    cell = Cell(**EDGE, learning_rate=0.1)
    packed = results(cell, range(6), engine)
    statuses = [row["status"] for row, _ in packed.values()]
    assert 0 < statuses.count("diverged") < 6
    for replicate in range(6):
        assert results(cell, [replicate], engine)[replicate] == packed[replicate]


def test_an_automatic_step_size_stays_what_it_was_at_divergence(monkeypatch):
    import flatdist.trials.learning_rate as run

    cell = Cell(**EDGE | {"steps": 600})
    scale = np.sqrt(np.mean(sample_arrays(cell, 0).labels ** 2))
    estimate = run.stable_learning_rate

    def too_long_for_replicate_0(layers, *, label_scale, **known):
        return estimate(layers, label_scale=label_scale, **known) * np.where(label_scale == scale, 100.0, 1.0)

    monkeypatch.setattr(run, "stable_learning_rate", too_long_for_replicate_0)
    packed, alone = results(cell, [0, 1], "fused"), results(cell, [0], "fused")
    assert [packed[replicate][0]["status"] == "diverged" for replicate in (0, 1)] == [True, False]
    assert packed[0][0]["learning_rate_final"] > 0
    assert alone[0] == packed[0]


def test_the_largest_loss_is_that_of_the_whole_training():
    row, history = results(Cell(**EDGE, learning_rate=0.02), [0], "fused")[0]
    largest = [entry["train_loss_max"] for entry in history[1:]]
    assert row["train_loss_max"] == max(largest)
    assert row["train_loss_max"] > largest[-1]


def test_no_largest_loss_where_the_loss_was_not_finite():
    row, history = results(Cell(**EDGE, learning_rate=5.0), [0], "fused")[0]
    assert row["status"] == "diverged"
    assert row["train_loss_max"] is None
    assert row["hessian_trace"] is None
    assert history[-1]["train_loss_max"] is None
