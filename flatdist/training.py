"""Training one cell's replicates by a gradient method, on any engine.

The steps are taken in segments whose ends depend on the cell alone: evaluations, re-estimates of an automatic step
size, and at most ``SEGMENT_STEPS``. At each end a run can be stopped and resumed without changing a bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from flatdist.cell import Cell
from flatdist.draws import stream_key
from flatdist.draws.stream import BATCH, LABEL_NOISE
from flatdist.engines import Engine
from flatdist.engines.base import Session, TrainingTask
from flatdist.ensembles import ENSEMBLES
from flatdist.factorization import end_to_end, initial_layers
from flatdist.learning_rate import estimate_steps, stable_learning_rate
from flatdist.methods.base import GradientMethod
from flatdist.metrics import (
    BLOCK,
    CONVERGED_LOSS,
    Evaluator,
    evaluation_steps,
    final_metrics,
    trace_evaluations,
)
from flatdist.problems import Problem, frobenius_norm, sample_arrays
from flatdist.types import Array

SEGMENT_STEPS = 1000
HISTORY_METRICS = ("train_loss", "train_loss_max", "population_loss", "nuclear_norm", "hessian_trace")
HISTORY_CLOCKS = ("learning_rate", "label_noise_std", "flow_time")


class Interrupted(Exception):
    """Training was asked to stop; what was checkpointed can be resumed."""


class Checkpoints(Protocol):
    """Where unfinished replicates are kept."""

    def save(self, cell_id: str, replicate: int, step: int, arrays: dict[str, Array]) -> None:
        """Keep a replicate's state at a step."""

    def latest(self, cell_id: str, replicate: int) -> tuple[int, dict[str, Array]] | None:
        """The newest kept state of a replicate, if there is one."""

    def discard(self, cell_id: str, replicate: int) -> None:
        """Forget a replicate's states."""


@dataclass(frozen=True)
class Hooks:
    """What the caller of a training run wants to be told, and how it can stop the run.

    Attributes:
        checkpoints: where to keep unfinished replicates; None for nowhere.
        checkpoint_seconds: time between two checkpoints.
        should_stop: asked at the end of every segment.
        on_steps: told the replicate-steps taken since the last call.
        on_history: given a replicate's number and its new history rows as they are evaluated.
    """

    checkpoints: Checkpoints | None = None
    checkpoint_seconds: float = 60.0
    should_stop: Callable[[], bool] = lambda: False
    on_steps: Callable[[int], None] = lambda steps: None
    on_history: Callable[[int, list[dict[str, Any]]], None] | None = None


@dataclass
class Trainee:
    """One replicate while it is trained."""

    replicate: int
    problem: Problem[Array]  # its measurements are stored as the engine wants them
    evaluator: Evaluator
    layers: list[Array]
    step: int = 0
    learning_rate: float = math.nan
    flow_time: float = 0.0
    largest_loss: float = math.nan  # since the last evaluation
    diverged_at: int | None = None
    seconds: float = 0.0
    history: dict[str, Array] = field(default_factory=dict)  # column -> (evaluations,)
    snapshots: list[Array] = field(default_factory=list)  # per layer (BLOCK, d_j, d_{j-1})


def train(
    cell: Cell, replicates: Sequence[int], engine: Engine, *, threads: int, device: str, hooks: Hooks
) -> Iterator[tuple[int, dict[str, Any], list[dict[str, Any]]]]:
    """Train replicates of a cell together, resuming those that were checkpointed.

    Args:
        cell: a cell of a gradient method.
        replicates: numbers of the replicates.
        engine: what executes the steps.
        threads: CPU threads for the engine.
        device: ``cpu`` or a torch device.
        hooks: checkpoints, progress and interruption.

    Yields:
        Per replicate its number, the measured columns of its ``trials`` row, and its ``history`` rows.

    Raises:
        Interrupted: ``hooks.should_stop`` said so; unfinished replicates were checkpointed.
    """
    trainees = [_prepare(cell, replicate, engine.name, hooks.checkpoints) for replicate in replicates]
    for step in sorted({trainee.step for trainee in trainees}):
        together = [trainee for trainee in trainees if trainee.step == step]
        run = _Run(cell, together, engine, threads=threads, device=device, hooks=hooks)
        run.finish()
        for trainee in together:
            yield trainee.replicate, _trial_row(cell, trainee), _history_rows(cell, trainee, 0, len(run.evaluations))


