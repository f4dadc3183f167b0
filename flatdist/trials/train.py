"""Training one cell's replicates by a gradient method, on any engine.

The steps are taken in segments whose ends depend on the cell alone: evaluations, re-estimates of an automatic step
size, and at most ``SEGMENT_STEPS``. At each end a run can be stopped and resumed without changing a bit.
"""

from __future__ import annotations

import bisect
import math
import time
from collections.abc import Iterator, Sequence

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.cells.problems import frobenius_norm
from flatdist.engines import Engine, load_engine
from flatdist.engines.base import Session, TrainingTask
from flatdist.factorization.evaluation import BLOCK, evaluation_steps, trace_evaluations
from flatdist.machine.extras import load
from flatdist.machine.threads import set_threads
from flatdist.methods.base import GradientMethod, Produced
from flatdist.sensing.draws import stream_key
from flatdist.sensing.draws.stream import BATCH, LABEL_NOISE
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.trials.learning_rate import estimate_steps
from flatdist.trials.settings import Hooks, Interrupted, RunSettings
from flatdist.trials.trainee import HISTORY_CLOCKS, Trainee, history_rows, pack_state, prepare, trial_row
from flatdist.types import Array

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
    engine = load_engine(settings.engine, settings.device, cell)
    set_threads(settings.threads)
    ran_on = {"engine": engine.name, "device": settings.device}
    trainees = [prepare(cell, replicate, engine.name, settings.device, hooks.checkpoints) for replicate in replicates]
    for step in sorted({trainee.step for trainee in trainees}):
        together = [trainee for trainee in trainees if trainee.step == step]
        run = _Run(cell, together, engine, settings, hooks)
        run.finish()
        for trainee in together:
            history = history_rows(cell, trainee, 0, len(run.evaluations))
            yield trainee.replicate, trial_row(cell, trainee) | ran_on, history


class _Run:
    """Replicates of one cell that stand at the same step, trained to the end."""

    def __init__(
        self, cell: Cell, trainees: list[Trainee], engine: Engine, settings: RunSettings, hooks: Hooks
    ) -> None:
        self.cell, self.trainees, self.hooks, self.engine = cell, trainees, hooks, engine.name
        self.device = settings.device
        method = cell.spec
        assert isinstance(method, GradientMethod), f"{cell.method} takes no gradient steps"
        self.method = method
        self.evaluations = evaluation_steps(cell.steps, cell.evaluations).tolist()
        self.drawn, self.gain = method.drawn(cell), method.gain(cell)
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
                batch_size=method.batch_size(cell),
                label_noise=method.label_noise,
                sam_radius=self.sam_radius,
                dtype=cell.dtype,
                threads=settings.threads,
                device=settings.device,
                update=method.update,
                constants=None if method.update is None else np.array([method.update.constants(cell)] * len(trainees)),
                state=[t.state for t in trainees],
            )
        )

    def finish(self) -> None:
        """Take all remaining steps."""
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
            if all(trainee.diverged_at is not None for trainee in self.trainees):
                break  # there is nothing left to measure
            self._advance(step, end)
            step = end
            if step in self.evaluations:
                self._evaluate(self.evaluations.index(step))
            if step < self.cell.steps:
                self._update_learning_rates(step)
                self._pause(step)
            self._hand_out(step)
        self._take_back()
        self._flush(bisect.bisect_right(self.evaluations, step))
        self._hand_out(self.cell.steps)
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
            if trainee.diverged_at is not None:  # alone it would have stopped there; company must not change its row
                continue
            trainee.flow_time += (self.gain * rate * noise) ** 2 / (2 * self.drawn) * squared
            if not math.isfinite(loss):
                trainee.diverged_at, trainee.largest_loss = stop, math.inf
            elif not trainee.largest_loss >= loss:  # the interval's maximum starts out as NaN
                trainee.largest_loss = loss
        self.hooks.on_steps((stop - start) * len(self.trainees))

    def _update_learning_rates(self, step: int) -> None:
        if self.cell.learning_rate is not None:
            for trainee in self.trainees:
                trainee.learning_rate = self.cell.learning_rate
        elif step in self.estimates:
            estimates = load(self.method.step_size)(
                self.session.layers(),
                n=self.cell.n,
                batch=self.drawn,
                label_scale=self.label_scale,
                noise_std=self.noise_std,
                sam_radius=self.sam_radius or 0.0,
                spread=ENSEMBLES[self.cell.ensemble].spread,
            )
            for trainee, estimate in zip(self.trainees, estimates, strict=True):
                if trainee.diverged_at is None:
                    trainee.learning_rate = float(estimate) / self.gain

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
        wanted = [new <= index < stop and self.with_trace[index] for index in range(first, first + BLOCK)]
        for trainee in self.trainees:
            measured = trainee.evaluator(trainee.snapshots, wanted)
            for name, values in measured.items():
                trainee.history[name][new:stop] = values[new - first : stop - first]
        self._evaluated = stop

    def _hand_out(self, step: int) -> None:
        """Give the caller the history rows that it does not have, and stop where that makes it ask to."""
        if self.hooks.on_history is None or self._handed_out == self._evaluated:
            return
        if self.hooks.live and step < self.cell.steps:
            self._save(step)
        for trainee in self.trainees:
            for first in range(self._handed_out, self._evaluated, BLOCK):
                stop = min(first + BLOCK, self._evaluated)
                self.hooks.on_history(trainee.replicate, history_rows(self.cell, trainee, first, stop))
        for trainee in self.trainees:
            if trainee.diverged_at is not None:
                self.hooks.on_diverged(trainee.replicate)
        self._handed_out = self._evaluated
        self._telling, self._told = time.perf_counter() - self._told, time.perf_counter()
        if step < self.cell.steps:
            self._pause(step)

    def _pause(self, step: int) -> None:
        """Checkpoint where it is time, and stop where asked to."""
        stop = self.hooks.should_stop()
        if stop or time.perf_counter() - self._saved >= self.hooks.checkpoint_seconds:
            self._save(step)
        if stop:
            raise Interrupted

    def _save(self, step: int) -> None:
        """Checkpoint all replicates, unless that was done at this step already."""
        if self.hooks.checkpoints is not None and step != self._saved_step:
            self._share_time()
            self._take_back()
            for trainee in self.trainees:
                state = pack_state(trainee, self.engine, self.device)
                self.hooks.checkpoints.save(self.cell.cell_id, trainee.replicate, step, state)
            self._saved, self._saved_step = time.perf_counter(), step

    def _take_back(self) -> None:
        """Give each replicate the weights, and what its update rule keeps, as the session has them."""
        layers, state = self.session.layers(), self.session.state()
        for r, trainee in enumerate(self.trainees):
            trainee.layers, trainee.state = [layer[r] for layer in layers], [kept[r] for kept in state]

    def _share_time(self) -> None:
        now = time.perf_counter()
        for trainee in self.trainees:
            trainee.seconds += (now - self._since) / len(self.trainees)
        self._since = now


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


def _keys(cell: Cell, trainees: Sequence[Trainee], purpose: str) -> Array:
    name = cell.training_stream()
    return np.array([stream_key(name, trainee.replicate, purpose) for trainee in trainees], dtype=np.uint32)
