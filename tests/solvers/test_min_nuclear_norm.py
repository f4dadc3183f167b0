"""Minimum-nuclear-norm interpolation against closed forms, an independent solver and its own certificate."""

from __future__ import annotations

import warnings

import cvxpy
import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_problem
from flatdist.errors import SolverError
from flatdist.solvers import min_nuclear_norm as module
from flatdist.solvers.constraints import constraints_of
from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.solvers.solution import TOLERANCE, UncertifiedWarning


def problem(d_out, d_in, rank, n, replicate=0, **fields):
    return sample_problem(Cell(d_out=d_out, d_in=d_in, rank=rank, n=n, method="min_nuclear_norm", **fields), replicate)


def relative_error(matrix, truth):
    return float(torch.linalg.norm(matrix - truth) / torch.linalg.norm(truth))


def independent_solution(measurements, labels):
    """CVXPY's answer by CLARABEL, at the end of what rounding lets it reach."""
    _, d_out, d_in = measurements.shape
    matrix = cvxpy.Variable((d_out, d_in))
    rows = measurements.reshape(len(labels), -1)
    task = cvxpy.Problem(cvxpy.Minimize(cvxpy.normNuc(matrix)), [rows @ cvxpy.vec(matrix, order="C") == labels])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Solution may be inaccurate")  # it is judged by the comparison
        task.solve(solver="CLARABEL", tol_gap_abs=1e-14, tol_gap_rel=1e-14, tol_feas=1e-14)
    return matrix.value


@pytest.mark.parametrize(
    ("d_out", "d_in", "n"), [(3, 7, 5), (7, 3, 12), (6, 5, 29), (6, 6, 20), (4, 4, 1), (5, 4, 13), (1, 5, 3), (2, 2, 3)]
)
def test_agrees_with_an_independent_solver(d_out, d_in, n):
    generator = np.random.default_rng(n)
    measurements, labels = generator.normal(size=(n, d_out, d_in)), generator.normal(size=n)
    solution, certificate = min_nuclear_norm(measurements, labels, return_certificate=True)
    theirs = independent_solution(measurements, labels)
    assert certificate.converged
    assert np.linalg.norm(solution.numpy() - theirs) <= 1e-6 * np.linalg.norm(theirs)


@pytest.mark.parametrize("ensemble", ["gaussian", "rademacher"])
@pytest.mark.parametrize(
    ("d_out", "d_in", "rank", "n"),
    [(12, 12, 1, 80), (12, 12, 3, 125), (20, 20, 2, 180), (10, 25, 2, 190), (9, 5, 1, 36)],
)
def test_recovers_the_ground_truth_above_the_transition(d_out, d_in, rank, n, ensemble):
    for replicate in range(4):
        task = problem(d_out, d_in, rank, n, replicate, ensemble=ensemble)
        solution, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
        assert certificate.value < 1e-11
        assert relative_error(solution, task.ground_truth) < 1e-11


def test_near_the_transition_every_answer_is_certified_and_recovery_is_all_or_nothing():
    recovered = 0
    for replicate in range(40):
        task = problem(12, 12, 1, 44, replicate)  # the statistical dimension is 44.6
        solution, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
        assert certificate.value < 1e-9
        error = relative_error(solution, task.ground_truth)
        assert error < 1e-9 or error > 1e-4
        recovered += error < 1e-9
        assert torch.linalg.matrix_norm(solution, "nuc") <= torch.linalg.matrix_norm(task.ground_truth, "nuc") + 1e-9
    assert 8 <= recovered <= 32


def test_one_measurement_has_a_closed_form():
    generator = torch.Generator().manual_seed(1)
    measurement = torch.randn(5, 8, generator=generator, dtype=torch.float64)
    left, spectrum, right = torch.linalg.svd(measurement)
    solution = min_nuclear_norm(measurement[None], torch.tensor([-2.0], dtype=torch.float64))
    torch.testing.assert_close(solution, -2 / spectrum[0] * torch.outer(left[:, 0], right[0]), rtol=0, atol=1e-12)


