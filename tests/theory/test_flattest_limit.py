"""The limit of the flattest interpolator's transition: closed forms, simulation, and its domain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

from flatdist import theory
from flatdist.theory.flattest import _inverse_moment, edge


def simulated_edge(alpha: float, depth: float, d: int, generator: np.random.Generator) -> float:
    """The squared dual norm over d of one normal matrix, by the definition: no free probability.

    Args:
        alpha: n / d.
        depth: L, at least 3, or infinity.
        d: size.
        generator: of the measurements along u and v, and of the normal matrix.
    """
    n = round(alpha * d)
    moments = []
    for _ in range(2):
        draws = generator.standard_normal((n, d))
        moments.append(np.linalg.eigvalsh(draws.T @ draws / n))
    normal = generator.standard_normal((d, d))

    def norm(slope: float, level: float) -> float:
        rows, columns = (slope * values + level for values in moments)
        return float(np.linalg.norm(normal / np.sqrt(np.outer(rows, columns)), 2)) ** 2 / d

    if depth == math.inf:
        return norm(1.0, 0.0)
    kappa = edge(1.0 / alpha, depth)[1]
    return max(norm(kappa * factor + depth - 3.0, 1.0 / (kappa * factor)) for factor in (0.9, 1.0, 1.1))


def test_the_limits_have_their_published_values():
    limits = {2: 1.0, 3: 0.9269, 4: 0.9711, 5: 1.0085, 6: 1.0361, 8: 1.0723, 20: 1.1394, math.inf: 1.1839}
    for depth, expected in limits.items():
        assert theory.flattest_limit(depth) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("y", [-1.0, -0.1, 0.05, 0.2])
def test_the_law_of_marchenko_and_pastur_is_integrated(y):
    c = 0.2
    low, high = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
    numeric = quad(lambda x: math.sqrt((high - x) * (x - low)) / (2 * math.pi * c * x) / (x - y), low, high)[0]
    assert _inverse_moment(c, y) == pytest.approx(numeric, rel=1e-7)


@pytest.mark.parametrize(("depth", "expected"), [(3, 1.0), (4, 4 / 9), (6, 4 / 25), (math.inf, 4.0)])
def test_isotropic_weights_have_the_circular_edge(depth, expected):
    """As n / d grows every weight tends to 1, and L - 1 equal terms have the dual norm 2 / (L - 1)."""
    assert edge(1e-9, depth)[0] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("depth", [3, 5, math.inf])
def test_the_edge_is_that_of_simulated_matrices(depth):
    """From below, by an amount that falls as d^(-2/3)."""
    alpha = 6.0 * theory.flattest_limit(depth)
    limit = edge(1.0 / alpha, depth)[0]
    generator = np.random.default_rng(3)
    gaps = []
    for d, count in ((40, 24), (320, 4)):
        gaps.append(1.0 - np.mean([simulated_edge(alpha, depth, d, generator) for _ in range(count)]) / limit)
    assert 0.3 * gaps[0] > gaps[1] > -0.03  # (320 / 40)^(-2/3) = 0.25, with scatter
    assert gaps[1] < 0.05


def test_the_prediction_is_drawn_by_name_and_refuses_other_shapes():
    law = theory.prediction("flattest_limit_3")
    assert law.value(48, 48, 1) == pytest.approx(0.9269 * theory.statistical_dimension(48, 48, 1), rel=1e-3)
    assert "rank 1" in law.domain
    with pytest.raises(ValueError, match="outside the limit's domain: rank 1, square"):
        law.value(48, 48, 2)
    with pytest.raises(ValueError, match="outside the limit's domain: rank 1, square"):
        law.value(24, 48, 1)
    for depth in (1, 2.5, -math.inf, math.nan):
        with pytest.raises(ValueError, match="domain"):
            theory.flattest_limit(depth)
