"""The driver of gradient methods: schedules, histories, statuses, interruption."""

import math

import numpy as np
import pytest

from flatdist.cells.cell import Cell
from flatdist.cells.problems import sample_arrays
from flatdist.engines import load_engine, resolve_engine
from flatdist.errors import LaunchError, SettingsError
from flatdist.factorization.evaluation import evaluation_steps, trace_evaluations
from flatdist.factorization.flatness import hessian_trace
from flatdist.factorization.products import end_to_end, initial_layers
from flatdist.trials.run import run_replicates
from flatdist.trials.settings import Hooks, Interrupted, RunSettings
from flatdist.trials.train import noise_schedule, segment_ends, train

CELL = Cell(d_out=6, d_in=5, rank=1, n=25, steps=2300, learning_rate=0.03, evaluations=20)
MEASURED = ("status", "train_loss", "train_loss_max", "population_loss", "relative_error", "nuclear_norm")
MEASURED += (
    "frobenius_norm",
    "hessian_trace",
    "singular_values",
    "flow_time",
    "steps_run",
    "learning_rate_final",
    "effective_rank",
)


class Memory:
    """Checkpoints in a dictionary, the newest one kept."""

    def __init__(self):
        self.states = {}

    def save(self, cell_id, replicate, step, arrays):
        self.states[cell_id, replicate] = step, {name: np.array(value) for name, value in arrays.items()}

    def latest(self, cell_id, replicate, objection=lambda step, state: None):
        saved = self.states.get((cell_id, replicate))
        return None if saved is None or objection(*saved) else saved

    def discard(self, cell_id, replicate):
        self.states.pop((cell_id, replicate), None)


def results(cell, replicates, engine="batched", hooks=None):
    produced = train(cell, replicates, RunSettings(engine=engine), hooks or Hooks())
    return {replicate: (row, history) for replicate, row, history in produced}


def same(first, second):
    assert [first[0][name] for name in MEASURED] == [second[0][name] for name in MEASURED]
    assert first[1] == second[1]


def test_history_starts_at_the_initialisation_and_ends_at_the_result():
    row, history = results(CELL, [3])[3]
    assert [entry["step"] for entry in history] == evaluation_steps(2300, 20).tolist()
    assert (history[0]["step"], history[-1]["step"], len(history)) == (0, 2300, 20)
    problem = sample_arrays(CELL, 3, "float32")
    layers = [layer.astype(np.float32).astype(float) for layer in initial_layers(CELL, 3)]
    start = end_to_end(layers)
    residuals = np.einsum("iab,ab->i", problem.measurements, start) - problem.labels
    assert history[0]["train_loss"] == pytest.approx(np.mean(residuals**2), rel=1e-5)
    assert history[0]["population_loss"] == pytest.approx(np.sum((start - problem.ground_truth) ** 2), rel=1e-12)
    assert history[0]["hessian_trace"] == pytest.approx(hessian_trace(layers, problem.measurements), rel=1e-6)
    for name in ("train_loss", "population_loss", "nuclear_norm", "hessian_trace", "flow_time"):
        assert row[name] == pytest.approx(history[-1][name], rel=1e-12)
    assert row["status"] == "converged"
    assert row["train_loss"] < 1e-4 * np.mean(problem.labels**2)
    assert row["nuclear_norm"] == pytest.approx(sum(row["singular_values"]), rel=1e-12)


def test_flow_time_is_the_sum_over_the_steps():
    row, history = results(CELL, [0])[0]
    squared_truth = np.sum(sample_arrays(CELL, 0).ground_truth ** 2)
    per_step = 0.03**2 * squared_truth * noise_schedule(CELL) ** 2 / (2 * 50)
    for entry in history:
        assert entry["flow_time"] == pytest.approx(per_step[: entry["step"]].sum(), rel=1e-9)
    assert row["flow_time"] > 0


def test_noise_is_annealed_to_zero_over_the_tail():
    factors = noise_schedule(Cell(d_out=3, d_in=3, rank=1, n=5, steps=1000, anneal_fraction=0.3))
    assert (factors[:700] == 1).all()
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert (np.diff(factors[700:]) < 0).all()
    assert factors[849] == pytest.approx(0.5, abs=1e-12)
    constant = noise_schedule(Cell(d_out=3, d_in=3, rank=1, n=5, steps=10, schedule="constant"))
    assert (constant == 1).all()


def test_a_replicate_does_not_depend_on_its_company():
    alone, packed = results(CELL, [2]), results(CELL, [0, 2, 5, 1, 9])
    same(alone[2], packed[2])


def test_how_often_a_run_is_evaluated_does_not_change_it():
    import dataclasses

    often = results(CELL, [1])[1][0]
    rarely = results(dataclasses.replace(CELL, evaluations=2), [1])[1][0]
    assert often["singular_values"] == rarely["singular_values"]