def test_diagonal_measurements_reduce_to_basis_pursuit():
    """Diagonal A_i see the diagonal only, where the nuclear norm is the l1 norm: a linear program."""
    generator = np.random.default_rng(5)
    rows = generator.normal(size=(4, 6))
    truth = np.array([0.0, 2.0, 0.0, 0.0, -1.0, 0.0])
    labels = rows @ truth
    entries = cvxpy.Variable(6)
    cvxpy.Problem(cvxpy.Minimize(cvxpy.norm1(entries)), [rows @ entries == labels]).solve(solver="CLARABEL")
    solution, certificate = min_nuclear_norm(np.stack([np.diag(row) for row in rows]), labels, return_certificate=True)
    assert certificate.converged
    np.testing.assert_allclose(np.diag(solution), entries.value, atol=1e-6)
    assert np.abs(solution.numpy() - np.diag(np.diag(solution))).max() < 1e-7


@pytest.mark.parametrize("n", [12, 15, 40])
def test_determined_measurements_give_the_one_interpolator(n):
    generator = torch.Generator().manual_seed(n)
    measurements = torch.randn(n, 3, 4, generator=generator, dtype=torch.float64)
    truth = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    labels = torch.einsum("nab,ab->n", measurements, truth)
    solution, certificate = min_nuclear_norm(measurements, labels, return_certificate=True)
    assert certificate.value < 1e-11
    torch.testing.assert_close(solution, truth, rtol=0, atol=1e-11)


def test_dependent_measurements_with_agreeing_labels_are_one_problem():
    task = problem(8, 6, 1, 30)
    doubled = torch.cat((task.measurements, task.measurements[:5] - 2 * task.measurements[5:10]))
    labels = torch.cat((task.labels, task.labels[:5] - 2 * task.labels[5:10]))
    order = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    solution, certificate = min_nuclear_norm(doubled[order], labels[order], return_certificate=True)
    assert certificate.value < 1e-11
    alone = min_nuclear_norm(task.measurements, task.labels)
    torch.testing.assert_close(solution, alone, rtol=0, atol=1e-10)


def test_dependent_measurements_with_disagreeing_labels_are_refused():
    task = problem(8, 6, 1, 10)
    measurements = torch.cat((task.measurements, task.measurements[:1]))
    labels = torch.cat((task.labels, task.labels[:1] + 0.5))
    with pytest.raises(SolverError, match=r"no \(8, 6\) matrix satisfies the 11 constraints .* rank 10"):
        min_nuclear_norm(measurements, labels)


def test_noisy_labels_of_too_many_measurements_are_refused():
    task = problem(4, 4, 1, 20, observation_noise_std=0.1)
    with pytest.raises(SolverError, match=r"rank 16.*observation noise"):
        min_nuclear_norm(task.measurements, task.labels)


def test_zero_labels_give_zero():
    task = problem(4, 5, 1, 7)
    solution, certificate = min_nuclear_norm(task.measurements, 0 * task.labels, return_certificate=True)
    assert not solution.any()
    assert certificate.value == 0.0


def test_zero_measurements_with_labels_are_refused():
    with pytest.raises(SolverError, match="rank 0"):
        min_nuclear_norm(np.zeros((3, 2, 2)), np.ones(3))


@pytest.mark.parametrize("scale", [1e-150, 1e-8, 1e8, 1e150])
def test_the_answer_scales_with_the_labels_and_the_certificate_does_not(scale):
    task = problem(6, 6, 1, 16)
    solution = min_nuclear_norm(task.measurements, task.labels)
    scaled, certificate = min_nuclear_norm(task.measurements, scale * task.labels, return_certificate=True)
    assert certificate.converged
    torch.testing.assert_close(scaled / scale, solution, rtol=0, atol=1e-9)


def test_measurements_of_very_different_sizes():
    task = problem(6, 6, 1, 28)
    sizes = torch.logspace(-4, 4, 28, dtype=torch.float64)
    solution, certificate = min_nuclear_norm(
        task.measurements * sizes[:, None, None], task.labels * sizes, return_certificate=True
    )
    assert certificate.converged
    assert relative_error(solution, task.ground_truth) < 1e-6


