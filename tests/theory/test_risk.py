"""Laws and predictions of the error against simulation, solvers and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from flatdist.solvers.min_nuclear_norm import min_nuclear_norm
from flatdist.theory import minimum_norm_relative_error, statistical_dimension
from flatdist.theory.risk import MinimumNormLaw, interpolation_law, minimum_nuclear_errors, tangent_fit_error


@pytest.mark.parametrize("n", [3, 17, 29, 30])
def test_the_least_interpolating_error_has_the_law(n: int) -> None:
    generator = np.random.default_rng(n)
    draws, noise = generator.standard_normal((2000, n, 30)), generator.standard_normal((2000, n))
    errors = [0.2**2 * float(e @ np.linalg.solve(a @ a.T, e)) for a, e in zip(draws, noise, strict=True)]
    assert stats.kstest(errors, interpolation_law(5, 6, n, 0.2).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("n", "noise"), [(8, 0.5), (27, 0.1), (30, 0.1), (12, 0.0)])
def test_the_minimum_norm_interpolator_has_the_law(n: int, noise: float) -> None:
    generator = np.random.default_rng(n)
    truth = np.zeros(30)
    truth[0] = 1.0
    errors = []
    for a in generator.standard_normal((500, n, 30)):
        answer = np.linalg.lstsq(a, a @ truth + noise * generator.standard_normal(n), rcond=None)[0]
        errors.append(np.sum((answer - truth) ** 2))
    law = MinimumNormLaw(5, 6, n, noise)
    assert stats.kstest(errors, np.vectorize(law.cdf)).pvalue > 1e-3
    assert law.cdf(law.median()) == pytest.approx(0.5, abs=2e-3)
    if n <= 27:
        assert np.mean(errors) == pytest.approx(law.mean(), abs=5 * np.std(errors) / math.sqrt(len(errors)))


def test_means_without_noise_and_at_the_peak() -> None:
    assert MinimumNormLaw(5, 6, 12, 0.0).mean() == minimum_norm_relative_error(5, 6, 1, 12)
    assert MinimumNormLaw(5, 6, 30, 0.0).mean() == 0
    assert MinimumNormLaw(5, 6, 29, 1e-3).mean() == math.inf
    assert MinimumNormLaw(12, 12, 144, 0.1).median() == pytest.approx(0.01 * 144 / stats.chi2(1).median(), rel=0.01)
    for n in (0, 31):
        with pytest.raises(ValueError, match=f"n={n}; allowed: 0 < n <= 30"):
            interpolation_law(5, 6, n, 0.1)


def test_a_fit_on_the_tangent_space_has_the_mean() -> None:
    generator = np.random.default_rng(1)
    n, rank, d_out, d_in, noise, tail = 40, 1, 6, 5, 0.1, 0.2
    truth = np.zeros((d_out, d_in))
    truth[0, 0] = math.sqrt(1 - tail**2)
    truth[1:, 1:] = tail / math.sqrt((d_out - 1) * (d_in - 1))
    tangent = np.zeros((d_out, d_in), dtype=bool)
    tangent[0, :] = tangent[:, 0] = True
    errors = []
    for _ in range(3000):
        a = generator.standard_normal((n, d_out, d_in))
        labels = np.einsum("iab,ab->i", a, truth) + noise * generator.standard_normal(n)
        answer = np.zeros((d_out, d_in))
        answer[tangent] = np.linalg.lstsq(a[:, tangent], labels, rcond=None)[0]
        errors.append(np.sum((answer - truth) ** 2))
    expected = tangent_fit_error(d_out, d_in, rank, n, noise, tail)
    assert expected == pytest.approx(0.04 + (0.01 + 0.04) * 10 / 29)
    assert np.mean(errors) == pytest.approx(expected, abs=5 * np.std(errors) / math.sqrt(len(errors)))
    assert tangent_fit_error(d_out, d_in, rank, 11, noise) == math.inf


@pytest.mark.parametrize(
    ("d_out", "d_in", "n", "noise", "tail"),
    [(12, 12, 90, 0.1, 0.0), (12, 12, 134, 0.01, 0.0), (10, 20, 110, 0.1, 0.0), (12, 12, 67, 0.0, 0.3)],
)
def test_the_nuclear_norm_has_the_predicted_error(d_out: int, d_in: int, n: int, noise: float, tail: float) -> None:
    generator = np.random.default_rng(n)
    small = min(d_out, d_in)
    spectrum = np.linalg.svd(generator.standard_normal((d_out - 1, d_in - 1)), compute_uv=False)
    spectrum = np.r_[math.sqrt(1 - tail**2), tail * spectrum / np.linalg.norm(spectrum)]
    truth = np.zeros((d_out, d_in))
    truth[range(small), range(small)] = spectrum
    a = generator.standard_normal((16, n, d_out, d_in))
    labels = np.einsum("kiab,ab->ki", a, truth) + noise * generator.standard_normal((16, n))
    answers, certificate = min_nuclear_norm(torch.from_numpy(a), torch.from_numpy(labels), return_certificate=True)
    assert certificate.converged.all()
    errors = np.sum((answers.numpy() - truth) ** 2, axis=(1, 2))
    predicted = minimum_nuclear_errors(spectrum[None], d_out, d_in, np.array([n]), noise)[0]
    # Of the mean's logarithm, since near n = D errors are skewed.
    spread = np.std(np.log(errors)) / math.sqrt(len(errors))
    assert abs(np.mean(np.log(errors)) - math.log(predicted)) < 3 * spread + 0.06


def test_the_prediction_vanishes_at_the_statistical_dimension() -> None:
    spectra = np.zeros((1, 12))
    spectra[0, 0] = 1.0
    n = np.arange(38, 54)
    errors = minimum_nuclear_errors(spectra, 12, 12, n, 0.0)
    assert n[errors > 1e-6].max() == pytest.approx(statistical_dimension(12, 12, 1), rel=0.04)
    assert (np.diff(errors) <= 0).all()


def test_the_prediction_tends_to_the_least_error_of_any_interpolator() -> None:
    spectra = np.zeros((1, 12))
    spectra[0, 0] = 1.0
    for noise in (0.01, 0.1):
        error = minimum_nuclear_errors(spectra, 12, 12, np.array([142]), noise)[0]
        assert error == pytest.approx(noise**2 * 142 / 2, rel=0.05)
    with pytest.raises(ValueError, match="allowed: 0 < n < 144"):
        minimum_nuclear_errors(spectra, 12, 12, np.array([144]), 0.1)
