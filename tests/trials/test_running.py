"""What run_cell refuses, and how it says so."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import flatdist
from flatdist.errors import CellError

CELL = {"d_out": 4, "d_in": 4, "rank": 1, "n": 8, "method": "min_frobenius_norm"}


@pytest.mark.parametrize(
    ("replicates", "message"),
    [
        ([0.5], "0.5 is not a whole number; allowed: whole numbers of at least 0, such as range"),
        (["0"], "'0' is not a whole number"),
        (3, r"expected a list of whole numbers \(got 3\)"),
        ("01", r"expected a list of whole numbers \(got '01'\)"),
        ([0, -1], "-1 is negative"),
    ],
)
def test_replicates_that_do_not_exist_are_refused(replicates: Any, message: str) -> None:
    with pytest.raises(CellError, match=message):
        flatdist.run_cell(flatdist.Cell(**CELL), replicates)


def test_numpy_numbers_are_replicates() -> None:
    trials, _ = flatdist.run_cell(flatdist.Cell(**CELL), np.array([2, 1]))
    assert trials["replicate"].tolist() == [1, 2]


def test_unknown_and_missing_fields_are_named_together_with_the_nearest() -> None:
    given = {name: value for name, value in CELL.items() if name != "n"}
    with pytest.raises(CellError) as caught:
        flatdist.Cell(**given, dept=3)
    assert "dept: 3 is given for an unknown field (did you mean 'depth'?)" in str(caught.value)
    assert "n: is required and missing" in str(caught.value)
    with pytest.raises(CellError, match="given by name, as Cell\\(d_out=…, d_in=…, rank=…, n=…\\)"):
        flatdist.Cell(4, 4, 1, 8)  # type: ignore[misc]


def test_a_cell_survives_pickling_and_copying() -> None:
    cell = flatdist.Cell(**CELL)
    assert pickle.loads(pickle.dumps(cell)) == cell == copy.deepcopy(cell)
