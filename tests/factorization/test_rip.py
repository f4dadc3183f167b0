from __future__ import annotations

import numpy as np
import pytest

from flatdist.errors import SolverError
from flatdist.factorization.isometry import isometry_bounds


def deviation(measurements, matrix):
    return abs(np.mean(np.einsum("iab,ab->i", measurements, matrix) ** 2) / np.square(matrix).sum() - 1.0)


@pytest.mark.parametrize("rank", [1, 2])
def test_the_witness_has_the_rank_and_the_deviation(rank):
    measurements = np.random.default_rng(0).normal(size=(60, 4, 5))
    bounds = isometry_bounds(measurements, rank)
    witness = bounds.witness
    assert np.linalg.norm(witness) == pytest.approx(1.0)
    assert np.linalg.svd(witness)[1][rank:].max() < 1e-12
    assert deviation(measurements, witness) == pytest.approx(bounds.lower, rel=1e-10)


def test_the_lower_bound_is_the_maximum_on_a_fine_grid():
    """Rank-one matrices of shape (2, 2) are two angles: the maximum can be found by trying them all."""
    measurements = np.random.default_rng(1).normal(size=(12, 2, 2))
    angles = np.linspace(0, np.pi, 361)
    circle = np.stack((np.cos(angles), np.sin(angles)), 1)
    forms = np.mean(np.einsum("iab,pa,qb->ipq", measurements, circle, circle) ** 2, 0)
    grid = np.abs(forms - 1.0).max()
    bounds = isometry_bounds(measurements, 1)
    assert grid <= bounds.lower <= grid * (1 + 1e-3)


def test_at_full_rank_both_bounds_meet():
    measurements = np.random.default_rng(2).normal(size=(40, 3, 4))
    bounds = isometry_bounds(measurements, 3)
    assert bounds.lower == pytest.approx(bounds.upper, rel=1e-9)


def test_bounds_are_ordered_by_rank_and_bracket_random_matrices():
    generator = np.random.default_rng(3)
    measurements = generator.normal(size=(400, 4, 4))
    one, two = isometry_bounds(measurements, 1), isometry_bounds(measurements, 2)
    assert one.lower <= two.lower <= two.upper
    assert one.upper == two.upper
    for rank, bounds in ((1, one), (2, two)):
        tried = [
            deviation(measurements, generator.normal(size=(4, rank)) @ generator.normal(size=(rank, 4)))
            for _ in range(200)
        ]
        assert max(tried) <= bounds.lower


def test_the_constants_shrink_like_the_root_of_n():
    generator = np.random.default_rng(4)
    measurements = generator.normal(size=(6400, 5, 5))
    few, many = isometry_bounds(measurements[:400], 1), isometry_bounds(measurements, 1)
    assert few.lower / many.lower == pytest.approx(4.0, rel=0.35)


def test_an_isometry_has_constant_zero_and_few_measurements_at_least_one():
    isometry = 3.0 * np.eye(9).reshape(9, 3, 3)
    assert isometry_bounds(isometry, 2).upper < 1e-12
    assert isometry_bounds(np.random.default_rng(5).normal(size=(5, 3, 3)), 1).upper >= 1.0


def test_bad_input_has_one_clear_message():
    with pytest.raises(SolverError, match="rank is 4; matrices of shape"):
        isometry_bounds(np.ones((2, 3, 5)), 4)
    with pytest.raises(SolverError, match=r"give \(n, d_out, d_in\)"):
        isometry_bounds(np.ones((3, 5)), 1)
