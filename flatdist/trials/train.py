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
from typing import TYPE_CHECKING, Any, TypeVar

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
from flatdist.trials.trainee import HISTORY_CLOCKS, Final, Trainee, history_rows, pack_state, prepare, trial_row
from flatdist.types import Array

if TYPE_CHECKING:
    from flatdist.trials.on_device import PackEvaluator, Sampled

Item = TypeVar("Item")
Made = TypeVar("Made")

SEGMENT_STEPS = 1000  # at most, between two pauses
LIVE_REST = 4.0  # history is handed out early again after so many times what that took the last time


def train(cell: Cell, replicates: Sequence[int], settings: RunSettings, hooks: Hooks) -> Iterator[Produced]:
    """Train replicates of a cell together, resuming those that were checkpointed.

    Args:
        cell: a cell of a gradient method.
        replicates: numbers of the replicates.
        settings: engine, device and threads.
        hooks: checkpoints, progress and interruption.

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
    sampled: Sequence[Sampled | None] = [None] * len(work)
    if ENGINES[engine.name].devices != ("cpu",) and (settings.device != "cpu" or ENGINES[engine.name].on_chip):
        from flatdist.trials.on_device import SAMPLED, sample_pack

        if first.ensemble in SAMPLED:
            sampled = sample_pack(work, engine.name, settings.device)

    def prepared(one: tuple[tuple[Cell, int], Sampled | None]) -> Trainee:
        (cell, replicate), drawn = one
        return prepare(cell, replicate, engine.name, ran_on["device"], hooks.checkpoints, drawn)

    trainees = side_by_side(prepared, list(zip(work, sampled, strict=True)), settings.threads)
    for step in sorted({trainee.step for trainee in trainees}):
        together = [trainee for trainee in trainees if trainee.step == step]
        run = _Run(together, engine, ran_on, settings, hooks)
        run.finish()
        for trainee, final in zip(together, run.finals(), strict=True):
            history = history_rows(trainee, 0, len(run.evaluations))
            yield trainee.cell, (trainee.replicate, trial_row(trainee, final) | ran_on, history)


def pack_key(cell: Cell, engine: str) -> Hashable | None:
    """What cells must have in common to be trained in one pack; None if a cell can only run by itself.

    They may differ in n, rank, ground truth, noise on the labels, step size, label noise, start and momentum.
    """
    if cell.spec.runner != GradientMethod.runner:
        return None
    method = cell.training
    batch = method.batch_size(cell)
    return (
        method.name,
        cell.ensemble,
        cell.storage,
        cell.widths,
        batch,
        cell.n if batch is None and engine == "batched" else None,  # it draws rectangles
        cell.dtype,
        cell.sam_radius if method.sharpness_aware else None,
        (cell.steps, cell.evaluations, cell.schedule, cell.anneal_fraction, cell.learning_rate is None),
    )


def kernel_shape(cell: Cell) -> str:
    """The fields of a cell that compiled code for a step depends on."""
    method = cell.training
    return " ".join(
        map(str, (method.name, cell.ensemble, cell.storage, cell.widths, method.batch_size(cell), cell.dtype))
    )


def planned_steps(work: Iterable[tuple[Cell, int]]) -> dict[str, int]:
    """Replicate-steps of each :func:`kernel_shape` in some work: cells, and how many replicates of each are trained."""
    planned: Counter[str] = Counter()
    for cell, replicates in work:
        if cell.spec.takes_steps:
            planned[kernel_shape(cell)] += replicates * cell.steps
    return dict(planned)


class _Run:
    """Replicates of one pack that stand at the same step, trained to the end."""

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
        # (replicates, ...) of everything that changes; each replicate keeps a view of what is written for all at once
        self.learning_rate, self.flow_time, self.largest = (
            np.array([getattr(t, name) for t in trainees]) for name in ("learning_rate", "flow_time", "largest_loss")
        )
        self.diverged_at = np.array([-1 if t.diverged_at is None else t.diverged_at for t in trainees])
        self.history = {name: np.stack([t.history[name] for t in trainees]) for name in trainees[0].history}
        for r, trainee in enumerate(trainees):
            trainee.history = {name: values[r] for name, values in self.history.items()}
        constants = None if method.update is None else np.array([method.update.constants(c) for c in cells])
        self.session: Session = engine.start(
            TrainingTask(
                widths=cell.widths,
                measurements=[t.problem.measurements for t in trainees],
                labels=[t.problem.labels.astype(cell.dtype) for t in trainees],
                layers=[t.layers for t in trainees],
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
                constants=constants,
                state=[t.state for t in trainees],
            )
        )

        self.evaluator = self._pack_evaluator(settings.device)
        self.snapshots = self._stack_snapshots(settings.device)

    def _pack_evaluator(self, device: str) -> PackEvaluator | None:
        """Evaluates all replicates on the device where their problems were sampled and snapshots are kept."""
        if self.trainees[0].evaluator is not None:
            return None
        from flatdist.trials.on_device import PackEvaluator

        return PackEvaluator([t.problem for t in self.trainees], self.cell.dtype, device)

    def _stack_snapshots(self, device: str) -> list[Any]:
        """Per layer (replicates, BLOCK, d_{j+1}, d_j), where it is evaluated; on the CPU trainees have views of it."""
        alike = list(zip(*(t.snapshots for t in self.trainees), strict=True))
        if self.evaluator is None:
            stacked = [np.stack(snapshots) for snapshots in alike]
            self._hand_snapshots(stacked)
            return stacked
        import torch

        if self.trainees[0].step:  # resumed
            return [torch.as_tensor(np.stack(snapshots), device=device) for snapshots in alike]
        shapes = [(len(snapshots), *snapshots[0].shape) for snapshots in alike]
        return [torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes]

    def _hand_snapshots(self, stacked: Sequence[Array]) -> None:
        for r, trainee in enumerate(self.trainees):
            trainee.snapshots = [snapshot[r] for snapshot in stacked]

    def finals(self) -> Sequence[Final | None]:
        """What the device finds out about each replicate's end; None where the CPU does."""
        if self.evaluator is None:
            return [None] * len(self.trainees)
        layers = self.session.layer_tensors()
        found = (self.evaluator.sharpness(layers).tolist(), *self.evaluator.singular_values(layers))
        return [Final(*of_one) for of_one in zip(*found, strict=True)]

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
        self._take_back(step)
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
        clocks = zip(HISTORY_CLOCKS, (self.learning_rate, noise, self.flow_time), strict=True)
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

        def evaluate(one: tuple[Trainee, Array]) -> None:
            trainee, chosen = one
            assert trainee.evaluator is not None
            for name, values in trainee.evaluator(trainee.snapshots, chosen).items():
                trainee.history[name][new:stop] = values[new - first : stop - first]

        if self.evaluator is None:
            side_by_side(evaluate, list(zip(self.trainees, wanted, strict=True)), self.threads)
        else:
            for name, values in self.evaluator(self.snapshots, wanted).items():
                self.history[name][:, new:stop] = values[:, new - first : stop - first]
        self._evaluated = stop

    def _hand_out(self, step: int) -> None:
        """Give the caller its new history rows, and stop if it then asks to."""
        if self.hooks.on_history is None or self._handed_out == self._evaluated:
            return
        if self.hooks.live and step < self.cell.steps:
            self._save(step)
        self._tell_trainees(self.trainees[0].step if step == self.cell.steps else step)
        for trainee in self.trainees:
            for first in range(self._handed_out, self._evaluated, BLOCK):
                stop = min(first + BLOCK, self._evaluated)
                self.hooks.on_history(trainee.replicate, history_rows(trainee, first, stop))
        for trainee in self.trainees:
            if trainee.diverged_at is not None:
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
        if self.hooks.checkpoints is not None and step != self._saved_step:
            self._share_time()
            self._take_back(step)
            if self.evaluator is not None:
                self._hand_snapshots([snapshot.cpu().numpy() for snapshot in self.snapshots])
            for trainee in self.trainees:
                state = pack_state(trainee, self.ran_on["engine"], self.ran_on["device"])
                self.hooks.checkpoints.save(trainee.cell.cell_id, trainee.replicate, step, state)
            self._saved, self._saved_step = time.perf_counter(), step

    def _tell_trainees(self, step: int) -> None:
        """Give each replicate its own numbers of what is kept for all at once."""
        kept = zip(*(x.tolist() for x in (self.learning_rate, self.flow_time, self.largest)), strict=True)
        for trainee, numbers, diverged_at in zip(self.trainees, kept, self.diverged_at.tolist(), strict=True):
            trainee.step = step
            trainee.learning_rate, trainee.flow_time, trainee.largest_loss = numbers
            trainee.diverged_at = None if diverged_at < 0 else diverged_at

    def _take_back(self, step: int) -> None:
        """Give each replicate also the weights, and what its update rule keeps, as the session has them."""
        self._tell_trainees(step)
        layers, state = self.session.layers(), self.session.state()
        for r, trainee in enumerate(self.trainees):
            trainee.layers, trainee.state = [layer[r] for layer in layers], [kept[r] for kept in state]

    def _share_time(self) -> None:
        now = time.perf_counter()
        for trainee in self.trainees:
            trainee.seconds += (now - self._since) / len(self.trainees)
        self._since = now


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
