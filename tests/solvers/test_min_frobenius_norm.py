"""Minimum-Frobenius-norm interpolation against its closed form and Theorem 4's law."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_problem
from flatdist.errors import SolverError
from flatdist.solvers.min_frobenius_norm import min_frobenius_norm


@pytest.mark.parametrize(("d_out", "d_in", "n"), [(6, 5, 12), (4, 9, 30), (7, 7, 3)])
def test_relative_errors_follow_theorem_4(d_out, d_in, n):
    """||M - M*||^2 / ||M*||^2 is Beta((D - n) / 2, n / 2) distributed for Gaussian measurements."""
    cell = Cell(d_out=d_out, d_in=d_in, rank=2, n=n, method="min_frobenius_norm")
    errors = []
    for replicate in range(400):
        task = sample_problem(cell, replicate)
        solution = min_frobenius_norm(task.measurements, task.labels)
        errors.append(float(torch.sum((solution - task.ground_truth) ** 2) / torch.sum(task.ground_truth**2)))
    law = scipy.stats.beta((d_out * d_in - n) / 2, n / 2)
    assert scipy.stats.kstest(errors, law.cdf).pvalue > 0.01
    shifted = scipy.stats.beta((d_out * d_in - n) / 2 - 1, n / 2 + 1)  # two measurements more: the test would notice
    assert scipy.stats.kstest(errors, shifted.cdf).pvalue < 0.01


@pytest.mark.parametrize("shape", [(5, 3, 4), (1, 4, 4), (11, 3, 4), (12, 3, 4), (30, 3, 4)])
def test_equals_the_pseudoinverse(shape):
    generator = np.random.default_rng(shape[0])
    measurements = generator.normal(size=shape)
    labels = np.tensordot(measurements, generator.normal(size=shape[1:]), 2)
    solution, certificate = min_frobenius_norm(measurements, labels, return_certificate=True)
    expected = (np.linalg.pinv(measurements.reshape(len(labels), -1)) @ labels).reshape(shape[1:])
    np.testing.assert_allclose(solution, expected, atol=1e-11)
    assert certificate.value < 1e-12


def test_dependent_measurements_equal_the_pseudoinverse_too():
    generator = np.random.default_rng(0)
    measurements = generator.normal(size=(6, 3, 4))
    measurements = np.concatenate([measurements, measurements[:2] + measurements[2:4], np.zeros((1, 3, 4))])
    labels = np.tensordot(measurements, generator.normal(size=(3, 4)), 2)
    solution, certificate = min_frobenius_norm(measurements, labels, return_certificate=True)
    expected = (np.linalg.pinv(measurements.reshape(len(labels), -1)) @ labels).reshape(3, 4)
    np.testing.assert_allclose(solution, expected, atol=1e-11)
    assert certificate.value < 1e-12


def test_infeasible_labels_are_refused():
    generator = np.random.default_rng(0)
    with pytest.raises(SolverError, match=r"min_frobenius_norm: no \(3, 4\) matrix satisfies the 14 constraints"):
        min_frobenius_norm(generator.normal(size=(14, 3, 4)), generator.normal(size=14))


def test_bits_do_not_depend_on_the_batch():
    generator = np.random.default_rng(0)
    measurements, labels = generator.normal(size=(5, 20, 6, 5)), generator.normal(size=(5, 20))
    together = min_frobenius_norm(measurements, labels)
    for index in range(5):
        assert torch.equal(together[index], min_frobenius_norm(measurements[index], labels[index]))


def test_zero_labels_give_zero():
    solution, certificate = min_frobenius_norm(np.ones((2, 3, 3)), np.zeros(2), return_certificate=True)
    assert not solution.any()
    assert certificate.converged
