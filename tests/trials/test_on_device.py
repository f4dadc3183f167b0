"""Packs on a GPU sample and evaluate there; here the same code runs on the CPU, beside the CPU's own."""

import ctypes
import itertools
import subprocess

import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_stored
from flatdist.engines import cuda
from flatdist.factorization.evaluation import BLOCK, Evaluator
from flatdist.factorization.flatness import sharpness
from flatdist.factorization.products import initial_layers
from flatdist.trials import on_device
from flatdist.trials.learning_rate import flatness_bounds
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
    for (cell, replicate), sampled in zip(work, sample_pack(work, "cuda", "cpu"), strict=True):
        problem = sampled.problem
        for j, layer in enumerate(initial_layers(cell, replicate, sampled.draws)):
            np.testing.assert_allclose(layer, initial_layers(cell, replicate)[j], rtol=0, atol=1e-14)
        expected = sample_stored(cell, replicate, "int8" if ensemble == "rademacher" else "float32")
        assert problem.measurements.array.numpy().dtype == expected.measurements.array.dtype
        np.testing.assert_allclose(problem.measurements.array.numpy(), expected.measurements.array, rtol=1.3e-7)
        np.testing.assert_allclose(problem.labels, expected.labels, rtol=0, atol=1e-14)
        np.testing.assert_array_equal(problem.ground_truth, expected.ground_truth)


def test_a_label_has_the_same_bits_in_any_pack_and_any_block(monkeypatch):
    together = sample_pack(WORK, "cuda", "cpu")
    monkeypatch.setattr(on_device, "BLOCK_ENTRIES", 35 * 3)
    for one, expected in zip(WORK, together, strict=True):
        (alone,) = sample_pack([one], "cuda", "cpu")
        np.testing.assert_array_equal(alone.problem.labels, expected.problem.labels)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 35])
def test_halved_sums_are_sums(size):
    terms = torch.randn(4, size, dtype=torch.float64, generator=torch.Generator().manual_seed(size))
    np.testing.assert_allclose(halved_sums(terms), terms.sum(-1), rtol=0, atol=1e-14)


@pytest.mark.parametrize("depth", [2, 4])
@pytest.mark.parametrize("entries", [2**24, 3000, 10**5], ids=["whole", "one by one", "some together"])
def test_evaluations_are_those_of_each_replicate_alone(monkeypatch, depth, entries):
    monkeypatch.setattr(on_device, "BLOCK_NUMBERS", entries)
    work = [(cell.replace(depth=depth, width=[6, 5, 8][: depth - 1]), replicate) for cell, replicate in WORK]
    problems = [sampled.problem for sampled in sample_pack(work, "cuda", "cpu")]
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
    there = [torch.as_tensor(layer) for layer in last]
    measurements = [sample_stored(*one, "float32").measurements for one in work]
    expected = [sharpness([layer[r] for layer in last], stored) for r, stored in enumerate(measurements)]
    np.testing.assert_allclose(evaluator.sharpness(there), expected, rtol=1e-6)


def test_bounds_behind_automatic_step_sizes_are_the_cpus_and_the_same_bits_in_any_company():
    rng = np.random.default_rng(1)
    for widths in ((5, 5, 5), (5, 6, 8, 7), (4, 9, 3, 3, 6, 4)):
        layers = [rng.standard_normal((11, out, into)) for into, out in itertools.pairwise(widths)]
        together = on_device.flatness_bounds([torch.as_tensor(layer) for layer in layers])
        alone = on_device.flatness_bounds([torch.as_tensor(layer[4:5]) for layer in layers])
        for ours, one, expected in zip(together, alone, flatness_bounds(layers), strict=True):
            np.testing.assert_allclose(ours, expected, rtol=1e-13)
            assert ours[4] == one[0]


@pytest.fixture(scope="module")
def kernels(tmp_path_factory):
    """The kernels of a GPU, compiled as ordinary C++."""
    target = tmp_path_factory.mktemp("pack") / "pack.so"
    command = ["g++", "-std=c++20", "-O1", "-pthread", "-x", "c++", "-shared", "-fPIC", "-o", str(target), "-"]
    text = cuda.source_of(on_device.FILE, {"THREADS": 4, "BLOCKS_PER_SM": 1})
    subprocess.run(command, input=text, text=True, check=True)
    return ctypes.CDLL(str(target))


@pytest.mark.parametrize(("kind", "dtype"), [("normals", "float32"), ("halves", "float32"), ("signs", "int8")])
def test_the_sampling_kernel_draws_what_torch_draws(kernels, kind, dtype):
    owners, steps = (torch.tensor(numbers, dtype=torch.int32) for numbers in ([0, 0, 1, 1, 1], [0, 1, 0, 1, 7]))
    keys = torch.tensor([[1, 2**32 - 5], [2**31 + 3, 9]])
    truths = torch.randn(2, 35, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = torch.empty(5, 35, dtype=getattr(torch, dtype))
    labels = on_device.sample_rows(owners, steps, keys, truths, expected, kind)
    rows, ours = torch.empty_like(expected), torch.empty_like(labels)
    tensors = (owners, steps, keys.to(torch.int32), truths, rows, ours)
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]
    kernels.sample_all(5, *pointers, 35, int(kind == "signs"), int(kind == "halves"), rows.element_size())
    torch.testing.assert_close(rows, expected, rtol=1.3e-7, atol=0)
    torch.testing.assert_close(ours, labels, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (5, 4), (7, 7), (12, 9)])
def test_the_kernels_singular_values_are_lapacks(kernels, rows, columns):
    rng = np.random.default_rng(rows)
    left, right = (
        np.linalg.qr(rng.standard_normal((rows, rows)))[0],
        np.linalg.qr(rng.standard_normal((columns, columns)))[0],
    )
    decays = [np.ones(columns), 10.0 ** -np.arange(columns), 10.0 ** (-3.0 * np.arange(columns)), np.eye(columns)[0]]
    matrices = np.stack([left[:, :columns] * decay @ right for decay in decays] + [np.zeros((rows, columns))])
    ours = np.empty((len(matrices), columns))
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (matrices, ours)]
    kernels.singular_all(len(matrices), *pointers, rows, columns)
    expected = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(-np.sort(-ours), expected, rtol=1e-13, atol=1e-15)


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
