import numpy as np
import pytest
import torch

from flatdist.cell import Cell
from flatdist.errors import CellError
from flatdist.problems import frobenius_norm, sample_arrays, sample_problem

SHAPE = {"d_out": 7, "d_in": 5, "rank": 2}


def test_labels_are_the_measurements_of_the_ground_truth():
    problem = sample_problem(Cell(**SHAPE, n=30), replicate=4)
    assert problem.measurements.shape == (30, 7, 5)
    assert problem.measurements.dtype == torch.float64
    expected = [float((a * problem.ground_truth).sum()) for a in problem.measurements]
    np.testing.assert_allclose(problem.labels, expected, rtol=1e-12)


@pytest.mark.parametrize("ensemble", ["gaussian", "rademacher"])
def test_entries_have_mean_0_and_variance_1(ensemble):
    entries = sample_arrays(Cell(**SHAPE, n=2000, ensemble=ensemble)).measurements
    assert abs(entries.mean()) < 5 / np.sqrt(entries.size)
    assert abs(entries.var() - 1) < 5 * np.sqrt(2 / entries.size)
    if ensemble == "rademacher":
        assert set(np.unique(entries)) == {-1.0, 1.0}


@pytest.mark.parametrize("ground_truth", ["unit_frobenius", "gaussian_factors", "flat_spectrum"])
def test_ground_truths(ground_truth):
    cells = [Cell(**SHAPE, n=3, ground_truth=ground_truth)]
    spectra = np.array([np.linalg.svd(sample_arrays(cells[0], r).ground_truth, compute_uv=False) for r in range(400)])
    assert spectra[:, 2:].max() < 1e-12, "rank 2"
    squared = np.sum(spectra**2, axis=1)
    if ground_truth == "gaussian_factors":  # E ||U V^T||_F^2 = d_out d_in r
        assert abs(squared.mean() / (7 * 5 * 2) - 1) < 0.2
    else:
        np.testing.assert_allclose(squared, 1, rtol=1e-12)
    if ground_truth == "flat_spectrum":
        np.testing.assert_allclose(spectra[:, 0], spectra[:, 1], rtol=1e-12)


def test_methods_are_paired_on_the_same_problems_and_replicates_are_not():
    first = sample_arrays(Cell(**SHAPE, n=30, method="min_nuclear_norm"), 1)
    second = sample_arrays(Cell(**SHAPE, n=30, method="label_noise_sgd", learning_rate=0.3, depth=4), 1)
    np.testing.assert_array_equal(first.measurements, second.measurements)
    np.testing.assert_array_equal(first.labels, second.labels)
    other = sample_arrays(Cell(**SHAPE, n=30, method="min_nuclear_norm"), 2)
    assert abs(np.corrcoef(first.measurements.ravel(), other.measurements.ravel())[0, 1]) < 0.15


@pytest.mark.parametrize("ensemble", ["gaussian", "rademacher"])
def test_nested_problems_share_their_measurements_and_others_do_not(ensemble):
    small, large = (
        sample_arrays(Cell(**SHAPE, n=n, nested=True, ensemble=ensemble, observation_noise_std=0.1)) for n in (12, 3000)
    )
    np.testing.assert_array_equal(small.measurements, large.measurements[:12])
    np.testing.assert_array_equal(small.labels, large.labels[:12])
    np.testing.assert_array_equal(small.ground_truth, large.ground_truth)
    apart = [sample_arrays(Cell(**SHAPE, n=n)) for n in (12, 13)]
    assert not np.allclose(apart[0].ground_truth, apart[1].ground_truth)


def test_observation_noise_is_in_units_of_the_ground_truth():
    cell = Cell(**SHAPE, n=4000, ground_truth="gaussian_factors", observation_noise_std=0.25)
    problem = sample_arrays(cell)
    noise = problem.labels - np.einsum("iab,ab->i", problem.measurements, problem.ground_truth)
    assert noise.std() / frobenius_norm(problem.ground_truth) == pytest.approx(0.25, rel=0.06)


def test_a_negative_replicate_is_refused():
    with pytest.raises(CellError, match="replicate -1 does not exist"):
        sample_arrays(Cell(**SHAPE, n=3), -1)
