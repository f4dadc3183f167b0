from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.trials.run import run_replicates

FIELDS = {"d_out": 3, "d_in": 4, "rank": 1, "n": 8, "depth": 3}


def test_the_flow_ends_at_the_flattest_interpolator_and_stays_at_zero_loss():
    cell = Cell(method="flow_limit", flow_duration=20.0, evaluations=5, init_scale=1.0, **FIELDS)
    (outcome,) = run_replicates(cell, [0])
    history = outcome.history
    assert [row["step"] for row in history] == [0, 1, 2, 3, 4]
    assert np.allclose([row["flow_time"] for row in history], [0, 5, 10, 15, 20])
    traces = [row["hessian_trace"] for row in history]
    assert all(later < earlier * (1 + 1e-9) for earlier, later in pairwise(traces))
    assert max(row["train_loss"] for row in history) < 1e-16
    assert outcome.trial["certificate"] < 1e-8
    (flattest,) = run_replicates(Cell(method="min_hessian_trace", **FIELDS), [0])
    assert traces[-1] == pytest.approx(flattest.trial["hessian_trace"], rel=1e-3)


def test_only_the_flow_depends_on_its_duration():
    assert Cell(flow_duration=2.0, **FIELDS).cell_id == Cell(**FIELDS).cell_id
    one, other = (Cell(method="flow_limit", flow_duration=duration, **FIELDS) for duration in (1.0, 2.0))
    assert one.cell_id != other.cell_id
