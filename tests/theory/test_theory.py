"""Predictions: complete, symmetric, ordered, and equal to the closed forms or simulations they stand for."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from flatdist import theory


def test_every_prediction_documents_itself() -> None:
    for table in (theory.SAMPLE_COMPLEXITIES, theory.RISK_CURVES):
        for name, prediction in table.items():
            assert prediction.name == name
            assert all((prediction.label, prediction.formula, prediction.reference, prediction.domain))


@pytest.mark.parametrize("name", theory.SAMPLE_COMPLEXITIES)
def test_predictions_are_symmetric_in_the_two_sizes(name: str) -> None:
    prediction = theory.prediction(name)
    assert prediction.value(6, 10, 2) == prediction.value(10, 6, 2)


def test_values_at_one_shape() -> None:
    values = {name: prediction.value(20, 10, 3) for name, prediction in theory.SAMPLE_COMPLEXITIES.items()}
    assert (values["rsum"], values["dof"], values["entries"]) == (90.0, 81.0, 200.0)
    assert values["dof"] < values["statdim"] < values["statdim_upper"] < values["entries"]


def test_unknown_prediction_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="statdim"):
        theory.prediction("statdimm")


def test_minimum_norm_law_is_that_of_simulated_projections() -> None:
    """The error of the projection onto the measurements' span, simulated without any of the program's code."""
    d_out, d_in, n, count = 3, 4, 7, 600
    generator = np.random.default_rng(4)
    truth = generator.standard_normal(d_out * d_in)
    errors = []
    for _ in range(count):
        basis, _ = np.linalg.qr(generator.standard_normal((d_out * d_in, n)))
        errors.append(((truth - basis @ (basis.T @ truth)) ** 2).sum() / (truth**2).sum())
    law = theory.minimum_norm_law(d_out, d_in, n)
    assert stats.kstest(errors, law.cdf).pvalue > 1e-3
    assert law.mean() == pytest.approx(theory.minimum_norm_relative_error(d_out, d_in, 1, n))


@pytest.mark.parametrize("n", [0, 12, 13])
def test_minimum_norm_law_outside_its_domain(n: int) -> None:
    with pytest.raises(ValueError, match="0 < n < 12"):
        theory.minimum_norm_law(3, 4, n)


def test_first_success_of_the_minimum_norm_is_that_of_simulated_streams() -> None:
    entries, tolerance, count = 12, 0.2, 800
    generator = np.random.default_rng(5)
    truth = generator.standard_normal(entries)
    truth /= np.linalg.norm(truth)
    seen = np.zeros(entries + 1)
    for _ in range(count):
        basis, _ = np.linalg.qr(generator.standard_normal((entries, entries)))  # of the first n measurements, for all n
        errors = 1.0 - np.cumsum((truth @ basis) ** 2)
        seen[1 + int(np.argmax(errors < tolerance))] += 1
    expected = count * theory.minimum_norm_first_success(3, 4, tolerance).pmf(np.arange(entries + 1))
    likely = expected > 5.0
    assert likely.sum() > 5
    distance = float(np.sum((seen[likely] - expected[likely]) ** 2 / expected[likely]))
    assert stats.chi2(likely.sum()).sf(distance) > 1e-3
    with pytest.raises(ValueError, match="between 0 and 1"):
        theory.minimum_norm_first_success(3, 4, 1.0)


def test_minimum_norm_error_ends_at_zero() -> None:
    assert theory.minimum_norm_relative_error(3, 4, 1, 0) == 1.0
    assert theory.minimum_norm_relative_error(3, 4, 1, 12) == 0.0
    assert theory.minimum_norm_relative_error(3, 4, 1, 20) == 0.0


def test_flattest_risk_bound() -> None:
    """Two layers agree with the general form at L = 2, whose exponent is 1: 1 + (1 + x)/(1 - x) = 2 / (1 - x)."""
    delta, norm = 0.3, 1.7
    general = delta * (1.0 + (1.0 + delta) / (1.0 - delta)) ** 2 * norm**2
    assert theory.flattest_risk_bound(delta, norm) == pytest.approx(general)
    assert theory.flattest_risk_bound(delta, norm, depth=4) < theory.flattest_risk_bound(delta, norm, depth=3) < general
    assert theory.flattest_risk_bound(1.0, norm) == math.inf
    assert theory.flattest_risk_bound(0.0, norm) == 0.0


def test_nuclear_norm_ratio_bound() -> None:
    assert theory.nuclear_norm_ratio_bound(0.0, 3) == 1.0
    assert theory.nuclear_norm_ratio_bound(0.5, 2) == pytest.approx(3.0)
    assert theory.nuclear_norm_ratio_bound(0.5, 10**6) == pytest.approx(math.sqrt(3.0), rel=1e-5)
    assert theory.nuclear_norm_ratio_bound(1.2, 3) == math.inf
    with pytest.raises(ValueError, match="depth at least 2"):
        theory.nuclear_norm_ratio_bound(0.5, 1)


def test_flattest_risk_shape_scales_as_the_theorem_says() -> None:
    assert theory.flattest_risk_shape(10, 20, 2, 100) == pytest.approx(60 / 100 * math.log(100) ** 3)


def test_loads_neither_scipy_nor_torch() -> None:
    code = "import sys, flatdist.theory; print(sorted({'torch', 'ray', 'numba', 'pandas', 'scipy'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