@pytest.mark.parametrize("learning_rate", [0.03, "auto"])
@pytest.mark.parametrize("depth", [2, 4])
def test_an_interrupted_run_resumes_to_the_bit(learning_rate, depth):
    cell = Cell(d_out=6, d_in=5, rank=1, n=25, depth=depth, steps=2300, learning_rate=learning_rate, evaluations=20)
    whole = results(cell, [0, 1])
    memory, pieces, finished = Memory(), 0, {}
    while len(finished) < 2:
        calls = iter(range(10**6))
        hooks = Hooks(checkpoints=memory, should_stop=lambda calls=calls: next(calls) == 6)
        try:
            finished |= results(cell, [0, 1] if pieces != 1 else [1], hooks=hooks)
        except Interrupted:
            pieces += 1
    assert pieces >= 3
    for replicate in (0, 1):
        same(whole[replicate], finished[replicate])


def test_a_run_is_not_resumed_by_another_engine():
    memory, calls = Memory(), iter(range(10**6))
    with pytest.raises(Interrupted):
        results(CELL, [0], "batched", Hooks(checkpoints=memory, should_stop=lambda: next(calls) == 6))
    assert memory.states
    same(results(CELL, [0], "fused", Hooks(checkpoints=memory))[0], results(CELL, [0], "fused")[0])


def test_a_diverging_run_is_a_result():
    cell = Cell(d_out=6, d_in=5, rank=1, n=25, steps=2300, learning_rate=5.0, evaluations=20)
    (outcome,) = run_replicates(cell, [0], RunSettings(engine="batched"))
    assert outcome.trial["status"] == "diverged"
    assert outcome.trial["steps_run"] == segment_ends(cell)[0]
    assert outcome.trial["train_loss"] is None
    assert "population_loss" not in outcome.trial or outcome.trial["population_loss"] is None
    assert [entry["step"] for entry in outcome.history] == [0, segment_ends(cell)[0]]
    numbers = [value for value in outcome.history[0].values() if isinstance(value, float)]
    assert len(numbers) >= 6
    assert all(math.isfinite(value) for value in numbers)


def test_only_divergence_and_convergence_have_a_status_of_their_own():
    short = Cell(d_out=6, d_in=5, rank=1, n=25, steps=5, learning_rate=0.01)
    assert results(short, [0])[0][0]["status"] == "budget_exhausted"


@pytest.mark.parametrize("method", ["minibatch_sgd", "gradient_descent", "sam"])
def test_methods_agree_between_engines(method):
    cell = Cell(d_out=5, d_in=4, rank=1, n=15, steps=60, learning_rate=0.02, method=method, dtype="float64")
    expected, ours = results(cell, [0, 1], "reference"), results(cell, [0, 1], "batched")
    for replicate in (0, 1):
        np.testing.assert_allclose(
            ours[replicate][0]["singular_values"], expected[replicate][0]["singular_values"], rtol=1e-9, atol=1e-12
        )
        assert ours[replicate][0]["flow_time"] == 0


def test_live_history_is_the_history_that_is_returned():
    heard = {0: [], 1: []}
    steps = []
    hooks = Hooks(on_history=lambda replicate, rows: heard[replicate].extend(rows), on_steps=steps.append)
    returned = results(CELL, [0, 1], hooks=hooks)
    assert {replicate: history for replicate, (_, history) in returned.items()} == heard
    assert sum(steps) == 2 * CELL.steps


def test_expensive_traces_are_spread_evenly_and_always_include_both_ends():
    cheap = trace_evaluations(Cell(d_out=12, d_in=12, rank=1, n=60), 50)
    assert len(cheap) == 64
    assert all(cheap)
    sparse = trace_evaluations(Cell(d_out=60, d_in=60, rank=1, n=1200, depth=5), 50)
    gaps = np.diff(np.flatnonzero(sparse))
    assert gaps.max() - gaps.min() <= 1
    assert sparse[0]
    assert sparse[-1]
    assert 2 <= sum(sparse) < 64


def test_engines_are_refused_by_name_and_device():
    with pytest.raises(LaunchError, match=r"engine 'fussed' does not exist \(did you mean 'fused'\?\)"):
        load_engine("fussed")
    with pytest.raises(LaunchError, match="fused engine runs on the CPU"):
        load_engine("fused", "cuda:0")
    with pytest.raises(LaunchError, match="device 'tpu' is not a device"):
        load_engine("batched", "tpu")
    with pytest.raises(LaunchError, match="reference engine runs on the CPU"):
        load_engine("reference", "cuda:0")
    assert resolve_engine("auto", "cpu") == "fused"
    assert resolve_engine("auto", "cuda:1", Cell(d_out=80, d_in=9, rank=1, n=9)) == "batched"  # too wide for a chip
    assert resolve_engine("auto", "cuda:1", Cell(d_out=8, d_in=9, rank=1, n=9, method="heavy_ball")) == "batched"
    with pytest.raises(LaunchError, match="the triton engine does not run heavy_ball; allowed: auto, fused, batched"):
        resolve_engine("triton", "cuda", Cell(d_out=8, d_in=9, rank=1, n=9, method="heavy_ball"))
    with pytest.raises(SettingsError, match="threads must be a whole number of at least 1"):
        RunSettings(threads=0)
