"""What a certificate says, and when it warns."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from flatdist.factorization.geodesics import minimise_along_geodesics
from flatdist.solvers import min_frobenius_norm as frobenius
from flatdist.solvers import min_nuclear_norm as nuclear
from flatdist.solvers._flattest import Point
from flatdist.solvers.constraints import constraints_of
from flatdist.solvers.interior_point import interior_point
from flatdist.solvers.min_frobenius_norm import min_frobenius_norm
from flatdist.solvers.min_hessian_trace import _Search
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.solvers.solution import Certificate, Solution, UncertifiedWarning


def certificate(violation, gap):
    violation = np.asarray(violation, dtype=float)
    return Certificate(violation, np.asarray(gap, dtype=float), np.full(violation.shape, 7))


def test_both_parts_must_hold_and_the_worst_is_kept():
    mixed = certificate([1e-12, 1e-6, 1e-12, 1e-12], [1e-12, 1e-12, 1e-3, np.nan])
    assert mixed.converged.tolist() == [True, False, False, False]
    assert certificate([1e-12, 1e-6], [1e-3, 0.0]).value == 1e-3
    assert np.isnan(mixed.value)


def test_it_reads_as_a_sentence():
    text = str(certificate([1e-12, 1e-6], [1e-10, 2e-9]))
    assert text == (
        "1 of 2 certified to 1e-08: constraint violation at most 1.0e-06, gap at most 2.0e-09, 7 iterations at most"
    )


def test_only_an_uncertified_answer_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Solution(3, certificate(1e-12, 1e-12)).returned("solver", False) == 3
    bad = Solution(3, certificate(1e-12, 1e-2))

    def solver(return_certificate):  # the frame whose caller is to be blamed
        return bad.returned("solver", return_certificate)

    with pytest.warns(UncertifiedWarning, match="solver: 0 of 1 certified") as caught:
        assert solver(False) == 3
    assert caught[0].filename == __file__
    value, proof = solver(True)
    assert (value, proof) == (3, bad.certificate)


def _problem(d_out=4, d_in=5, n=9):
    generator = np.random.default_rng(5)
    measurements = generator.standard_normal((n, d_out, d_in))
    truth = np.outer(generator.standard_normal(d_out), generator.standard_normal(d_in))
    return measurements, np.einsum("iab,ab->i", measurements, truth)


@pytest.mark.parametrize("nearness", [1e-5, 1e-9, 1e-11])
def test_no_certificate_for_an_answer_that_ignores_a_nearly_dependent_measurement(nearness):
    """Its label alone says little; beside its neighbour's it says where the interpolators are."""
    measurements, labels = _problem(n=9)
    truth = np.linalg.lstsq(measurements.reshape(9, -1), labels, rcond=None)[0]  # the smallest interpolator
    measurements[8] = measurements[7] + nearness * measurements[8]
    labels = measurements.reshape(9, -1) @ truth
    assert np.linalg.cond(measurements.reshape(9, -1)) > 0.1 / nearness
    answer, proof = min_frobenius_norm(measurements, labels, return_certificate=True)
    miss = np.linalg.norm(np.asarray(answer).ravel() - truth) / np.linalg.norm(truth)
    assert bool(proof.converged) == (miss < 1e-6)
    assert bool(proof.converged) == (nearness == 1e-5)


def test_violations_are_measured_in_orthonormal_coordinates():
    """A label that alone says where M is, between two nearly equal measurements, counts as much as any other."""
    measurements, _ = _problem(n=6)
    nearly = measurements.copy()
    nearly[5] = nearly[4] + 1e-4 * nearly[5]
    matrix = np.random.default_rng(6).standard_normal((4, 5))
    labels = np.einsum("iab,ab->i", nearly, matrix)
    constraints = constraints_of(torch.tensor(nearly), torch.tensor(labels), "test")
    exact = constraints.project(torch.tensor(matrix))
    assert constraints.violation(exact) < 1e-11
    direction = np.linalg.qr(nearly.reshape(6, -1).T)[0][:, 5].reshape(4, 5)  # seen by the last two's difference
    moved = exact + 1e-3 * torch.tensor(direction)
    smallest = float(torch.linalg.vector_norm(constraints.project(torch.zeros(4, 5, dtype=torch.float64))))
    raw = np.abs(np.einsum("iab,ab->i", nearly, moved.numpy()) - labels).max() / np.linalg.norm(labels)
    assert raw < 1e-6
    assert constraints.violation(moved) == pytest.approx(1e-3 / smallest, rel=1e-4)


def test_conditions_beyond_double_precision_are_not_certified():
    """Labels that rounding has made wrong by much more than they say, at a condition number above 3e8."""
    measurements, labels = _problem(n=5)
    measurements[1] = measurements[0] + 3e-7 * measurements[1]
    labels[1] = labels[0] * (1 + 1e-16)
    for solver in (min_frobenius_norm, min_nuclear_norm):
        matrix, proof = solver(measurements, labels, return_certificate=True)
        miss = np.abs(np.einsum("iab,ab->i", measurements[[0, 1]], matrix.numpy()) - labels[[0, 1]])
        difference = abs(miss[1] - miss[0]) / np.linalg.norm(measurements[1] - measurements[0])
        assert proof.violation >= 0.5 * difference / np.linalg.norm(matrix) or not proof.converged


@pytest.mark.parametrize("name", ["frobenius", "nuclear"])
def test_a_perturbed_answer_has_a_gap(name):
    """An interpolator beside the minimum meets the same constraints; its certificate must see that it is not it."""
    measurements, labels = _problem()
    constraints = constraints_of(torch.tensor(measurements), torch.tensor(labels), "test")
    matrix, proof = (min_frobenius_norm if name == "frobenius" else min_nuclear_norm)(
        measurements, labels, return_certificate=True
    )
    assert proof.gap < 1e-9
    free = torch.tensor(np.linalg.svd(measurements.reshape(9, -1))[2][9:].sum(0).reshape(4, 5))
    moved = matrix + 1e-2 * free
    assert constraints.violation(moved) < 1e-12
    if name == "frobenius":
        excess = float((moved**2).sum() / (matrix**2).sum()) - 1.0
        assert frobenius.judged(constraints, moved).gap == pytest.approx(excess, rel=0.05)
    else:
        multipliers = [iterate.multipliers for iterate in interior_point(constraints)][-1]
        assert nuclear.judged(constraints, matrix, multipliers, 0).gap < 1e-6
        excess = float(torch.linalg.matrix_norm(moved, "nuc") / torch.linalg.matrix_norm(matrix, "nuc")) - 1.0
        assert excess > 1e-6
        assert nuclear.judged(constraints, moved, multipliers, 0).gap >= 0.5 * excess


def test_a_perturbed_flattest_interpolator_has_a_gap():
    measurements, labels = _problem()
    search = _Search(constraints_of(torch.tensor(measurements), torch.tensor(labels), "test"), 3)
    layers = [layer / search.scale ** (1 / 3) for layer in search.answer(None).value]
    free = np.linalg.svd(search.problem.rows)[2][9:].sum(0).reshape(4, 5)
    best = Point(search.problem, layers)
    assert best.stationarity(best.nearest_multipliers()) < 1e-8
    near = minimise_along_geodesics(best.matrix + 1e-2 * free, search.problem.stack, 3)[1]
    moved = Point(search.problem, near)
    assert moved.violation < 1e-10
    assert moved.trace > best.trace
    assert moved.stationarity(moved.nearest_multipliers()) > 1e-4
