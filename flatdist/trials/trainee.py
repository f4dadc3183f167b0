"""One replicate during training: its problem, its weights, its measurements, and its rows."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
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

HISTORY_METRICS = ("train_loss", "train_loss_max", "population_loss", "nuclear_norm", "hessian_trace")
UNTRAINED = 0.999  # of the first training loss: a loss that ends above it never fell
HISTORY_CLOCKS = ("learning_rate", "label_noise_std", "flow_time")


@dataclass
class Trainee:
    """One replicate while it is trained."""

    cell: Cell
    replicate: int
    problem: StoredProblem  # its measurements are stored as the engine wants them
    evaluator: Evaluator | None  # None where a pack is evaluated on its device
    layers: list[Array]
    state: list[Array]  # per layer what the update rule keeps, (slots, d_j, d_{j-1})
    step: int = 0
    learning_rate: float = math.nan
    flow_time: float = 0.0
    largest_loss: float = math.nan  # since the last evaluation
    diverged_at: int | None = None
    seconds: float = 0.0
    history: dict[str, Array] = field(default_factory=dict)  # column -> (evaluations,)
    snapshots: list[Array] = field(default_factory=list)  # per layer (BLOCK, d_j, d_{j-1})


def prepare(
    cell: Cell,
    replicate: int,
    engine: str,
    device: str,
    checkpoints: Checkpoints | None,
    sampled: Sampled | None = None,
) -> Trainee:
    """A replicate at its initialization, or at its newest checkpoint from the same engine and kind of device.

    Engines and devices differ in the bits, so any other checkpoint is reported and skipped. A problem that was
    ``sampled`` on a device is evaluated there.
    """
    started = time.perf_counter()
    problem = sampled.problem if sampled else sample_stored(cell, replicate, storage_dtype(cell, engine))
    evaluations = len(evaluation_steps(cell.steps, cell.evaluations))
    method = cell.training
    slots = 0 if method.update is None else len(method.update.state)
    drawn = sampled.draws if sampled else None
    layers = [layer.astype(cell.dtype) for layer in initial_layers(cell, replicate, drawn)]
    traces = sum(trace_evaluations(cell, method.drawn(cell)))
    trainee = Trainee(
        cell,
        replicate,
        problem,
        None if sampled else Evaluator(problem, cell.depth, traces, cell.dtype),
        layers,
        [np.zeros((slots, *layer.shape), cell.dtype) for layer in layers],
        history={name: np.full(evaluations, np.nan) for name in (*HISTORY_METRICS, *HISTORY_CLOCKS)},
    )
    trainee.snapshots = [np.zeros((BLOCK, *layer.shape)) for layer in trainee.layers]
    if checkpoints is not None:

        def objection(step: int, state: dict[str, Array]) -> str | None:
            return state_problem(cell, pack_state(trainee, engine, device), step, state)

        saved = checkpoints.latest(cell.cell_id, replicate, objection)
        if saved is not None:
            unpack_state(trainee, *saved)
    trainee.seconds += time.perf_counter() - started
    return trainee


def pack_state(trainee: Trainee, engine: str, device: str) -> dict[str, Array]:
    """A trainee's state as plain arrays; restoring it reproduces every later bit."""
    state = {f"layer_{j}": layer for j, layer in enumerate(trainee.layers)}
    state |= {f"snapshot_{j}": snapshot for j, snapshot in enumerate(trainee.snapshots)}
    state |= {f"kept_{j}": kept for j, kept in enumerate(trainee.state) if len(kept)}
    state |= {f"history_{name}": values for name, values in trainee.history.items()}
    diverged_at = -1 if trainee.diverged_at is None else trainee.diverged_at
    scalars = (trainee.learning_rate, trainee.flow_time, trainee.largest_loss, diverged_at, trainee.seconds)
    return state | {
        "scalars": np.array(scalars),
        "engine": np.array(engine),
        "device": np.array(device.split(":", maxsplit=1)[0]),
    }


