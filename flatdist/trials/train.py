"""Training replicates of one cell, or of several that fit one pack, by a gradient method on any engine.

The steps are taken in segments whose ends depend only on the cell: evaluations, re-estimates of an automatic step size,
and at most ``SEGMENT_STEPS``. At each end a run can be stopped and resumed without changing a bit.
"""

from __future__ import annotations

import bisect
import math
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.problems import frobenius_norm
from flatdist.engines import ENGINES, Engine, device_label, load_engine
from flatdist.engines.base import Session, TrainingTask
from flatdist.factorization.evaluation import BLOCK, evaluation_steps, trace_evaluations
from flatdist.machine.extras import load
from flatdist.machine.threads import set_threads
from flatdist.methods.base import GradientMethod, Produced
from flatdist.sensing.draws import stream_key
from flatdist.sensing.draws.stream import BATCH, LABEL_NOISE
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.trials.learning_rate import estimate_steps, smallest_interpolator, squared
from flatdist.trials.settings import Hooks, Interrupted, RunSettings
from flatdist.trials.trainee import CLOCKS, HISTORY, Trained, Trainee, history_rows, packed, prepare, trial_row
from flatdist.types import Array

Item = TypeVar("Item")
Made = TypeVar("Made")

SEGMENT_STEPS = 1000  # at most, between two pauses
LIVE_REST = 4.0  # history is handed out early again after so many times what that took the last time


def train(cell: Cell, replicates: Sequence[int], settings: RunSettings, hooks: Hooks) -> Iterator[Produced]:
    """Train replicates of a cell of a gradient method together, resuming those that were checkpointed.

    Yields:
        Per replicate its number, the measured columns of its ``trials`` row, and its ``history`` rows.

    Raises:
        Interrupted: ``hooks.should_stop`` said so; unfinished replicates were checkpointed.
        LaunchError: the engine or device is not available, or the method does not run on it.
    """
    for _, produced in train_pack([(cell, replicates)], settings, hooks):
        yield produced


def train_pack(
    items: Sequence[tuple[Cell, Sequence[int]]], settings: RunSettings, hooks: Hooks
) -> Iterator[tuple[Cell, Produced]]:
    """Train replicates of several cells of one :func:`pack_key` together; see :func:`train`.

    A replicate's result does not depend on the pack: to the bit on the fused, cuda and triton engines, within the
    tolerance between engines on the batched one. ``hooks.on_history`` receives only replicate numbers.
    """
    first = items[0][0]
    engine = load_engine(settings.engine, settings.device, first)
    assert len({pack_key(cell, engine.name) for cell, _ in items}) == 1, "these cells cannot be trained together"
    set_threads(settings.threads)
    ran_on = {"engine": engine.name, "device": device_label(settings.device)}

    work = [(cell, replicate) for cell, replicates in items for replicate in replicates]
    sampled: Sequence[Any] = [None] * len(work)
    if settings.device != "cpu" or ENGINES[engine.name].on_chip:
        from flatdist.trials.on_device import SAMPLED, sample_pack

        if first.ensemble in SAMPLED:
            sampled = sample_pack(work, engine.name, settings.device)
    trainees = side_by_side(
        lambda one: prepare(*one[0], ran_on, hooks.checkpoints, one[1]),
        list(zip(work, sampled, strict=True)),
        settings.threads,
    )
    for step in sorted({trainee.step for trainee in trainees}):
        run = _Run([trainee for trainee in trainees if trainee.step == step], engine, ran_on, settings, hooks)
        run.finish()
        yield from run.results()


def pack_key(cell: Cell, engine: str) -> Hashable | None:
    """What cells must have in common to be trained in one pack; None if a cell can only run by itself.

    They may differ in n, rank, ground truth, noise on the labels, step size, label noise, start and momentum.
    """
    if cell.spec.runner != GradientMethod.runner:
        return None
    method = cell.training
    return (
        kernel_shape(cell),
        cell.n if method.batch_size(cell) is None and engine == "batched" else None,  # it draws rectangles
        cell.sam_radius if method.sharpness_aware else None,
        (cell.steps, cell.evaluations, cell.schedule, cell.anneal_fraction, cell.learning_rate is None),
    )


def kernel_shape(cell: Cell) -> str:
    """The fields of a cell that compiled code for a step depends on."""
    method = cell.training
    shape = (method.name, cell.ensemble, cell.storage, cell.widths, method.batch_size(cell), cell.dtype)
    return " ".join(map(str, shape))