def gradient_method(cell: Cell) -> GradientMethod:
    """The cell's method, which must be a gradient method."""
    method = cell.spec
    assert isinstance(method, GradientMethod), f"{cell.method} takes no gradient steps"
    return method


def batch_size(cell: Cell) -> int | None:
    """Indices drawn at each step; None where every index is used once."""
    batch = gradient_method(cell).batch
    return {"drawn": cell.batch_size, "full": None, "one": 1}[batch]


def drawn_per_step(cell: Cell) -> int:
    """Number of measurements behind one step's gradient."""
    batch = batch_size(cell)
    return cell.n if batch is None else batch


def noise_schedule(cell: Cell) -> Array:
    """Factors on the label noise at each step, (steps,) float64.

    With ``cosine_tail`` they fall from 1 to 0 as (1 + cos(pi x)) / 2 over the last ``anneal_fraction`` of the steps.
    """
    factors = np.ones(cell.steps)
    if cell.schedule == "cosine_tail":
        first = cell.steps - round(cell.anneal_fraction * cell.steps)
        position = (np.arange(first, cell.steps) + 1 - first) / max(1, cell.steps - first)
        factors[first:] = 0.5 * (1.0 + np.cos(np.pi * position))
    return factors


def segment_ends(cell: Cell) -> list[int]:
    """Steps at which training pauses; they depend on the cell alone."""
    ends = {*evaluation_steps(cell.steps, cell.evaluations).tolist(), *range(0, cell.steps, SEGMENT_STEPS)}
    if cell.learning_rate is None:
        ends.update(estimate_steps(cell.steps))
    return sorted(ends - {0})


def storage_dtype(cell: Cell, engine: str) -> str:
    """How an engine stores the measurements: the fused engine reads signs as int8, a quarter of float32's bytes."""
    return "int8" if engine == "fused" and ENSEMBLES[cell.ensemble].signs else cell.dtype


