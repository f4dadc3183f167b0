"""The statistical dimension: against closed forms, a direct evaluation of its definition, and its own guarantees."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy import optimize

from flatdist.errors import CellError
from flatdist.theory.statdim import (
    VERSION,
    Shape,
    computed,
    exact_form,
    first_success,
    minima,
    sampled_singular_values,
    statistical_dimension,
    statistical_dimension_asymptotic,
    statistical_dimension_upper_bound,
    tabulated,
    trace_moments,
)


def direct_samples(d_out: int, d_in: int, rank: int, count: int) -> np.ndarray:
    """The definition itself: full Gaussian matrices, explicit projections, a fine grid of tau. (count,)"""
    generator = np.random.default_rng(20)
    left, right = np.eye(d_out)[:, :rank], np.eye(d_in)[:, :rank]
    onto_left, onto_right, sign = left @ left.T, right @ right.T, left @ right.T
    samples = np.empty(count)
    for index in range(count):
        full = generator.standard_normal((d_out, d_in))
        tangent = onto_left @ full + full @ onto_right - onto_left @ full @ onto_right
        sigma = np.linalg.svd(full - tangent, compute_uv=False)
        tau = np.linspace(0.0, sigma[0] + 4.0, 500)
        along = (tangent**2).sum() - 2.0 * tau * (full * sign).sum() + rank * tau**2
        samples[index] = (along + (np.maximum(sigma - tau[:, None], 0.0) ** 2).sum(axis=1)).min()
    return samples


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 2), (4, 4, 3)])
def test_agrees_with_the_definition_evaluated_directly(shape: tuple[int, int, int]) -> None:
    samples = direct_samples(*shape, count=4000)
    value, own_error, _ = exact_form(Shape.of(*shape), VERSION)
    error = np.hypot(samples.std() / np.sqrt(len(samples)), own_error)
    assert abs(samples.mean() - value) < 3.5 * error
    assert error < 0.01 * value


@pytest.mark.parametrize(
    ("shape", "value"),
    [((1, 1, 1), 0.5), ((2, 2, 1), 3.0), ((5, 5, 5), 24.5), ((3, 7, 3), 20.5), ((1, 6, 1), 5.5)],
)
def test_closed_forms(shape: tuple[int, int, int], value: float) -> None:
    """At full rank the descent cone is a half-space, D - 1/2; at (2, 2, 1) swapping z and sigma shows 3 exactly."""
    assert statistical_dimension(*shape) == pytest.approx(value, abs=0.051)
    assert exact_form(Shape.of(*shape), VERSION)[0] == pytest.approx(value, abs=0.005)


@pytest.mark.parametrize(
    ("shape", "bound"),
    [((12, 12, 1), 45), ((20, 20, 1), 81), ((20, 20, 2), 141), ((20, 20, 4), 229), ((60, 60, 3), 731)],
)
def test_published_upper_bounds(shape: tuple[int, int, int], bound: float) -> None:
    assert statistical_dimension_upper_bound(*shape) == pytest.approx(bound, abs=1.0)


@pytest.mark.parametrize("shape", [(8, 8, 1), (20, 20, 2), (10, 30, 3), (60, 60, 3)])
def test_forms_are_ordered_and_converge(shape: tuple[int, int, int]) -> None:
    exact = statistical_dimension(*shape)
    upper = statistical_dimension_upper_bound(*shape)
    assert exact < upper < 1.03 * exact
    assert statistical_dimension_asymptotic(*shape) == pytest.approx(upper, rel=0.025)


def test_large_matrices_approach_the_asymptotic_form() -> None:
    gaps = [
        1.0 - statistical_dimension_asymptotic(d, d, 1) / statistical_dimension_upper_bound(d, d, 1)
        for d in (8, 30, 90)
    ]
    assert gaps[0] == pytest.approx(0.020, abs=0.003)
    assert gaps[1] == pytest.approx(0.009, abs=0.001)
    assert 0.0 < gaps[2] < 0.6 * gaps[1]


def test_standard_error_is_below_a_tenth_of_the_promise() -> None:
    for shape in [(8, 8, 1), (12, 12, 3), (20, 20, 2), (30, 30, 1), (100, 100, 2)]:
        value, error, _ = exact_form(Shape.of(*shape), VERSION)
        assert error < 0.0002 * value


def test_other_draws_give_the_same_value() -> None:
    for shape in [(8, 8, 1), (12, 12, 2), (15, 30, 2)]:
        first, error, _ = exact_form(Shape.of(*shape), VERSION)
        second, _, _ = exact_form(Shape.of(*shape), VERSION + 1000)
        assert abs(first - second) < 4.5 * np.sqrt(2.0) * error


def test_minimiser_in_closed_form_is_the_minimum() -> None:
    """Averaged over z by brute force on one row of singular values."""
    sigma = np.array([[4.0, 2.5, 1.0, 0.2]])
    z = np.random.default_rng(3).standard_normal(20_000)
    tau = np.linspace(0.0, 8.0, 801)
    fixed = 2.0 * tau**2 + (np.maximum(sigma[0] - tau[:, None], 0.0) ** 2).sum(axis=1)
    tried = (fixed - 2.0 * np.sqrt(2.0) * tau * z[:, None]).min(axis=1)
    mean = sum(weight * minimum[0] for weight, _, minimum in minima(sigma, 2))
    assert mean == pytest.approx(tried.mean(), abs=4.0 * tried.std() / np.sqrt(len(z)))


def test_trace_moments_are_those_of_the_draws() -> None:
    sigma = sampled_singular_values(6, 11, VERSION)
    powers = np.stack([(sigma ** (2 * power)).sum(axis=1) for power in (1, 2, 3, 4)], axis=1)
    error = powers.std(axis=0) / np.sqrt(len(powers))
    assert np.all(np.abs(powers.mean(axis=0) - trace_moments(6, 11)) < 4.0 * error)
    one_row = 7.0 * np.cumprod([1.0, 9.0, 11.0, 13.0])  # moments of a chi-squared variable with 7 degrees of freedom
    assert trace_moments(1, 7) == pytest.approx(one_row)


def test_symmetric_and_increasing_in_rank() -> None:
    assert statistical_dimension(7, 13, 2) == statistical_dimension(13, 7, 2)
    values = [statistical_dimension(9, 14, rank) for rank in range(1, 10)]
    assert values == sorted(values)
    assert values[-1] <= 9 * 14


@pytest.mark.parametrize("shape", [(2, 2, 1), (12, 12, 1), (20, 20, 4), (10, 30, 1), (24, 60, 3)])
def test_table_is_what_the_program_computes(shape: tuple[int, int, int]) -> None:
    value, variance = tabulated()[Shape.of(*shape)]
    again = computed(Shape.of(*shape))
    assert value == again[0]
    assert variance == pytest.approx(again[1], rel=2e-5)  # other processors round otherwise


@pytest.mark.parametrize("shape", [(0, 5, 1), (5, 5, 0), (5, 4, 5), (5.5, 6, 1), ("5", 5, 1), (5, 5, float("nan"))])
def test_impossible_shapes_are_refused(shape: tuple[int, int, int]) -> None:
    with pytest.raises(CellError, match="rank at most min"):
        statistical_dimension(*shape)


def test_loads_numpy_only() -> None:
    code = (
        "import sys, flatdist.theory.statdim as s; s.statistical_dimension(6, 7, 1);"
        "print(sorted({'torch', 'ray', 'numba', 'pandas', 'scipy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def projections(d_out: int, d_in: int, rank: int, count: int, seed: int) -> np.ndarray:
    """|| Pi_C(g) ||^2 of Gaussian matrices, minimising over tau numerically for each."""
    generator = np.random.default_rng(seed)
    found = np.empty(count)
    for index in range(count):
        draw = generator.standard_normal((d_out, d_in))
        sigma = np.linalg.svd(draw[rank:, rank:], compute_uv=False)
        tangent = (draw**2).sum() - (sigma**2).sum()
        trace = np.trace(draw[:rank, :rank])

        def distance(tau: float, sigma=sigma, tangent=tangent, trace=trace) -> float:
            return tangent - 2 * tau * trace + rank * tau**2 + (np.maximum(sigma - tau, 0.0) ** 2).sum()

        found[index] = optimize.minimize_scalar(
            distance, bounds=(0.0, sigma[0] + abs(trace) + 1.0), method="bounded"
        ).fun
    return found


@pytest.mark.parametrize("shape", [(8, 8, 1), (5, 9, 2)])
def test_the_variance_of_the_first_success_is_that_of_projections_on_the_cone(shape) -> None:
    squares = projections(*shape, 4000, 3)
    law = first_success(*shape)
    assert law.mean == pytest.approx(squares.mean() + 0.5, abs=4 * squares.std() / 4000**0.5 + 0.05)
    error = squares.var() * (2 / 4000) ** 0.5
    assert law.variance == pytest.approx(squares.var() - 2 * squares.mean() - 0.25, abs=4 * error)


@pytest.mark.parametrize(
    ("shape", "variance"), [((8, 8, 1), 13.5), ((12, 12, 2), 31.6), ((20, 20, 4), 87.3), ((30, 30, 1), 103.5)]
)
def test_first_success_at_known_shapes(shape, variance) -> None:
    """Values of an independent program from 30,000 to 60,000 projections, good to 1.5 %."""
    law = first_success(*shape)
    assert law.mean == statistical_dimension(*shape) + 0.5
    assert law.variance == pytest.approx(variance, rel=0.015)
    assert first_success(shape[1], shape[0], shape[2]) == law
    assert law.success(law.mean - 0.5) == pytest.approx(0.5)
    curve = law.success(np.arange(400))
    assert (1.0 - curve).sum() == pytest.approx(law.mean, abs=0.05)  # E N = sum over n of P(N > n)


def test_full_rank_is_recovered_at_the_last_measurement_exactly() -> None:
    law = first_success(4, 6, 4)
    assert law == (24.0, 0.0)
    np.testing.assert_array_equal(law.success([23, 24]), [0.0, 1.0])


def test_a_first_success_of_impossible_or_very_large_sizes_is_refused() -> None:
    with pytest.raises(CellError, match="rank"):
        first_success(4, 6, 5)
    with pytest.raises(CellError, match="choose smaller sizes"):
        first_success(1000, 1000, 2)
