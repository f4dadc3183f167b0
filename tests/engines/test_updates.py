"""Update rules of methods: every engine applies them, checkpoints carry what they keep, and auto's steps are stable."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from flatdist.cells.cell import Cell
from flatdist.engines import load_engine
from flatdist.engines.batched import BatchedEngine
from flatdist.engines.fused import FusedEngine
from flatdist.engines.reference import ReferenceEngine
from flatdist.methods import METHODS
from flatdist.methods.base import UpdateRule
from flatdist.sensing.draws import Stream
from flatdist.trials.settings import Hooks, Interrupted, RunSettings
from flatdist.trials.train import train

STEPS, RATE, NOISE, MOMENTUM = 41, 0.02, 0.5, 0.8
HEAVY_BALL = METHODS["heavy_ball"].update


def decayed(weight, gradient, state, learning_rate, constants):
    return weight - learning_rate * (gradient + constants[0] * weight), ()


DECAY = UpdateRule(decayed, constants=lambda cell: (0.3,))


def trained(engine, task, cuts=(0, 17, STEPS)):
    session = engine.start(task)
    anneal = np.linspace(1, 0, STEPS)
    rates, noise = np.full(task.replicates, RATE), np.full(task.replicates, NOISE)
    for start, stop in itertools.pairwise(cuts):
        session.advance(start, stop, rates, noise, anneal[start:stop])
    return session.layers(), session.state()


def with_rule(make_task, rule, constants, **options):
    cell = Cell(d_out=5, d_in=3, rank=1, n=15, depth=3, width=[9, 4], dtype="float64", **options)
    task = make_task(cell, [0, 1, 5])
    return dataclasses.replace(task, update=rule, constants=np.array([constants] * 3))


def test_heavy_ball_is_torchs_sgd_with_momentum(make_task):
    task = with_rule(make_task, HEAVY_BALL, (MOMENTUM,))
    layers, _ = trained(ReferenceEngine(), task)
    weights = [torch.tensor(layer, requires_grad=True) for layer in task.layers[1]]
    optimizer = torch.optim.SGD(weights, lr=RATE, momentum=MOMENTUM)
    rows, labels = torch.tensor(task.measurements[1]), torch.tensor(task.labels[1])
    for step, anneal in enumerate(np.linspace(1, 0, STEPS)):
        keys = [tuple(int(word) for word in words[1]) for words in (task.batch_keys, task.noise_keys)]
        drawn = Stream(keys[0]).indices(np.array([step]), 7, 15)[0]
        noise = NOISE * anneal * torch.tensor(Stream(keys[1]).normals(np.array([step]), 7)[0])
        product = weights[2] @ weights[1] @ weights[0]
        optimizer.zero_grad()
        ((torch.einsum("iab,ab->i", rows[drawn], product) - labels[drawn] + noise) ** 2).mean().backward()
        optimizer.step()
    for ours, theirs in zip(layers, weights, strict=True):
        np.testing.assert_allclose(ours[1], theirs.detach().numpy(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("engine", [BatchedEngine(), FusedEngine()], ids=["batched", "fused"])
@pytest.mark.parametrize(
    ("rule", "constants"), [(HEAVY_BALL, (MOMENTUM,)), (DECAY, (0.3,))], ids=["velocity", "no state"]
)
def test_the_reference_is_matched_draw_for_draw(make_task, engine, rule, constants):
    task = with_rule(make_task, rule, constants)
    (expected, kept), (ours, state) = trained(ReferenceEngine(), task), trained(engine, task)
    plain = trained(engine, dataclasses.replace(task, update=None, constants=None))[0]
    for layer, a, b in zip(plain, expected, ours, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-13)
        assert np.abs(layer - a).max() > 1e-3, "the rule matters"
    assert [slots.shape[1] for slots in state] == [len(rule.state)] * 3
    for a, b in zip(kept, state, strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", [ReferenceEngine(), BatchedEngine(), FusedEngine()], ids=lambda engine: engine.name)
def test_a_run_goes_on_from_its_layers_and_its_state_to_the_bit(make_task, engine):
    task = with_rule(make_task, HEAVY_BALL, (MOMENTUM,))
    anneal, full = np.ones(STEPS), np.full(3, RATE)
    whole = engine.start(task)
    whole.advance(0, 20, full, full, anneal[:20])
    layers, state = whole.layers(), whole.state()
    again = engine.start(
        dataclasses.replace(
            task,
            layers=[[layer[r] for layer in layers] for r in range(3)],
            state=[[slots[r] for slots in state] for r in range(3)],
        )
    )
    for session in (whole, again):
        session.advance(20, STEPS, full, full, anneal[20:])
    for a, b in zip([*whole.layers(), *whole.state()], [*again.layers(), *again.state()], strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(whole.state()[0]).max() > 0


class Kept(dict):
    """Checkpoints in a dictionary, the newest one kept."""

    def save(self, cell_id, replicate, step, arrays):
        self[cell_id, replicate] = step, {name: np.array(value) for name, value in arrays.items()}

    def latest(self, cell_id, replicate, problem):
        saved = self.get((cell_id, replicate))
        return None if saved is None or problem(*saved) else saved

    def discard(self, cell_id, replicate):
        self.pop((cell_id, replicate), None)


@pytest.mark.parametrize("engine", ["batched", "fused"])
def test_an_interrupted_heavy_ball_resumes_with_its_velocity(engine):
    cell = Cell(d_out=6, d_in=5, rank=1, n=25, steps=900, evaluations=5, method="heavy_ball")

    def finished(hooks):
        return {r: row | {"wall_seconds": 0} for r, row, _ in train(cell, [0, 1], RunSettings(engine=engine), hooks)}

    whole, kept, calls = finished(Hooks()), Kept(), iter(range(10**6))
    with pytest.raises(Interrupted):
        finished(Hooks(checkpoints=kept, should_stop=lambda: next(calls) == 3))
    assert {step for step, _ in kept.values()} == {450}
    assert finished(Hooks(checkpoints=kept)) == whole
    for _, arrays in kept.values():  # the velocity is needed: without it the run goes elsewhere
        arrays["kept_0"][:] = 0.0
    assert finished(Hooks(checkpoints=kept))[0]["train_loss"] != whole[0]["train_loss"]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9, 0.99])
def test_a_step_divided_by_the_gain_is_stable_in_mean_square_where_sgd_is(momentum):
    """E[(x, v)^2] under v <- momentum v + h x, x <- x - eta v with E h = lambda, E h^2 = lambda (lambda + tau)."""
    cell = Cell(d_out=4, d_in=4, rank=1, n=9, method="heavy_ball", momentum=momentum)
    gain = cell.spec.gain(cell)
    assert gain == pytest.approx(1 / (1 - momentum))
    for curvature, batch_noise in itertools.product((1e-3, 0.1, 1.0), (0.0, 0.1, 1.0, 100.0)):
        eta = 0.6 * 2 / (curvature + batch_noise) / gain  # auto's fraction of the stability limit of SGD
        second = curvature * (curvature + batch_noise)
        # In the basis (x^2, x v, v^2): v' = m v + h x, x' = x - eta v'.
        m = momentum
        v2 = np.array([second, 2 * m * curvature, m**2])
        xv = np.array([curvature, m, 0.0]) - eta * v2
        x2 = np.array([1.0, 0.0, 0.0]) - 2 * eta * np.array([curvature, m, 0.0]) + eta**2 * v2
        assert np.abs(np.linalg.eigvals(np.array([x2, xv, v2]))).max() < 1


def test_auto_recovers_untuned_and_counts_flow_time_by_the_gain():
    cell = Cell(d_out=8, d_in=8, rank=1, n=50, method="heavy_ball", momentum=0.9, steps=12000, evaluations=5)
    plain = dataclasses.replace(cell, method="label_noise_sgd")
    rows = {one.method: [row for _, row, _ in train(one, [0, 1], RunSettings(), Hooks())] for one in (cell, plain)}
    for ours, theirs in zip(rows["heavy_ball"], rows["label_noise_sgd"], strict=True):
        assert ours["status"] == "converged"
        assert ours["relative_error"] < 1e-2
        assert ours["learning_rate_final"] == pytest.approx(0.1 * theirs["learning_rate_final"], rel=0.1)
        assert ours["flow_time"] == pytest.approx(theirs["flow_time"], rel=0.35)


def test_auto_takes_an_engine_that_can():
    assert load_engine("auto", "cpu", Cell(d_out=4, d_in=4, rank=1, n=9, method="heavy_ball")).name == "fused"
    only = dataclasses.replace(METHODS["heavy_ball"], name="only_reference", engines=("reference",))
    METHODS[only.name] = only
    try:
        cell = Cell(d_out=4, d_in=4, rank=1, n=9, method="only_reference", steps=3, evaluations=2)
        assert load_engine("auto", "cpu", cell).name == "reference"
        assert next(train(cell, [0], RunSettings(), Hooks()))[1]["engine"] == "reference"
    finally:
        del METHODS[only.name]