def state_problem(cell: Cell, own: dict[str, Array], step: int, state: dict[str, Array]) -> str | None:
    """Why a saved state cannot be resumed here, or None.

    Args:
        cell: the cell.
        own: a state as this run packs it.
        step: the steps that the saved one has taken.
        state: the saved one.
    """
    state = {name: array for name, array in state.items() if name != "format"}
    if (
        "device" not in state and str(state.get("engine")) == "fused"
    ):  # release 0.1 did not record it: its engine ran on the CPU
        state["device"] = np.array("cpu")
    for name in ("engine", "device"):
        if name not in state or state[name].shape != () or str(state[name]) != str(own[name]):
            return f"its {name} is {str(state.get(name))[:40]!r}, and this run's is {str(own[name])!r}"
    if missing := own.keys() ^ state.keys():
        return f"it does not have the arrays of this version: {sorted(missing)[0]!r}"
    for name in own.keys() - {"engine", "device"}:
        if state[name].shape != own[name].shape or state[name].dtype != own[name].dtype:
            return f"{name!r} is {state[name].dtype}{state[name].shape}, not {own[name].dtype}{own[name].shape}"
    return None if 0 < step <= cell.steps else f"it has taken {step} steps of {cell.steps}"


def unpack_state(trainee: Trainee, step: int, state: dict[str, Array]) -> None:
    """Put a trainee back to a state that :func:`pack_state` made at a step."""
    trainee.step = step
    trainee.layers = [state[f"layer_{j}"] for j in range(len(trainee.layers))]
    trainee.state = [state[f"kept_{j}"] if len(kept) else kept for j, kept in enumerate(trainee.state)]
    trainee.snapshots = [state[f"snapshot_{j}"] for j in range(len(trainee.snapshots))]
    trainee.history = {name: state[f"history_{name}"] for name in trainee.history}
    trainee.learning_rate, trainee.flow_time, trainee.largest_loss, diverged_at, seconds = state["scalars"].tolist()
    trainee.diverged_at = None if diverged_at < 0 else int(diverged_at)
    trainee.seconds += seconds


@dataclass(frozen=True)
class Final:
    """What a device found at a replicate's end: the sharpness, and singular values of the product and of the truth."""

    sharpness: float
    singular: Array
    singular_truth: Array


def trial_row(trainee: Trainee, final: Final | None = None) -> dict[str, Any]:
    """The measured columns of a finished replicate's ``trials`` row; some of it may be known already."""
    cell = trainee.cell
    matrix = end_to_end([layer.astype(np.float64) for layer in trainee.layers])
    last_loss = float(trainee.history["train_loss"][-1])
    if trainee.diverged_at is None and not (np.isfinite(matrix).all() and math.isfinite(last_loss)):
        trainee.diverged_at = cell.steps
    diverged = trainee.diverged_at is not None
    sharpest = None
    if not diverged:
        sharpest = _number(final.sharpness if final else sharpness(trainee.layers, trainee.problem.measurements))
    known = (final.singular, final.singular_truth) if final else ()
    train_loss = None if diverged else last_loss
    converged = train_loss is not None and train_loss < CONVERGED_LOSS * float(np.mean(trainee.problem.labels**2))
    return final_metrics(None if diverged else matrix, trainee.problem, *known) | {
        "status": "diverged" if diverged else "converged" if converged else "budget_exhausted",
        "train_loss": train_loss,
        "sharpness": sharpest,
        "quantities": {"untrained": 1.0} if _is_untrained(trainee, last_loss) and not diverged else None,
        **{one.name: _number(one.training(trainee)) for one in (*RESULTS, *COSTS) if one.training is not None},
    }


def _is_untrained(trainee: Trainee, last_loss: float) -> bool:
    """Whether the loss never fell, as next to layers that start so small that their gradients vanish."""
    return last_loss >= UNTRAINED * float(trainee.history["train_loss"][0])


def history_rows(trainee: Trainee, first: int, stop: int) -> list[dict[str, Any]]:
    """History rows of evaluations first .. stop-1; a diverged replicate has none after the step it was noticed at."""
    steps = evaluation_steps(trainee.cell.steps, trainee.cell.evaluations)[first:stop]
    last = math.inf if trainee.diverged_at is None else trainee.diverged_at
    columns = (_numbers(kept[first:stop]) for kept in trainee.history.values())
    names = ("step", *trainee.history)
    rows = zip(steps.tolist(), *columns, strict=True)
    return [dict(zip(names, row, strict=True)) for row in rows if row[0] <= last]


def _numbers(values: Array) -> list[float | None]:
    found: list[float | None] = values.tolist()
    return found if np.isfinite(values).all() else [_number(value) for value in found]


def _number(value: float | None) -> float | None:
    """Null where there is no finite number; whole numbers whole."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(value)