class _Run:
    """Replicates of one cell that stand at the same step, trained to the end."""

    def __init__(
        self, cell: Cell, trainees: list[Trainee], engine: Engine, *, threads: int, device: str, hooks: Hooks
    ) -> None:
        self.cell, self.trainees, self.hooks = cell, trainees, hooks
        method = gradient_method(cell)
        self.evaluations = evaluation_steps(cell.steps, cell.evaluations).tolist()
        self.drawn = drawn_per_step(cell)
        self.with_trace = trace_evaluations(cell, self.drawn)
        self.anneal = noise_schedule(cell)
        self.relative_noise = cell.label_noise_std if method.label_noise else 0.0
        self.noise_std = np.array([self.relative_noise * frobenius_norm(t.problem.ground_truth) for t in trainees])
        self.estimates = set(estimate_steps(cell.steps)) if cell.learning_rate is None else set()
        self.label_scale = np.array([np.sqrt(np.mean(t.problem.labels**2)) for t in trainees])
        self.sam_radius = cell.sam_radius if method.sharpness_aware else None
        self.snapshots = [np.stack(alike) for alike in zip(*(t.snapshots for t in trainees), strict=True)]
        for r, trainee in enumerate(trainees):  # each replicate keeps a view of what is written for all at once
            trainee.snapshots = [snapshot[r] for snapshot in self.snapshots]
        self.session: Session = engine.start(
            TrainingTask(
                widths=cell.widths,
                measurements=[t.problem.measurements for t in trainees],
                labels=[t.problem.labels.astype(cell.dtype) for t in trainees],
                layers=[t.layers for t in trainees],
                batch_keys=_keys(cell, trainees, BATCH),
                noise_keys=_keys(cell, trainees, LABEL_NOISE),
                batch_size=batch_size(cell),
                label_noise=method.label_noise,
                sam_radius=self.sam_radius,
                dtype=cell.dtype,
                threads=threads,
                device=device,
            )
        )

    def finish(self) -> None:
        """Take all remaining steps."""
        step = self.trainees[0].step
        self._since = self._saved = time.perf_counter()
        if step == 0:
            self._update_learning_rates(0)
            self._evaluate(0)
        for end in segment_ends(self.cell):
            if end <= step:
                continue
            self._advance(step, end)
            step = end
            if step in self.evaluations:
                self._evaluate(self.evaluations.index(step))
            if step < self.cell.steps:
                self._update_learning_rates(step)
                self._pause(step)
        for trainee, layers in zip(self.trainees, _by_replicate(self.session.layers()), strict=True):
            trainee.layers = layers
        if len(self.evaluations) % BLOCK:
            self._flush(len(self.evaluations))
        self._share_time()

    def _advance(self, start: int, stop: int) -> None:
        rates = np.array([t.learning_rate for t in self.trainees])
        anneal = self.anneal[start:stop]
        largest = self.session.advance(start, stop, rates, self.noise_std, anneal)
        squared = float(np.vdot(anneal, anneal))
        for trainee, rate, noise, loss in zip(
            self.trainees, rates.tolist(), self.noise_std.tolist(), largest.tolist(), strict=True
        ):
            trainee.step = stop
            trainee.flow_time += (rate * noise) ** 2 / (2 * self.drawn) * squared
            if not math.isfinite(loss):
                trainee.diverged_at = stop if trainee.diverged_at is None else trainee.diverged_at
            if not trainee.largest_loss >= loss and not math.isnan(loss):  # the interval's maximum starts out as NaN
                trainee.largest_loss = loss
        self.hooks.on_steps((stop - start) * len(self.trainees))

    def _update_learning_rates(self, step: int) -> None:
        if self.cell.learning_rate is not None:
            for trainee in self.trainees:
                trainee.learning_rate = self.cell.learning_rate
        elif step in self.estimates:
            estimates = stable_learning_rate(
                self.session.layers(),
                n=self.cell.n,
                batch=self.drawn,
                label_scale=self.label_scale,
                noise_std=self.noise_std,
                sam_radius=self.sam_radius or 0.0,
            )
            for trainee, estimate in zip(self.trainees, estimates, strict=True):
                trainee.learning_rate = float(estimate)

    def _evaluate(self, index: int) -> None:
        """Keep the current weights for evaluation ``index``, and evaluate when a block of them is full."""
        layers = self.session.layers()
        step = self.evaluations[index]
        noise = self.relative_noise * (self.anneal[step - 1] if step else 1.0)
        for snapshot, layer in zip(self.snapshots, layers, strict=True):
            snapshot[:, index % BLOCK] = layer
        for trainee in self.trainees:
            trainee.history["train_loss_max"][index] = trainee.largest_loss
            trainee.largest_loss = math.nan
            clocks = zip(HISTORY_CLOCKS, (trainee.learning_rate, noise, trainee.flow_time), strict=True)
            for name, value in clocks:
                trainee.history[name][index] = value
        if index % BLOCK == BLOCK - 1:
            self._flush(index + 1)

    def _flush(self, stop: int) -> None:
        """Evaluate the snapshots of the block that ends before evaluation ``stop``."""
        first = (stop - 1) // BLOCK * BLOCK
        wanted = (self.with_trace[first:stop] + [False] * BLOCK)[:BLOCK]
        for trainee in self.trainees:
            measured = trainee.evaluator(trainee.snapshots, wanted)
            for name, values in measured.items():
                trainee.history[name][first:stop] = values[: stop - first]
            if self.hooks.on_history is not None:
                self.hooks.on_history(trainee.replicate, _history_rows(self.cell, trainee, first, stop))

    def _pause(self, step: int) -> None:
        """Checkpoint where it is time, and stop where asked to."""
        stop = self.hooks.should_stop()
        now = time.perf_counter()
        if self.hooks.checkpoints is not None and (stop or now - self._saved >= self.hooks.checkpoint_seconds):
            self._share_time()
            for trainee, layers in zip(self.trainees, _by_replicate(self.session.layers()), strict=True):
                trainee.layers = layers
                self.hooks.checkpoints.save(self.cell.cell_id, trainee.replicate, step, _pack(trainee))
            self._saved = now
        if stop:
            raise Interrupted

    def _share_time(self) -> None:
        now = time.perf_counter()
        for trainee in self.trainees:
            trainee.seconds += (now - self._since) / len(self.trainees)
        self._since = now


