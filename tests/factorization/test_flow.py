from __future__ import annotations

import numpy as np
import pytest
import torch

from flatdist.errors import SolverError
from flatdist.factorization.flatness import hessian_trace
from flatdist.factorization.flow import descend_to_zero_loss, flow, trace_gradient
from flatdist.factorization.products import end_to_end
from flatdist.solvers.min_hessian_trace import min_hessian_trace


def start(seed=0, d=5, n=14, depth=3, scale=0.6):
    generator = np.random.default_rng(seed)
    truth = np.outer(generator.normal(size=d), generator.normal(size=d))
    truth /= np.linalg.norm(truth)
    measurements = generator.normal(size=(n, d, d))
    labels = np.einsum("iab,ab->i", measurements, truth)
    layers = [scale / np.sqrt(d) * generator.normal(size=(d, d)) for _ in range(depth)]
    return layers, measurements, labels


@pytest.mark.parametrize("shapes", [[(5, 4), (3, 5)], [(5, 4), (6, 5), (3, 6)], [(5, 4), (4, 5), (6, 4), (3, 6)]])
def test_the_gradient_of_the_trace_is_that_of_autograd(shapes):
    generator = np.random.default_rng(0)
    layers = [generator.normal(size=shape) for shape in shapes]
    measurements = generator.normal(size=(7, 3, 4))
    trace, gradients = trace_gradient(layers, measurements)
    tensors = [torch.tensor(layer, requires_grad=True) for layer in layers]
    value = hessian_trace(tensors, torch.tensor(measurements))
    value.backward()
    assert trace == pytest.approx(value.item(), rel=1e-12)
    for ours, tensor in zip(gradients, tensors, strict=True):
        assert np.allclose(ours, tensor.grad.numpy(), rtol=1e-10, atol=1e-10)


def test_one_scalar_direction_follows_the_exact_solution():
    """M = w2 w1 = 1 with one measurement: the flow along a hyperbola.

    With w1 = e^u and w2 = e^-u the trace is 4 cosh(2u) and the squared speed of u is 2 cosh(2u), so that
    du/dtau = -8 sinh(2u) / (2 cosh(2u)) = -4 tanh(2u): sinh(2u) decays as e^{-8 tau}.
    """
    u = 0.7
    times = np.array([0.0, 0.05, 0.2, 0.5])
    path = flow([np.array([[np.exp(u)]]), np.array([[np.exp(-u)]])], np.ones((1, 1, 1)), np.ones(1), times, 1e-10)
    exact = 4.0 * np.sqrt(1.0 + (np.sinh(2 * u) * np.exp(-8.0 * times)) ** 2)
    assert np.allclose(path.traces, exact, rtol=1e-8)


def test_the_flow_stays_at_zero_loss_lowers_the_trace_and_ends_at_the_flattest_interpolator():
    layers, measurements, labels = start()
    arrived = descend_to_zero_loss(layers, measurements, labels)
    path = flow(arrived, measurements, labels, np.linspace(0.0, 4.0, 9))
    assert path.residual < 1e-10
    assert np.all(np.diff(path.traces) < 0.0)
    _, certificate = min_hessian_trace(measurements, labels, 3, return_certificate=True)
    assert path.traces[-1] == pytest.approx(np.nanmin(certificate.traces), rel=1e-3)
    assert path.traces[-1] == pytest.approx(float(hessian_trace(path.layers, measurements)), rel=1e-12)
    assert np.allclose(end_to_end(path.layers), path.matrices[-1])


def test_a_tighter_tolerance_changes_little():
    layers, measurements, labels = start(seed=1)
    arrived = descend_to_zero_loss(layers, measurements, labels)
    coarse, fine = (flow(arrived, measurements, labels, [0.02, 0.3], tolerance).traces for tolerance in (1e-5, 1e-9))
    assert np.allclose(coarse, fine, rtol=1e-5)


def test_gradient_descent_with_small_steps_arrives_where_gradient_flow_does():
    layers, measurements, labels = start(seed=2, n=8)
    arrived = end_to_end(descend_to_zero_loss(layers, measurements, labels))
    errors = []
    for rate in (4e-3, 2e-3):
        w1, w2, w3 = (layer.copy() for layer in layers)
        for _ in range(int(16 / rate)):
            misfit = np.einsum("iab,ab->i", measurements, w3 @ w2 @ w1) - labels
            g = 2.0 / len(labels) * np.einsum("i,iab->ab", misfit, measurements)
            w1, w2, w3 = (
                w1 - rate * (w3 @ w2).T @ g,
                w2 - rate * w3.T @ g @ w1.T,
                w3 - rate * g @ (w2 @ w1).T,
            )
        errors.append(np.linalg.norm(w3 @ w2 @ w1 - arrived))
    assert errors[1] < 0.6 * errors[0] < 0.06


def test_bad_input_has_one_clear_message():
    layers, measurements, labels = start()
    with pytest.raises(SolverError, match="times must be"):
        flow(layers, measurements, labels, [0.2, 0.1])
    with pytest.raises(SolverError, match="do not fit"):
        flow(layers, measurements[:3], labels, [0.1])
    with pytest.raises(SolverError, match=r"does not reach zero loss|above 1e-06"):
        descend_to_zero_loss([0 * layer for layer in layers], measurements, labels)
