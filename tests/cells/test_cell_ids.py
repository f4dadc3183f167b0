"""Identities are promises: results of years ago are found by them.

``cell_ids.json`` lists configurations and the ids they have always had. A changed id means that every stored
result of that cell is lost to its users. If that is meant, raise the method's ``numerics_version``, and add the new
cell id beside the old one: configuration ids stay. A new field is declared with ``added_later=True`` and changes none.
"""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flatdist.cells.cell import FIELDS, Cell
from flatdist.errors import CellError
from flatdist.methods import METHODS

GOLDEN = json.loads((Path(__file__).parent / "cell_ids.json").read_text())
BASE = {"d_out": 12, "d_in": 10, "rank": 2, "n": 80}


@pytest.mark.parametrize("entry", GOLDEN, ids=lambda entry: entry["name"])
def test_golden_ids(entry):
    cell = Cell(**entry["fields"])
    assert cell.configuration_id == entry["configuration_id"]
    assert cell.cell_id == entry["cell_ids"][str(cell.numerics["method"])]


def test_every_method_and_field_has_a_golden_cell():
    assert {entry["fields"].get("method", "label_noise_sgd") for entry in GOLDEN} >= set(METHODS)
    for name in set(FIELDS) - {name for entry in GOLDEN for name in entry["fields"]}:
        cell = Cell(**BASE)
        line = {"name": name, "fields": BASE | {name: "a value that is not the default"},
                "configuration_id": "that cell's configuration_id",
                "cell_ids": {str(cell.numerics["method"]): "that cell's cell_id"}}  # fmt: skip
        pytest.fail(f"add a configuration with {name} to cell_ids.json: {json.dumps(line)}")
    assert len({entry["configuration_id"] for entry in GOLDEN}) == len(GOLDEN)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"width": 12}, {"width": [12, 12]}),
        ({}, {"width": 12}),
        ({}, {"width": (12, 12), "depth": 3}),
        ({"width": np.int64(15)}, {"width": [np.int32(15), 15]}),
        ({"learning_rate": 0.1}, {"learning_rate": 0.1 + 1e-17}),
        ({"learning_rate": 0.3}, {"learning_rate": 0.1 + 0.2}),
        ({"learning_rate": 0.1}, {"learning_rate": np.float64(0.1)}),
        ({"learning_rate": 0.5}, {"learning_rate": np.float32(0.5)}),
        ({"learning_rate": 0.25}, {"learning_rate": Fraction(1, 4)}),
        ({}, {"learning_rate": "auto"}),
        ({"learning_rate": None}, {"learning_rate": "auto"}),
        ({"label_noise_std": 1}, {"label_noise_std": 1.0}),
        ({"label_noise_std": 0.0}, {"label_noise_std": -0.0}),
        ({"batch_size": "full"}, {"batch_size": None}),
        ({"steps": 1000}, {"steps": 1e3}),
        ({"steps": 1000}, {"steps": np.int64(1000)}),
        ({}, {"spectral_tail": 0.0}),
        ({}, {"sam_radius": 0.7}),  # matters to sam alone
        ({"method": "minibatch_sgd"}, {"method": "minibatch_sgd", "label_noise_std": 0.5, "schedule": "constant"}),
        ({"schedule": "constant"}, {"schedule": "constant", "anneal_fraction": 0.5}),
        (
            {"method": "min_nuclear_norm"},
            {"method": "min_nuclear_norm", "learning_rate": 0.1, "depth": 5, "width": 20, "dtype": "float64"},
        ),
        ({"method": "min_hessian_trace"}, {"method": "min_hessian_trace", "steps": 7, "init_scale": 2}),
        ({"method": "flattest_local", "depth": "inf"}, {"method": "flattest_local", "depth": float("inf"), "steps": 7}),
    ],
)
def test_equal_spellings_are_one_cell(one, other):
    assert Cell(**BASE, **one).cell_id == Cell(**BASE, **other).cell_id


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"batch_size": 80}, {"batch_size": "full"}),  # with replacement, and every index once
        ({"width": 12}, {"width": [12, 13]}),
        ({"learning_rate": 0.1}, {"learning_rate": 0.1000001}),
        ({}, {"nested": True}),
        ({}, {"spectral_tail": 0.1}),
        ({}, {"storage": "float16"}),
        ({}, {"method": "minibatch_sgd"}),
        ({"method": "min_nuclear_norm"}, {"method": "min_frobenius_norm"}),
        ({"method": "min_hessian_trace"}, {"method": "min_hessian_trace", "depth": 4}),
    ],
)
def test_different_questions_are_different_cells(one, other):
    assert Cell(**BASE, **one).cell_id != Cell(**BASE, **other).cell_id


def test_the_problems_of_older_cells_are_named_as_they_always_were():
    """A field that is added later must not rename a random stream: its problems would be others."""
    problems = (
        '{"d_in":10,"d_out":12,"ensemble":"gaussian","ground_truth":"unit_frobenius","n":80,"nested":false,'
        '"observation_noise_std":0.0,"rank":2}'
    )
    assert Cell(**BASE).problem_stream() == problems
    assert Cell(**BASE, spectral_tail=0.1).problem_stream() == problems, "tails of one ground truth are paired"
    assert "spectral_tail" not in Cell(**BASE).training_stream()
    assert Cell(**BASE, storage="float16").problem_stream() == problems, "the same draws, rounded"


def test_float16_rows_are_a_sampling_version_of_their_own():
    assert [Cell(**BASE, storage=s).numerics["sampling"] for s in ("exact", "float16")] == [1, 2]
    for ensemble in ("rademacher", "rank_one", "entries"):
        with pytest.raises(CellError, match=f"storage: 'float16' rounds .* {ensemble} .*allowed: exact"):
            Cell(**BASE, storage="float16", ensemble=ensemble)


@pytest.mark.parametrize("tail", [-0.1, 1, 1.5, "much", float("nan")])
def test_spectral_tails_that_no_matrix_has_are_refused(tail):
    with pytest.raises(CellError, match=r"spectral_tail: .*allowed: a number at least 0 and less than 1"):
        Cell(**BASE, spectral_tail=tail)


def test_a_tail_needs_a_rank_below_the_smaller_side():
    with pytest.raises(CellError, match=r"spectral_tail: 0.1 has no room beside a rank of min\(d_out, d_in\) = 10"):
        Cell(**{**BASE, "rank": 10}, spectral_tail=0.1)
    assert Cell(**{**BASE, "rank": 10}, spectral_tail=0).spectral_tail == 0
    with pytest.raises(CellError) as caught:  # one complaint about the rank is enough
        Cell(**{**BASE, "rank": 11}, spectral_tail=0.1)
    assert "spectral_tail" not in str(caught.value)


def test_ids_are_long_enough_and_name_folders():
    cell = Cell(**BASE)
    assert len(cell.cell_id) >= 16
    assert int(cell.cell_id, 16) >= 0
    assert cell.cell_id != cell.configuration_id


def test_a_pickled_cell_holds_its_fields_alone():
    """Ray's thread pickles cells while the driver's asks them for their ids, which are cached beside the fields."""
    cell = Cell(d_out=6, d_in=5, rank=1, n=30, width=[7, 8])
    before = pickle.dumps(cell)
    assert cell.cell_id
    assert pickle.dumps(cell) == before
    assert (pickle.loads(before), pickle.loads(before).cell_id) == (cell, cell.cell_id)