def _prepare(cell: Cell, replicate: int, engine: str, checkpoints: Checkpoints | None) -> Trainee:
    started = time.perf_counter()
    problem = sample_arrays(cell, replicate, storage_dtype(cell, engine))
    evaluations = len(evaluation_steps(cell.steps, cell.evaluations))
    trainee = Trainee(
        replicate,
        problem,
        Evaluator(problem, cell.depth, sum(trace_evaluations(cell, drawn_per_step(cell)))),
        [layer.astype(cell.dtype) for layer in initial_layers(cell, replicate)],
        history={name: np.full(evaluations, np.nan) for name in (*HISTORY_METRICS, *HISTORY_CLOCKS)},
    )
    trainee.snapshots = [np.zeros((BLOCK, *layer.shape)) for layer in trainee.layers]
    saved = checkpoints.latest(cell.cell_id, replicate) if checkpoints is not None else None
    if saved is not None:
        _unpack(trainee, *saved)
    trainee.seconds += time.perf_counter() - started
    return trainee


def _keys(cell: Cell, trainees: Sequence[Trainee], purpose: str) -> Array:
    name = cell.training_stream()
    return np.array([stream_key(name, trainee.replicate, purpose) for trainee in trainees], dtype=np.uint32)


def _by_replicate(layers: Sequence[Array]) -> Iterator[list[Array]]:
    for r in range(len(layers[0])):
        yield [layer[r] for layer in layers]


def _pack(trainee: Trainee) -> dict[str, Array]:
    """A trainee's state as plain arrays; restoring it changes no bit of what follows."""
    state = {f"layer_{j}": layer for j, layer in enumerate(trainee.layers)}
    state |= {f"snapshot_{j}": snapshot for j, snapshot in enumerate(trainee.snapshots)}
    state |= {f"history_{name}": values for name, values in trainee.history.items()}
    diverged_at = -1 if trainee.diverged_at is None else trainee.diverged_at
    scalars = (trainee.learning_rate, trainee.flow_time, trainee.largest_loss, diverged_at, trainee.seconds)
    return state | {"scalars": np.array(scalars)}


def _unpack(trainee: Trainee, step: int, state: dict[str, Array]) -> None:
    trainee.step = step
    trainee.layers = [state[f"layer_{j}"] for j in range(len(trainee.layers))]
    trainee.snapshots = [state[f"snapshot_{j}"] for j in range(len(trainee.snapshots))]
    trainee.history = {name: state[f"history_{name}"] for name in trainee.history}
    trainee.learning_rate, trainee.flow_time, trainee.largest_loss, diverged_at, seconds = state["scalars"].tolist()
    trainee.diverged_at = None if diverged_at < 0 else int(diverged_at)
    trainee.seconds += seconds


def _trial_row(cell: Cell, trainee: Trainee) -> dict[str, Any]:
    matrix = end_to_end([layer.astype(np.float64) for layer in trainee.layers])
    if not np.isfinite(matrix).all() and trainee.diverged_at is None:
        trainee.diverged_at = cell.steps
    diverged = trainee.diverged_at is not None
    train_loss = None if diverged else float(trainee.history["train_loss"][-1])
    converged = train_loss is not None and train_loss < CONVERGED_LOSS * float(np.mean(trainee.problem.labels**2))
    return final_metrics(None if diverged else matrix, trainee.problem) | {
        "status": "diverged" if diverged else "converged" if converged else "budget_exhausted",
        "train_loss": train_loss,
        "train_loss_max": _number(trainee.history["train_loss_max"][-1]),
        "hessian_trace": _number(trainee.history["hessian_trace"][-1]),
        "learning_rate_final": trainee.learning_rate,
        "flow_time": trainee.flow_time,
        "steps_run": trainee.diverged_at if diverged else cell.steps,
        "wall_seconds": trainee.seconds,
    }


def _history_rows(cell: Cell, trainee: Trainee, first: int, stop: int) -> list[dict[str, Any]]:
    """History rows of evaluations first .. stop-1; a diverged replicate has none after the step it was noticed at."""
    steps = evaluation_steps(cell.steps, cell.evaluations)
    last = math.inf if trainee.diverged_at is None else trainee.diverged_at
    return [
        {"step": int(steps[index])} | {name: _number(values[index]) for name, values in trainee.history.items()}
        for index in range(first, stop)
        if steps[index] <= last
    ]


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
