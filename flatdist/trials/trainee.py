"""One replicate: its problem and the state that checkpoints carry before its training, its rows afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.columns import COSTS, RESULTS
from flatdist.cells.problems import StoredProblem, sample_stored, storage_dtype
from flatdist.factorization.evaluation import (
    BLOCK,
    CONVERGED_LOSS,
    Evaluator,
    evaluation_steps,
    final_metrics,
    trace_evaluations,
)
from flatdist.factorization.flatness import sharpness
from flatdist.factorization.products import end_to_end, initial_layers
from flatdist.trials.settings import Checkpoints
from flatdist.types import Array

if TYPE_CHECKING:
    from flatdist.trials.on_device import Sampled

CLOCKS = ("learning_rate", "label_noise_std", "flow_time")
HISTORY = ("train_loss", "train_loss_max", "population_loss", "nuclear_norm", "hessian_trace", *CLOCKS)
UNTRAINED = 0.999  # of the first training loss: a loss that ends above it never fell


@dataclass
class Trainee:
    """A replicate, and its state (see :func:`packed`) after some steps, which took some seconds in this process."""

    cell: Cell
    replicate: int
    problem: StoredProblem  # its measurements are stored as the engine wants them
    evaluator: Evaluator | None  # None where a pack is evaluated on its device
    step: int
    state: Mapping[str, Array]
    seconds: float


def prepare(
    cell: Cell,
    replicate: int,
    ran_on: Mapping[str, str],
    checkpoints: Checkpoints | None,
    sampled: Sampled | None = None,
) -> Trainee:
    """A replicate at its initialization, or at its newest checkpoint from the same engine and kind of device.

    Engines and devices differ in the bits, so any other checkpoint is reported and skipped. A problem that was
    ``sampled`` on a device is evaluated there.
    """
    started = time.perf_counter()
    problem = sampled.problem if sampled else sample_stored(cell, replicate, storage_dtype(cell, ran_on["engine"]))
    method, evaluations = cell.training, len(evaluation_steps(cell.steps, cell.evaluations))
    slots = 0 if method.update is None else len(method.update.state)
    layers = initial_layers(cell, replicate, sampled.draws if sampled else None)
    traces = sum(trace_evaluations(cell, method.drawn(cell)))
    evaluator = None if sampled else Evaluator(problem, cell.depth, traces, cell.dtype)
    step, state = (
        0,
        packed(
            [layer.astype(cell.dtype) for layer in layers],
            [np.zeros((BLOCK, *layer.shape)) for layer in layers],
            [np.zeros((slots, *layer.shape), cell.dtype) for layer in layers],
            {name: np.full(evaluations, np.nan) for name in HISTORY},
            np.array([math.nan, 0.0, math.nan, -1.0, 0.0]),
            ran_on,
        ),
    )
    if checkpoints is not None:
        step, state = checkpoints.latest(cell.cell_id, replicate, partial(state_problem, cell, state)) or (step, state)
    return Trainee(cell, replicate, problem, evaluator, step, state, time.perf_counter() - started)


def packed(
    layers: Sequence[Array],
    snapshots: Sequence[Array],
    kept: Sequence[Array],
    history: Mapping[str, Array],
    scalars: Array,
    ran_on: Mapping[str, str],
) -> dict[str, Array]:
    """A replicate's state as plain arrays; restoring it reproduces every later bit.

    Args:
        layers: W_1 ... W_L.
        snapshots: per layer those of the block of evaluations in progress, (BLOCK, d_j, d_{j-1}).
        kept: per layer what the update rule keeps, (slots, d_j, d_{j-1}).
        history: column -> (evaluations,).
        scalars: learning rate, flow time, largest loss since the last evaluation, the step at which divergence was
            noticed (or -1), and seconds.
        ran_on: engine and device.
    """
    state = {f"layer_{j}": layer for j, layer in enumerate(layers)}
    state |= {f"snapshot_{j}": snapshot for j, snapshot in enumerate(snapshots)}
    state |= {f"kept_{j}": slots for j, slots in enumerate(kept) if len(slots)}
    state |= {f"history_{name}": values for name, values in history.items()}
    kind = ran_on["device"].split(":", maxsplit=1)[0]
    return state | {"scalars": scalars, "engine": np.array(ran_on["engine"]), "device": np.array(kind)}


def state_problem(cell: Cell, own: Mapping[str, Array], step: int, state: Mapping[str, Array]) -> str | None:
    """Why a saved state after some steps cannot be resumed where a run packs its ``own``; None if it can."""
    state = {name: array for name, array in state.items() if name != "format"}
    if "device" not in state and str(state.get("engine")) == "fused":
        state["device"] = np.array("cpu")  # release 0.1 did not record it: its engine ran on the CPU
    for name in ("engine", "device"):
        if name not in state or state[name].shape != () or str(state[name]) != str(own[name]):
            return f"its {name} is {str(state.get(name))[:40]!r}, and this run's is {str(own[name])!r}"
    if missing := own.keys() ^ state.keys():
        return f"it does not have the arrays of this version: {sorted(missing)[0]!r}"
    for name in own.keys() - {"engine", "device"}:
        if state[name].shape != own[name].shape or state[name].dtype != own[name].dtype:
            return f"{name!r} is {state[name].dtype}{state[name].shape}, not {own[name].dtype}{own[name].shape}"
    return None if 0 < step <= cell.steps else f"it has taken {step} steps of {cell.steps}"


@dataclass(frozen=True)
class Trained:
    """A replicate in its training or after it, for its rows."""

    cell: Cell
    problem: StoredProblem
    history: Mapping[str, Array]  # column -> (evaluations,)
    learning_rate: float
    flow_time: float
    seconds: float
    diverged_at: int | None  # step at which that was noticed


def trial_row(
    trained: Trained, layers: Sequence[Array], sharpest: float | None = None, *singular: Array
) -> dict[str, Any]:
    """The measured columns of a finished replicate's ``trials`` row; some of it may be known already.

    Args:
        trained: the replicate.
        layers: W_1 ... W_L at the end.
        sharpest: largest eigenvalue of the Hessian.
        singular: singular values of the product of layers and of the ground truth.
    """
    matrix = end_to_end([layer.astype(np.float64) for layer in layers])
    first_loss, last_loss = trained.history["train_loss"][[0, -1]].tolist()
    if trained.diverged_at is None and not (np.isfinite(matrix).all() and math.isfinite(last_loss)):
        trained = replace(trained, diverged_at=trained.cell.steps)
    diverged, problem = trained.diverged_at is not None, trained.problem
    converged = not diverged and last_loss < CONVERGED_LOSS * float(np.mean(problem.labels**2))
    if sharpest is None and not diverged:
        sharpest = sharpness(layers, problem.measurements)
    # A loss that never fell: next to layers that start so small, gradients vanish.
    untrained = not diverged and last_loss >= UNTRAINED * first_loss
    return final_metrics(None if diverged else matrix, problem, *singular) | {
        "status": "diverged" if diverged else "converged" if converged else "budget_exhausted",
        "train_loss": None if diverged else last_loss,
        "sharpness": None if diverged else _number(sharpest),
        "quantities": {"untrained": 1.0} if untrained else None,
        **{one.name: _number(one.training(trained)) for one in (*RESULTS, *COSTS) if one.training is not None},
    }


def history_rows(trained: Trained, first: int, stop: int) -> list[dict[str, Any]]:
    """History rows of evaluations first .. stop-1; a diverged replicate has none after the step it was noticed at."""
    steps = evaluation_steps(trained.cell.steps, trained.cell.evaluations)[first:stop].tolist()
    last = math.inf if trained.diverged_at is None else trained.diverged_at
    columns = [kept[first:stop] for kept in trained.history.values()]
    numbers = [kept.tolist() if np.isfinite(kept).all() else [_number(value) for value in kept] for kept in columns]
    names = ("step", *trained.history)
    return [dict(zip(names, row, strict=True)) for row in zip(steps, *numbers, strict=True) if row[0] <= last]


def _number(value: float | None) -> float | None:
    """Null where there is no finite number; whole numbers whole."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(value)
