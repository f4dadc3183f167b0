"""The automatic step size: its bounds, its symmetries, and that it trains what it is meant to train."""

import dataclasses
import itertools

import numpy as np
import pytest
from gradients import layer_gradients

from flatdist.cells.cell import Cell
from flatdist.factorization.products import end_to_end, partial_products
from flatdist.trials.learning_rate import (
    REESTIMATE_STEPS,
    STABILITY,
    estimate_steps,
    flatness_bounds,
    stable_learning_rate,
    steps_to_leave,
)
from flatdist.trials.settings import Hooks, RunSettings
from flatdist.trials.train import segment_ends, train


def random_layers(widths, replicates=3, seed=0, scale=1.0):
    generator = np.random.default_rng(seed)
    shapes = [(replicates, fan_out, fan_in) for fan_in, fan_out in itertools.pairwise(widths)]
    return [scale / np.sqrt(shape[-1]) * generator.normal(size=shape) for shape in shapes]


def flattest_rank_one(d_out, d_in, depth, size, seed=0):
    """Lemma 4's minimiser of R for a product of rank one: one direction through all layers, all terms of R equal."""
    generator = np.random.default_rng(seed)
    width = max(d_out, d_in)
    directions = [generator.normal(size=d) for d in (d_in, *[width] * (depth - 1), d_out)]
    directions = [direction / np.linalg.norm(direction) for direction in directions]
    term = (d_in * d_out) ** (1 / depth) * size ** (2 * (depth - 1) / depth)
    first, last = size * np.sqrt(d_in / term), size * np.sqrt(d_out / term)
    middle = (size / (first * last)) ** (1 / max(1, depth - 2))
    scales = [first, *[middle] * (depth - 2), last]
    return [c * np.outer(b, a)[None] for c, a, b in zip(scales, directions[:-1], directions[1:], strict=True)]


def dense_operator(layers):
    """H as a matrix on vectorised d_out x d_in matrices, of one replicate."""
    d_out, d_in = layers[-1].shape[0], layers[0].shape[1]
    total = np.zeros((d_out * d_in, d_out * d_in))
    for left, right in zip(*partial_products(layers), strict=True):
        outer = np.eye(d_out) if left is None else left @ left.T
        inner = np.eye(d_in) if right is None else right.T @ right
        total += np.kron(outer, inner)
    return total


