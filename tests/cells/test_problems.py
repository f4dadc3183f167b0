import numpy as np
import pytest
import torch
from scipy.stats import norm

from flatdist.cells.cell import Cell
from flatdist.cells.problems import frobenius_norm, sample_arrays, sample_problem
from flatdist.errors import CellError

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


def test_float16_measurements_are_the_exact_ones_rounded_and_labels_follow_them():
    exact, rounded = (sample_arrays(Cell(**SHAPE, n=40, storage=storage), 1) for storage in ("exact", "float16"))
    np.testing.assert_array_equal(rounded.measurements, exact.measurements.astype(np.float16).astype(np.float64))
    np.testing.assert_array_equal(rounded.ground_truth, exact.ground_truth)
    assert (rounded.measurements != exact.measurements).mean() > 0.99
    np.testing.assert_allclose(rounded.labels, np.einsum("iab,ab->i", rounded.measurements, rounded.ground_truth))
    assert 1e-5 < abs(rounded.labels - exact.labels).max() < 1e-2


def test_rounding_to_float16_keeps_the_moments_of_a_normal():
    """In closed form, cell by cell of float16: variance and kurtosis are off by less than 1e-6."""
    positive = np.arange(1, 0x4B00, dtype=np.uint16).view(np.float16).astype(np.float64)  # to 14
    numbers = np.concatenate([-positive[::-1], [0.0], positive])
    bounds = (numbers[1:] + numbers[:-1]) / 2
    weights = np.diff(np.concatenate([[0.0], norm.cdf(bounds), [1.0]]))
    second, fourth = (float(weights @ numbers**power) for power in (2, 4))
    assert abs(second - 1) < 1e-7
    assert abs(fourth / second**2 - 3) < 1e-6


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


@pytest.mark.parametrize("ground_truth", ["unit_frobenius", "gaussian_factors", "flat_spectrum"])
def test_a_spectral_tail_is_orthogonal_to_the_low_rank_part(ground_truth):
    fields = {"d_out": 11, "d_in": 8, "rank": 2, "n": 6, "ground_truth": ground_truth}
    plain = sample_arrays(Cell(**fields), 3)
    problem = sample_arrays(Cell(**fields, spectral_tail=0.3), 3)
    np.testing.assert_array_equal(problem.measurements, plain.measurements)
    low_rank, norm = plain.ground_truth, frobenius_norm(plain.ground_truth)
    tail = problem.ground_truth - np.sqrt(1 - 0.3**2) * low_rank
    assert frobenius_norm(problem.ground_truth) == pytest.approx(norm, rel=1e-12)
    assert frobenius_norm(tail) == pytest.approx(0.3 * norm, rel=1e-12)
    np.testing.assert_allclose(low_rank.T @ tail, 0, atol=1e-12 * norm**2)
    np.testing.assert_allclose(tail @ low_rank.T, 0, atol=1e-12 * norm**2)
    # A Gaussian matrix in the complement has all the rank that fits, here 8 - 2.
    assert np.linalg.matrix_rank(tail) == 6
    np.testing.assert_allclose(
        problem.labels, np.einsum("iab,ab->i", problem.measurements, problem.ground_truth), rtol=1e-10
    )


def test_a_small_spectral_tail_leaves_a_gap_after_the_rank():
    for replicate in range(20):
        fields = {"d_out": 12, "d_in": 12, "rank": 2, "n": 1, "ground_truth": "flat_spectrum"}
        problem = sample_arrays(Cell(**fields, spectral_tail=0.1), replicate)
        spectrum = np.linalg.svd(problem.ground_truth, compute_uv=False)
        np.testing.assert_allclose(spectrum[:2], np.sqrt((1 - 0.01) / 2), rtol=1e-12)
        # The rank-2 truncation's error is the tail's share; 10 x 10 Gaussian tails reach 0.1 * 2 / sqrt(10) or so.
        assert np.sum(spectrum[2:] ** 2) == pytest.approx(0.01, rel=1e-10)
        assert 0.04 < spectrum[2] < 0.09


def test_methods_are_paired_on_tails_which_scale_with_their_share_and_differ_between_replicates():
    cells = [
        Cell(**SHAPE, n=9, spectral_tail=share, observation_noise_std=0.1, method=method)
        for share, method in ((0.2, "min_nuclear_norm"), (0.2, "label_noise_sgd"), (0.4, "label_noise_sgd"))
    ]
    first, second, larger = (sample_arrays(cell, 1) for cell in cells)
    np.testing.assert_array_equal(first.ground_truth, second.ground_truth)
    np.testing.assert_array_equal(first.labels, second.labels)
    plain = sample_arrays(Cell(**SHAPE, n=9, observation_noise_std=0.1), 1).ground_truth
    tails = [(p.ground_truth - np.sqrt(1 - t**2) * plain) / t for p, t in ((first, 0.2), (larger, 0.4))]
    np.testing.assert_allclose(*tails, atol=1e-12)
    other = sample_arrays(cells[0], 2).ground_truth
    assert abs(np.vdot(other, first.ground_truth)) < 0.9


def test_observation_noise_is_in_units_of_the_ground_truth():
    cell = Cell(**SHAPE, n=4000, ground_truth="gaussian_factors", observation_noise_std=0.25)
    problem = sample_arrays(cell)
    noise = problem.labels - np.einsum("iab,ab->i", problem.measurements, problem.ground_truth)
    assert noise.std() / frobenius_norm(problem.ground_truth) == pytest.approx(0.25, rel=0.06)


def test_a_negative_replicate_is_refused():
    with pytest.raises(CellError, match="replicate -1 does not exist"):
        sample_arrays(Cell(**SHAPE, n=3), -1)