@pytest.mark.parametrize(("n", "rank"), [(520, 2), (520, 8), (520, 23), (620, 2)])
def test_many_measurements_are_solved_without_their_gram_matrix_or_with_it(n, rank, monkeypatch):
    task = problem(24, 25, rank, n)
    solution, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
    monkeypatch.setattr(module, "_MANY", 10**9)
    with_gram, other = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
    assert max(certificate.value, other.value) < 1e-9
    torch.testing.assert_close(solution, with_gram, rtol=0, atol=1e-9)
    assert (relative_error(solution, task.ground_truth) < 1e-9) == (rank < 10)


def test_many_measurements_with_noise_are_refused_where_no_interpolator_exists():
    task = problem(20, 25, 1, 530, observation_noise_std=1e-3)
    with pytest.raises(SolverError, match=r"no .* matrix satisfies the 530 constraints"):
        min_nuclear_norm(task.measurements, task.labels)


@pytest.mark.parametrize("n", [20, 28, 40])
def test_the_interior_point_alone_gives_the_same_answer(n, monkeypatch):
    tasks = [problem(8, 9, 1, n, replicate) for replicate in range(5)]
    answers = [min_nuclear_norm(task.measurements, task.labels) for task in tasks]
    monkeypatch.setattr(module, "pursue", lambda constraints: (None, 0))
    for task, answer in zip(tasks, answers, strict=True):
        solution, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
        assert certificate.value < 1e-9
        torch.testing.assert_close(solution, answer, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n", [12, 30])
def test_turning_and_transposing_the_problem_turns_and_transposes_the_answer(n):
    task = problem(5, 8, 1, n)
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64))[0]
    solution = min_nuclear_norm(task.measurements, task.labels)
    turned = min_nuclear_norm((left @ task.measurements @ right).transpose(1, 2), task.labels)
    torch.testing.assert_close(turned, (left @ solution @ right).T, rtol=0, atol=1e-9)


def test_a_worse_answer_has_a_larger_gap():
    task = problem(8, 8, 1, 26)  # below the transition: many interpolators
    measurements, labels = task.measurements, task.labels
    constraints = constraints_of(measurements, labels, "test")
    solution, certificate = min_nuclear_norm(measurements, labels, return_certificate=True)
    generator = torch.Generator().manual_seed(0)
    gaps = [float(certificate.gap)]
    for size in (1e-3, 1e-2, 1e-1):
        moved = constraints.project(solution + size * torch.randn(8, 8, generator=generator, dtype=torch.float64))
        excess = torch.linalg.matrix_norm(moved, "nuc") / torch.linalg.matrix_norm(solution, "nuc") - 1
        gaps.append(float(excess))  # every interpolator's nuclear norm exceeds the certified one
        assert constraints.violation(moved) < 1e-12
    assert gaps == sorted(gaps)
    assert gaps[0] < 1e-11
    assert gaps[1] > 1e-8
    least = constraints.project(torch.zeros(8, 8, dtype=torch.float64))
    multipliers = torch.zeros(26, dtype=torch.float64)
    assert module.judged(constraints, least, multipliers, 0).gap == 1.0  # y = 0 proves nothing
    assert module.judged(constraints, least, 1e6 * torch.ones(26, dtype=torch.float64), 0).gap > 0.01


def test_bits_do_not_depend_on_the_batch_or_on_threads():
    tasks = [problem(7, 9, 1, 30, replicate) for replicate in range(6)]
    measurements = torch.stack([task.measurements for task in tasks])
    labels = torch.stack([task.labels for task in tasks])
    alone = [min_nuclear_norm(task.measurements, task.labels) for task in tasks]
    before = torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            together, certificate = min_nuclear_norm(
                measurements.reshape(2, 3, 30, 7, 9), labels.reshape(2, 3, 30), return_certificate=True
            )
            assert torch.get_num_threads() == threads
        finally:
            torch.set_num_threads(before)
        assert together.shape == (2, 3, 7, 9)
        assert certificate.gap.shape == (2, 3)
        for index in range(6):
            assert torch.equal(together.reshape(6, 7, 9)[index], alone[index])
    odd = min_nuclear_norm(measurements[1:4].numpy(), labels[1:4].numpy())
    assert torch.equal(odd, torch.stack(alone[1:4]))