def planned_steps(work: Iterable[tuple[Cell, int]]) -> dict[str, int]:
    """Replicate-steps of each :func:`kernel_shape` in some work: cells, and how many replicates of each are trained."""
    planned: Counter[str] = Counter()
    for cell, replicates in work:
        if cell.spec.takes_steps:
            planned[kernel_shape(cell)] += replicates * cell.steps
    return dict(planned)


class _Run:
    """Replicates of one pack that stand at the same step, trained to the end.

    What changes is kept for all of them at once, (replicates, ...).
    """

    def __init__(
        self, trainees: list[Trainee], engine: Engine, ran_on: dict[str, str], settings: RunSettings, hooks: Hooks
    ) -> None:
        self.trainees, self.hooks, self.ran_on, self.threads = trainees, hooks, ran_on, settings.threads
        cells = [t.cell for t in trainees]
        self.cell = cell = cells[0]  # for what all have in common
        self.method = method = cell.training
        self.evaluations = evaluation_steps(cell.steps, cell.evaluations).tolist()
        self.n, self.drawn = np.array([c.n for c in cells]), np.array([method.drawn(c) for c in cells])
        self.gain = np.array([method.gain(c) for c in cells])
        self.with_trace = np.array([trace_evaluations(c, method.drawn(c)) for c in cells])
        self.anneal = noise_schedule(cell)
        self.relative_noise = np.array([c.label_noise_std if method.label_noise else 0.0 for c in cells])
        self.noise_std = self.relative_noise * [frobenius_norm(t.problem.ground_truth) for t in trainees]
        self.estimates = set(estimate_steps(cell.steps)) if cell.learning_rate is None else set()
        self.label_scale = np.array([np.sqrt(np.mean(t.problem.labels**2)) for t in trainees])
        self.tiny = np.array([method.starts_tiny(c) for c in cells])
        self.sam_radius = cell.sam_radius if method.sharpness_aware else None
        states = [t.state for t in trainees]
        self.history = {name: np.stack([s[f"history_{name}"] for s in states]) for name in HISTORY}
        scalars = np.array([s["scalars"] for s in states]).T.copy()
        self.learning_rate, self.flow_time, self.largest, diverged_at, self.seconds = scalars
        self.diverged_at = diverged_at.astype(np.int64)  # -1 until then
        self.seconds += [t.seconds for t in trainees]

        def layerwise(name: str) -> list[list[Array]]:
            return [[s[f"{name}_{j}"] for j in range(cell.depth)] for s in states]

        self.session: Session = engine.start(
            TrainingTask(
                widths=cell.widths,
                measurements=[t.problem.measurements for t in trainees],
                labels=[t.problem.labels.astype(cell.dtype) for t in trainees],
                layers=layerwise("layer"),
                batch_keys=_keys(trainees, BATCH),
                noise_keys=_keys(trainees, LABEL_NOISE),
                batch_size=method.batch_size(cell),
                label_noise=method.label_noise,
                sam_radius=self.sam_radius,
                dtype=cell.dtype,
                threads=settings.threads,
                device=settings.device,
                planned_steps=max(len(cells) * cell.steps, settings.planned_steps.get(kernel_shape(cell), 0)),
                update=method.update,
                constants=None if method.update is None else np.array([method.update.constants(c) for c in cells]),
                state=layerwise("kept") if "kept_0" in states[0] else None,
            )
        )
        # Evaluates all on the device where their problems were sampled; there snapshots are then kept.
        self.evaluator: Any = None
        snapshots = zip(*layerwise("snapshot"), strict=True)  # per layer (replicates, BLOCK, d_{j+1}, d_j)
        if trainees[0].evaluator is not None:
            self.snapshots: list[Any] = [np.stack(of_layer) for of_layer in snapshots]
        else:
            import torch

            from flatdist.trials.on_device import PackEvaluator

            self.evaluator = PackEvaluator([t.problem for t in trainees], cell.dtype, settings.device)
            self.snapshots = [
                torch.as_tensor(np.stack(of_layer), device=settings.device)
                if trainees[0].step
                else torch.zeros(len(cells), *of_layer[0].shape, dtype=torch.float64, device=settings.device)
                for of_layer in snapshots
            ]
        for trainee in trainees:
            trainee.state = {}

    def _layers(self) -> Sequence[Any]:
        """The current weights, where they are evaluated: (replicates, d_{j+1}, d_j) each."""
        return self.session.layers() if self.evaluator is None else self.session.layer_tensors()

    def finish(self) -> None:
        step = self.trainees[0].step
        self._since = self._saved = self._told = time.perf_counter()
        self._telling = 0.0  # seconds that handing out history took the last time
        self._saved_step = step  # resumed from there, or nothing to save yet
        self._evaluated = self._handed_out = 0  # evaluations whose values are known, and those that the caller has
        if step == 0:
            self._update_learning_rates(0)
            self._evaluate(0)
        else:
            self._evaluated = bisect.bisect_right(self.evaluations, step) // BLOCK * BLOCK
        self._hand_out(step)
        for end in segment_ends(self.cell):
            if end <= step:
                continue
            if (self.diverged_at >= 0).all():
                break  # there is nothing left to measure
            self._advance(step, end)
            step = end
            if step in self.evaluations:
                self._evaluate(self.evaluations.index(step))
            if step < self.cell.steps:
                self._update_learning_rates(step)
                self._pause(step)
            self._hand_out(step)
        self._flush(bisect.bisect_right(self.evaluations, step))
        self._hand_out(self.cell.steps)
        self._share_time()

    def _advance(self, start: int, stop: int) -> None:
        anneal = self.anneal[start:stop]
        largest = self.session.advance(start, stop, self.learning_rate, self.noise_std, anneal)
        moved = np.array([squared(x) for x in (self.gain * self.learning_rate * self.noise_std).tolist()])
        moved = moved / (2 * self.drawn) * float(np.vdot(anneal, anneal))
        running = self.diverged_at < 0  # the others would have stopped without it, and must get the same rows
        self.flow_time = np.where(running, self.flow_time + moved, self.flow_time)
        finite = np.isfinite(largest)
        self.diverged_at = np.where(running & ~finite, stop, self.diverged_at)
        with np.errstate(invalid="ignore"):
            higher = running & finite & ~(self.largest >= largest)  # the interval's maximum starts out as NaN
        self.largest = np.where(higher, largest, np.where(running & ~finite, math.inf, self.largest))
        self.hooks.on_steps((stop - start) * len(self.trainees))

    def _update_learning_rates(self, step: int) -> None:
        if self.cell.learning_rate is not None:
            self.learning_rate = np.array([t.cell.learning_rate for t in self.trainees])
        elif step in self.estimates:
            layers = self._layers()
            estimates = self._estimate(layers)
            if self.tiny.any():
                layers = self.session.layers()
                smallest = smallest_interpolator(layers, self.label_scale)
                smaller = _energy(layers) < _energy(smallest)
                estimates = np.where(self.tiny & smaller, np.maximum(estimates, self._estimate(smallest)), estimates)
            self.learning_rate = np.where(self.diverged_at < 0, estimates / self.gain, self.learning_rate)

    def _estimate(self, layers: Sequence[Any]) -> Array:
        """The method's automatic step sizes at some weights, (replicates,)."""
        estimates: Array = load(self.method.step_size)(
            layers,
            n=self.n,
            batch=self.drawn,
            label_scale=self.label_scale,
            noise_std=self.noise_std,
            sam_radius=self.sam_radius or 0.0,
            spread=ENSEMBLES[self.cell.ensemble].spread,
        )
        return estimates

    def _evaluate(self, index: int) -> None:
        step = self.evaluations[index]
        for snapshot, layer in zip(self.snapshots, self._layers(), strict=True):
            snapshot[:, index % BLOCK] = layer
        noise = self.relative_noise * (self.anneal[step - 1] if step else 1.0)
        clocks = zip(CLOCKS, (self.learning_rate, noise, self.flow_time), strict=True)
        for name, values in (("train_loss_max", self.largest), *clocks):
            self.history[name][:, index] = values
        self.largest = np.full(len(self.trainees), math.nan)
        rested = self.hooks.live and time.perf_counter() - self._told >= LIVE_REST * self._telling
        if index % BLOCK == BLOCK - 1 or rested:
            self._flush(index + 1)

    def _flush(self, stop: int) -> None:
        """Evaluate the snapshots before evaluation ``stop`` that are not evaluated yet; all are of one block."""
        new = self._evaluated
        if new == stop:
            return
        self._told = time.perf_counter()
        first = new // BLOCK * BLOCK
        wanted = np.zeros((len(self.trainees), BLOCK), dtype=bool)
        wanted[:, new - first : stop - first] = self.with_trace[:, new:stop]
        if self.evaluator is not None:
            found = self.evaluator(self.snapshots, wanted)
        else:

            def evaluate(r: int) -> dict[str, Array]:
                evaluator = self.trainees[r].evaluator
                assert evaluator is not None
                return evaluator([snapshot[r] for snapshot in self.snapshots], wanted[r])

            each = side_by_side(evaluate, range(len(wanted)), self.threads)
            found = {name: np.stack([one[name] for one in each]) for name in each[0]}
        for name, values in found.items():
            self.history[name][:, new:stop] = values[:, new - first : stop - first]
        self._evaluated = stop

    def _hand_out(self, step: int) -> None:
        """Give the caller its new history rows, and stop if it then asks to."""
        if self.hooks.on_history is None or self._handed_out == self._evaluated:
            return
        if self.hooks.live and step < self.cell.steps:
            self._save(step)
        for r, trainee in enumerate(self.trainees):
            for first in range(self._handed_out, self._evaluated, BLOCK):
                rows = history_rows(self._trained(r), first, min(first + BLOCK, self._evaluated))
                self.hooks.on_history(trainee.replicate, rows)
        for trainee, diverged_at in zip(self.trainees, self.diverged_at, strict=True):
            if diverged_at >= 0:
                self.hooks.on_diverged(trainee.replicate)
        self._handed_out = self._evaluated
        self._telling, self._told = time.perf_counter() - self._told, time.perf_counter()
        if step < self.cell.steps:
            self._pause(step)

    def _pause(self, step: int) -> None:
        """Checkpoint if it is time, and stop if asked to."""
        stop = self.hooks.should_stop()
        if stop or time.perf_counter() - self._saved >= self.hooks.checkpoint_seconds:
            self._save(step)
        if stop:
            raise Interrupted

    def _save(self, step: int) -> None:
        if self.hooks.checkpoints is None or step == self._saved_step:
            return
        self._share_time()
        snapshots = [s if self.evaluator is None else s.cpu().numpy() for s in self.snapshots]
        arrays = (self.session.layers(), snapshots, self.session.state())
        scalars = np.stack([self.learning_rate, self.flow_time, self.largest, self.diverged_at, self.seconds], axis=1)
        for r, trainee in enumerate(self.trainees):
            layers, mine, kept = ([array[r] for array in of_layers] for of_layers in arrays)
            history = {name: values[r] for name, values in self.history.items()}
            state = packed(layers, mine, kept, history, scalars[r], self.ran_on)
            self.hooks.checkpoints.save(trainee.cell.cell_id, trainee.replicate, step, state)
        self._saved, self._saved_step = time.perf_counter(), step

    def _share_time(self) -> None:
        now = time.perf_counter()
        self.seconds += (now - self._since) / len(self.trainees)
        self._since = now

    def results(self) -> Iterator[tuple[Cell, Produced]]:
        """Cell, number, measured columns of the ``trials`` row and history rows of each replicate."""
        layers = self.session.layers()
        ends: list[tuple[Any, ...]] = [()] * len(self.trainees)
        if self.evaluator is not None:  # the device finds out sharpness and singular values, of answer and truth
            there = self.session.layer_tensors()
            ends = list(zip(self.evaluator.sharpness(there), *self.evaluator.singular_values(there), strict=True))
        for r, (trainee, end) in enumerate(zip(self.trainees, ends, strict=True)):
            trained = self._trained(r)
            row = trial_row(trained, [layer[r] for layer in layers], *end) | self.ran_on
            yield trainee.cell, (trainee.replicate, row, history_rows(trained, 0, len(self.evaluations)))

    def _trained(self, r: int) -> Trained:
        t, diverged_at = self.trainees[r], int(self.diverged_at[r])
        return Trained(
            t.cell,
            t.problem,
            {name: values[r] for name, values in self.history.items()},
            learning_rate=float(self.learning_rate[r]),
            flow_time=float(self.flow_time[r]),
            seconds=float(self.seconds[r]),
            diverged_at=None if diverged_at < 0 else diverged_at,
        )


def _energy(layers: Sequence[Array]) -> Array:
    return sum((np.square(layer, dtype=np.float64).sum(axis=(1, 2)) for layer in layers), start=np.zeros(1))


def side_by_side(work: Callable[[Item], Made], items: Sequence[Item], threads: int) -> list[Made]:
    """The results of ``work`` for each item, in order, on several threads: replicates are independent."""
    if threads == 1 or len(items) == 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(threads, "flatdist-replicates") as pool:
        return list(pool.map(work, items))


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
    """Steps at which training pauses; they depend only on the cell."""
    ends = {*evaluation_steps(cell.steps, cell.evaluations).tolist(), *range(0, cell.steps, SEGMENT_STEPS)}
    if cell.learning_rate is None:
        ends.update(estimate_steps(cell.steps))
    return sorted(ends - {0})


def _keys(trainees: Sequence[Trainee], purpose: str) -> Array:
    keys = [stream_key(t.cell.training_stream(), t.replicate, purpose) for t in trainees]
    return np.array(keys, dtype=np.uint32)