@pytest.mark.parametrize("widths", [(5, 6, 4), (4, 6, 6, 5), (3, 5, 4, 6, 4), (4, 4, 4, 4, 4, 4)])
def test_bounds_against_the_dense_operator(widths):
    layers = random_layers(widths)
    top, trace, energy = flatness_bounds(layers)
    for r in range(3):
        one = [layer[r] for layer in layers]
        dense = dense_operator(one)
        assert trace[r] == pytest.approx(np.trace(dense), rel=1e-12)
        largest = np.linalg.eigvalsh(dense)[-1]
        assert largest <= top[r] <= len(one) * largest
        assert energy[r] == pytest.approx(sum(np.sum(layer**2) for layer in one), rel=1e-12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_bounds_are_exact_at_the_flattest_product_of_rank_one(depth):
    layers = flattest_rank_one(4, 6, depth, 0.7)
    top, trace, _ = flatness_bounds(layers)
    dense = dense_operator([layer[0] for layer in layers])
    assert top[0] == pytest.approx(np.linalg.eigvalsh(dense)[-1], rel=1e-10)
    assert trace[0] == pytest.approx(depth * 24 ** (1 / depth) * 0.7 ** (2 * (depth - 1) / depth), rel=1e-12)  # (12)


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_flatter_layers_than_the_flattest_interpolator_earn_no_longer_steps(depth):
    """Tiny layers grow to interpolate: they get the stability limit of the flattest rank-one interpolator."""
    given = {"n": 30, "batch": 50, "label_scale": np.array([0.7]), "noise_std": np.array([0.0])}
    flattest = flattest_rank_one(4, 6, depth, 0.7)
    expected = stable_learning_rate(flattest, **given)
    np.testing.assert_allclose(stable_learning_rate([0.01 * w for w in flattest], **given), expected, rtol=1e-10)
    assert (stable_learning_rate([1.1 * w for w in flattest], **given) < 0.95 * expected).all()


@pytest.mark.parametrize("depth", [2, 3, 5])
@pytest.mark.parametrize(("noise", "radius"), [(0.0, 0.0), (1.0, 0.0), (0.1, 0.0), (0.0, 0.05)])
def test_units_of_the_labels_do_not_matter(depth, noise, radius):
    """W -> c W, labels and noise -> c^L: the same trajectory in other units needs eta -> c^(2 - 2L) eta."""
    layers, c = random_layers((5, *[6] * (depth - 1), 4)), 1.7
    size, s = np.array([0.9, 1.0, 1.1]), np.full(3, noise)
    ours = stable_learning_rate(layers, n=20, batch=50, label_scale=size, noise_std=s, sam_radius=radius)
    scaled = stable_learning_rate(
        [c * layer for layer in layers],
        n=20,
        batch=50,
        label_scale=size * c**depth,
        noise_std=s * c**depth,
        sam_radius=radius * c,
    )
    np.testing.assert_allclose(scaled, ours * c ** (2.0 - 2.0 * depth), rtol=1e-12)


@pytest.mark.parametrize("batch", [1, 5, 50])
@pytest.mark.parametrize("depth", [2, 4])
def test_the_estimate_separates_stable_from_unstable_steps(depth, batch):
    """Mini-batch SGD beside an interpolator: errors shrink at the automatic step and grow well beyond the limit."""
    generator = np.random.default_rng(3)
    start = [layer[0] for layer in random_layers((6, *[6] * (depth - 1), 6), 1, scale=0.8)]
    measurements = generator.normal(size=(24, 6, 6))
    labels = np.einsum("iab,ab->i", measurements, end_to_end(start))
    size, none = np.array([np.sqrt(np.mean(labels**2))]), np.zeros(1)
    automatic = stable_learning_rate([w[None] for w in start], n=24, batch=batch, label_scale=size, noise_std=none)[0]

    def losses(step_size):
        layers = [w + 1e-6 * generator.normal(size=w.shape) for w in start]
        measured = []
        for _ in range(400):
            residuals = np.einsum("iab,ab->i", measurements, end_to_end(layers)) - labels
            measured.append(np.mean(residuals**2))
            if measured[-1] > 1e6 * measured[0]:
                break
            drawn = generator.integers(24, size=batch)
            gradient = 2 / batch * np.einsum("i,iab->ab", residuals[drawn], measurements[drawn])
            gradients = layer_gradients(layers, gradient)
            layers = [w - step_size * g for w, g in zip(layers, gradients, strict=True)]
        return measured

    assert losses(automatic)[-1] < 0.1 * losses(automatic)[0]
    limit = automatic / STABILITY
    assert losses(5 * limit)[-1] > 1e6 * losses(5 * limit)[0]


def test_label_noise_caps_the_step_by_its_energy_in_the_normal_directions():
    layers, size = random_layers((5, 5, 5, 5)), np.ones(3)

    def steps(noise, n=20, batch=50):
        return stable_learning_rate(layers, n=n, batch=batch, label_scale=size, noise_std=np.full(3, noise))

    energy = flatness_bounds(layers)[2]
    shares = steps(30.0) * 30.0**2 * 20 / 50 / energy  # eta s^2 / B * n over ||W||^2
    np.testing.assert_allclose(shares, shares[0])
    np.testing.assert_allclose(steps(60.0), steps(30.0) / 4)
    np.testing.assert_allclose(steps(60.0, n=25), steps(60.0, n=50))  # no more directions than entries
    np.testing.assert_array_equal(steps(1e-3), steps(0.0))


def test_a_replicate_has_the_same_bits_alone_and_packed():
    layers, size = random_layers((12, 13, 12, 9), 16), np.linspace(0.5, 1.5, 16)
    given = {"n": 40, "batch": 50, "sam_radius": 0.1}
    packed = stable_learning_rate(layers, label_scale=size, noise_std=size, **given)
    for some in (slice(0, 1), slice(3, 4), slice(5, 12)):
        part = stable_learning_rate([w[some] for w in layers], label_scale=size[some], noise_std=size[some], **given)
        np.testing.assert_array_equal(part, packed[some])


def test_a_diverged_replicate_leaves_the_others_alone():
    layers = random_layers((6, 6, 6), 3)
    layers[0][1, 2, 3], layers[1][2] = np.inf, 1e200
    rates = stable_learning_rate(layers, n=20, batch=50, label_scale=np.ones(3), noise_std=np.ones(3))
    assert rates[0] > 0
    assert not rates[1] > 0


def test_estimates_are_made_at_fixed_steps():
    assert estimate_steps(1) == [0]
    assert estimate_steps(8001) == [0, 125, 250, 500, 1000, 2000, REESTIMATE_STEPS, 2 * REESTIMATE_STEPS]
    cell = Cell(d_out=4, d_in=4, rank=1, n=12, steps=9000)
    assert set(estimate_steps(9000)) - {0} <= set(segment_ends(cell))
    assert 125 not in segment_ends(dataclasses.replace(cell, learning_rate=0.1))


def rows(cell, replicates=(0,)):
    produced = train(cell, replicates, RunSettings(engine="fused"), Hooks())
    return {replicate: row for replicate, row, _ in produced}


def test_how_often_a_run_is_evaluated_and_its_company_change_nothing():
    cell = Cell(d_out=7, d_in=6, rank=1, n=36, steps=2500)
    expected = rows(cell)[0]
    for other in (rows(dataclasses.replace(cell, evaluations=7))[0], rows(cell, (4, 0, 1))[0]):
        assert other["singular_values"] == expected["singular_values"]
        assert other["learning_rate_final"] == expected["learning_rate_final"]


@pytest.mark.parametrize("init_scale", [0.3, 1.0])
@pytest.mark.parametrize("depth", [2, 3, 5])
def test_label_noise_recovers_untuned(depth, init_scale):
    cell = Cell(d_out=8, d_in=9, rank=1, n=48, depth=depth, init_scale=init_scale, ensemble="rademacher")
    found = rows(cell, range(4)).values()
    assert [row["status"] for row in found] == ["converged"] * 4
    assert max(row["relative_error"] for row in found) < 1e-2


@pytest.mark.parametrize("ground_truth", ["unit_frobenius", "gaussian_factors"])
@pytest.mark.parametrize("method", ["minibatch_sgd", "gradient_descent", "sam"])
def test_every_gradient_method_trains_untuned(method, ground_truth):
    cell = Cell(d_out=8, d_in=8, rank=2, n=50, method=method, ground_truth=ground_truth, init_scale=0.3, steps=20000)
    found = rows(cell, range(2)).values()
    if method == "sam":  # its perturbation never shrinks, and nor does the loss that it causes
        assert all(row["relative_error"] < 0.5 for row in found)
    else:
        assert [row["status"] for row in found] == ["converged"] * 2


@pytest.mark.parametrize("engine", ["fused", "batched", "reference"])
@pytest.mark.parametrize("rate", [1e153, 1e154, 1e308])
def test_a_learning_rate_at_the_edge_is_a_diverged_row(engine, rate):
    """Its square, which flow time is made of, has no float."""
    cell = Cell(d_out=4, d_in=4, rank=1, n=12, steps=3, evaluations=2, learning_rate=rate)
    ((_, row, _),) = train(cell, (0,), RunSettings(engine=engine), Hooks())
    assert (row["status"], row["learning_rate_final"]) == ("diverged", rate)


def test_a_perturbation_at_the_edge_is_a_row():
    cell = Cell(d_out=4, d_in=4, rank=1, n=12, steps=3, evaluations=2, method="sam", sam_radius=1e300)
    assert rows(cell)[0]["status"] in ("diverged", "budget_exhausted")


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_layers_of_zeros_have_a_step_size_and_say_that_nothing_trained(noise):
    layers = [np.zeros((2, 4, 4))] * 3
    rates = stable_learning_rate(layers, n=12, batch=5, label_scale=np.ones(2), noise_std=np.full(2, noise))
    assert np.isfinite(rates).all()
    cell = Cell(d_out=4, d_in=4, rank=1, n=12, steps=40, evaluations=2, init_scale=1e-60, label_noise_std=noise)
    row = rows(cell)[0]
    assert (row["status"], row["quantities"]) == ("budget_exhausted", {"untrained": 1.0})
    assert steps_to_leave(cell) == np.inf


def test_a_tiny_start_trains_with_the_step_size_of_the_smallest_interpolator():
    """Label noise next to tiny layers would allow 1e-12 of it; where the start is larger nothing changes."""
    cell = Cell(d_out=6, d_in=6, rank=1, n=30, steps=3000, depth=2, init_scale=1e-6, label_noise_std=0.3)
    row = rows(cell)[0]
    assert row["quantities"] is None
    assert row["relative_error"] < 0.5
    assert row["learning_rate_final"] > 1e-3
    assert steps_to_leave(cell) < cell.steps
    assert steps_to_leave(dataclasses.replace(cell, depth=3, width=(6, 6))) > cell.steps
    larger = dataclasses.replace(cell, init_scale=1e-3)
    assert larger.numerics["method"] + 1 == cell.numerics["method"]
    assert dataclasses.replace(cell, learning_rate=0.1).numerics == larger.numerics


def test_the_time_to_leave_a_small_start_is_that_of_gradient_descent():
    """Within a factor of 4 of when the training loss first falls by a tenth."""
    for depth, scale in ((2, 1e-5), (3, 5e-3)):
        cell = Cell(
            d_out=5, d_in=5, rank=1, n=400, steps=40_000, evaluations=201, depth=depth, init_scale=scale,
            method="gradient_descent", learning_rate=0.02, dtype="float64",
        )  # fmt: skip
        ((_, _, history),) = train(cell, (0,), RunSettings(engine="fused"), Hooks())
        left = next(row["step"] for row in history if row["train_loss"] < 0.9 * history[0]["train_loss"])
        assert 0.25 < steps_to_leave(cell) / left < 4.0, (depth, left, steps_to_leave(cell))