def test_an_empty_batch_is_an_empty_answer():
    solution, certificate = min_nuclear_norm(np.zeros((0, 3, 2, 2)), np.zeros((0, 3)), return_certificate=True)
    assert solution.shape == (0, 2, 2)
    assert certificate.value == 0.0


def test_an_uncertified_answer_warns_unless_its_certificate_is_taken(monkeypatch):
    task = problem(8, 8, 1, 14)
    few = module.interior_point
    monkeypatch.setattr(module, "interior_point", lambda constraints: iter(list(few(constraints))[:2]))
    with pytest.warns(UncertifiedWarning, match="min_nuclear_norm: 0 of 1 certified"):
        min_nuclear_norm(task.measurements, task.labels)
    _, certificate = min_nuclear_norm(task.measurements, task.labels, return_certificate=True)
    assert not certificate.converged
    assert certificate.value > TOLERANCE


@pytest.mark.parametrize("noise", [1e-3, 1e-5, 1e-7, 1e-9])
def test_labels_next_to_those_of_a_low_rank_matrix(noise):
    """The hardest labels: single-precision rounding, say, hides the rank without changing the answer much."""
    generator = torch.Generator().manual_seed(0)
    for n in (60, 80):
        task = problem(12, 12, 1, n, 1)
        wrong = noise * task.labels.std() * torch.randn(n, generator=generator, dtype=torch.float64)
        solution, certificate = min_nuclear_norm(task.measurements, task.labels + wrong, return_certificate=True)
        assert certificate.violation < 1e-13
        assert certificate.value < 1e-6
        assert relative_error(solution, task.ground_truth) < 30 * noise


def test_float32_input_is_solved_in_float64():
    task = problem(6, 6, 1, 28)
    solution, _ = min_nuclear_norm(task.measurements.float(), task.labels.float(), return_certificate=True)
    assert solution.dtype == torch.float64
    assert relative_error(solution, task.ground_truth) < 1e-5


@pytest.mark.parametrize(
    ("measurements", "labels", "message"),
    [
        (np.ones((3, 2, 2)), np.ones(4), r"measurements of shape \(3, 2, 2\) and labels of shape \(4,\) do not fit"),
        (np.ones((2, 2)), np.ones(2), "do not fit"),
        (np.ones((0, 2, 2)), np.ones(0), "must be at least 1"),
        (np.full((3, 2, 2), np.nan), np.ones(3), r"measurements\[0, 0, 0\] is nan"),
        (np.ones((3, 2, 2)), np.array([1, np.inf, 1]), r"labels\[1\] is inf"),
        (np.ones((3, 2, 2), dtype=complex), np.ones(3), "real numbers"),
    ],
)
def test_bad_input_gets_one_clear_message(measurements, labels, message):
    with pytest.raises(SolverError, match=message):
        min_nuclear_norm(measurements, labels)


def test_a_bad_instance_is_named_by_its_place_in_the_batch():
    task = problem(3, 3, 1, 12)
    labels = torch.stack([task.labels, task.labels])
    labels[1, 0] += 1
    with pytest.raises(SolverError, match=r"instance \[1\]"):
        min_nuclear_norm(torch.stack([task.measurements] * 2), labels)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_the_cpu():
    for n in (26, 40, 70):
        task = problem(8, 8, 1, n)
        solution, certificate = min_nuclear_norm(task.measurements.cuda(), task.labels.cuda(), return_certificate=True)
        assert solution.is_cuda
        assert certificate.converged
        torch.testing.assert_close(solution.cpu(), min_nuclear_norm(task.measurements, task.labels), rtol=0, atol=1e-9)
