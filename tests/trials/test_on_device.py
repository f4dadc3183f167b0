"""Packs on a GPU sample and evaluate there; here the same code runs on the CPU, beside the CPU's own."""

import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_stored
from flatdist.factorization.evaluation import BLOCK, Evaluator
from flatdist.factorization.flatness import sharpness
from flatdist.factorization.products import initial_layers
from flatdist.trials import on_device
from flatdist.trials.on_device import PackEvaluator, halved_sums, sample_pack
from flatdist.trials.run import run_pack, run_replicates
from flatdist.trials.settings import RunSettings

SHAPE = {"d_out": 7, "d_in": 5, "depth": 4, "width": [6, 5, 8]}
CELLS = [
    Cell(**SHAPE, rank=1, n=20),
    Cell(**SHAPE, rank=2, n=20, observation_noise_std=0.2, nested=True),
    Cell(**SHAPE, rank=1, n=2),
]
WORK = [(cell, replicate) for cell in CELLS for replicate in (0, 3)]
KINDS = [("gaussian", "exact"), ("rademacher", "exact"), ("gaussian", "float16")]


@pytest.mark.parametrize(("ensemble", "storage"), KINDS)
def test_problems_are_those_of_the_cpu_to_the_last_bits(ensemble, storage):
    work = [(cell.replace(ensemble=ensemble, storage=storage), replicate) for cell, replicate in WORK]
    for (cell, replicate), problem in zip(work, sample_pack(work, "cuda", "cpu"), strict=True):
        expected = sample_stored(cell, replicate, "int8" if ensemble == "rademacher" else "float32")
        assert problem.measurements.array.numpy().dtype == expected.measurements.array.dtype
        np.testing.assert_allclose(problem.measurements.array.numpy(), expected.measurements.array, rtol=1.3e-7)
        np.testing.assert_allclose(problem.labels, expected.labels, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(problem.ground_truth, expected.ground_truth)


def test_a_label_has_the_same_bits_in_any_pack_and_any_block(monkeypatch):
    together = sample_pack(WORK, "cuda", "cpu")
    monkeypatch.setattr(on_device, "BLOCK_ENTRIES", 8 * 35 * 3)
    for one, expected in zip(WORK, together, strict=True):
        np.testing.assert_array_equal(sample_pack([one], "cuda", "cpu")[0].labels, expected.labels)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 35])
def test_halved_sums_are_sums(size):
    terms = torch.randn(4, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    np.testing.assert_allclose(halved_sums(terms), terms.sum(-1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("entries", [2**24, 500], ids=["whole", "in blocks"])
def test_evaluations_are_those_of_each_replicate_alone(monkeypatch, depth, entries):
    monkeypatch.setattr(on_device, "BLOCK_ENTRIES", entries)
    work = [(cell.replace(depth=depth, width=[6, 5, 8][: depth - 1]), replicate) for cell, replicate in WORK]
    problems = sample_pack(work, "cuda", "cpu")
    rng = np.random.default_rng(0)
    starts = [initial_layers(*one) for one in work]
    layers = [
        np.stack([[start[j] + 0.1 * rng.standard_normal(start[j].shape) for _ in range(BLOCK)] for start in starts])
        for j in range(depth)
    ]
    layers[0][1, 2] = np.inf
    wanted = rng.random((len(work), BLOCK)) < 0.5
    evaluator = PackEvaluator(problems, "float64", "cpu")
    ours = evaluator([torch.as_tensor(layer) for layer in layers], wanted)
    for r, (cell, replicate) in enumerate(work):
        alone = Evaluator(sample_stored(cell, replicate, "float32"), depth, 64, "float64")
        with np.errstate(invalid="ignore"):
            expected = alone([layer[r] for layer in layers], wanted[r])
        for name, values in expected.items():
            np.testing.assert_allclose(ours[name][r], values, rtol=1e-6, err_msg=name)
    last = [layer[:, -1] for layer in layers]
    measurements = [sample_stored(*one, "float32").measurements for one in work]
    expected = [sharpness([layer[r] for layer in last], stored) for r, stored in enumerate(measurements)]
    np.testing.assert_allclose(evaluator.sharpness(last), expected, rtol=1e-6)


def test_a_pack_trained_and_evaluated_on_its_device_has_the_rows_of_the_cpu():
    pytest.importorskip("triton")
    fields = {"d_out": 4, "d_in": 4, "rank": 1, "steps": 12, "evaluations": 4, "batch_size": 5}
    cells = [Cell(**fields, n=n) for n in (6, 9)]
    together = {
        (one.trial["cell_id"], one.trial["replicate"]): one
        for one in run_pack([(cell, [0, 2]) for cell in cells], RunSettings(engine="triton"))
    }
    assert len(together) == 4
    for cell in cells:
        for expected in run_replicates(cell, [0, 2], RunSettings(engine="fused")):
            ours = together[cell.cell_id, expected.trial["replicate"]]
            assert ours.trial["status"] == expected.trial["status"]
            for name in ("train_loss", "population_loss", "nuclear_norm", "hessian_trace", "sharpness"):
                assert ours.trial[name] == pytest.approx(expected.trial[name], rel=1e-4)
            for row, other in zip(ours.history, expected.history, strict=True):
                for name, value in other.items():
                    assert row[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value), name
