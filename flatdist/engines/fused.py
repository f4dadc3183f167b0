"""SGD on the CPU: the whole step in one compiled function, with replicates distributed over threads.

Every replicate runs all steps of a call without interruption, on one thread, with a scratch buffer that stays in the
cache; its bits depend neither on the other replicates nor on the number of threads.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from flatdist.engines._fused_cache import sole_compiler
from flatdist.engines._fused_kernel import compiled_steps
from flatdist.engines._fused_layout import Layout, Storage, make_layout
from flatdist.engines.base import TrainingTask
from flatdist.errors import LaunchError
from flatdist.sensing.measurements import Dense, Entries, Factors, Measurements, as_measurements
from flatdist.types import Array, aligned_zeros

log = logging.getLogger(__name__)
_trusted: dict[Any, bool] = {}  # whether this process has seen code for one shape repeat the general code's bits

DTYPES = ("float32", "float64")
STEPS_COMPARED = 40  # of code for one shape with the general code, before it is used
WORTH_COMPILING = 25_000_000  # planned replicate-steps that pay for code of one shape, some 7 s of compiling

Buffers = tuple[Array, Array, Array]  # what one thread overwrites at every step: numbers, indices, random words


class FusedEngine:
    """Compiled steps on the CPU."""

    name = "fused"

    def start(self, task: TrainingTask) -> FusedSession:
        """Set up a session at the task's starting layers.

        Raises:
            LaunchError: the engine does not support the device, dtype or number of threads.
        """
        if task.device != "cpu":
            raise LaunchError(f"the fused engine runs on the CPU, not on {task.device!r}; use the batched engine there")
        if task.dtype not in DTYPES:
            raise LaunchError(
                f"dtype {task.dtype!r} is not supported by the fused engine; allowed: {', '.join(DTYPES)}"
            )
        if task.threads < 1:
            raise LaunchError(f"threads is {task.threads}; allowed: 1 or more")
        return FusedSession(task)


class FusedSession:
    """See :class:`flatdist.engines.base.Session`."""

    def __init__(self, task: TrainingTask) -> None:
        self.task = task
        forms = [_kernel_form(as_measurements(a), task.dtype) for a in task.measurements]
        self._measurements, storage = [form for form, _ in forms], forms[0][1]
        first = self._measurements[0]
        entry_bytes = (first[0] if isinstance(first, tuple) else first).itemsize
        self._labels = [np.ascontiguousarray(b, dtype=task.dtype) for b in task.labels]
        self._keys = np.concatenate([task.batch_keys, task.noise_keys], axis=1).astype(np.uint32)  # (replicates, 4)
        counts = task.counts if task.batch_size is None else [max(task.counts)] * task.replicates
        layouts = {n: make_layout(task, n, entry_bytes, storage) for n in sorted(set(counts))}  # only batches differ
        self._tables = [layouts[n].table for n in counts]
        self._layout = layouts[max(counts)]
        self._radius = -1.0 if task.sam_radius is None else float(task.sam_radius)
        self._weights = aligned_zeros((task.replicates, self._layout.weights_size), task.dtype)
        for weights, layers in zip(self._weights, task.layers, strict=True):
            for j, layer in enumerate(layers):
                self._layout.layer(weights, j)[...] = layer
        self._constants = task.starting_constants()
        slots = 0 if task.update is None else max(1, task.slots)  # Numba knows no tuple without entries
        self._kept = np.zeros((task.replicates, self._layout.weights_size, slots), task.dtype)
        for j, kept in enumerate(self._kept_views()):
            kept[...] = [layers[j] for layers in task.starting_state()]
        threads = max(1, min(task.threads, task.replicates))
        self._buffers = [_buffers(list(layouts.values()), task) for _ in range(threads)]
        self._helpers = ThreadPoolExecutor(max(1, threads - 1), "flatdist-fused")  # started when work is given to them
        self._run_steps = self._compiled(storage)

    def _compiled(self, storage: Storage) -> Any:
        """Compiled steps: for this shape only if that pays, else for every shape, with the same bits."""
        task, constants = self.task, self._constants.shape[1]
        general = compiled_steps(task.update, constants, storage, None)
        if task.planned_steps < WORTH_COMPILING or task.batch_size is None:  # a full batch's sizes include n
            return general
        sizes = tuple(self._layout.table.tolist())
        chosen, key = compiled_steps(task.update, constants, storage, sizes), (task.update, storage, task.dtype, sizes)
        if key not in _trusted:
            with sole_compiler(repr((storage, task.dtype, sizes))) as alone:  # the others do not wait for it
                if not alone:
                    return general
                _trusted[key] = self._agree(general, chosen)
            if not _trusted[key]:
                log.warning("code for the shape %s is not used: its bits differ from the general code's", task.widths)
        return chosen if _trusted[key] else general

    def _agree(self, general: Any, chosen: Any) -> bool:
        """Whether two versions give the first replicate the same bits after a few steps; its state is not changed."""
        start, found = (self._weights[0].copy(), self._kept[0].copy()), []
        for code in (general, chosen):
            largest = self._run(code, 0, self._buffers[0], 0, STEPS_COMPARED, 1e-3, 0.5, np.ones(STEPS_COMPARED))
            found.append((self._weights[0].copy(), self._kept[0].copy(), np.float64(largest)))
            self._weights[0], self._kept[0] = start
        return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(*found, strict=True))

    def _run(
        self, compiled: Any, r: int, buffers: Buffers, start: int, stop: int, rate: float, noise: float, anneal: Array
    ) -> float:
        own = self._measurements[r], self._labels[r], self._weights[r], self._kept[r]
        steps = start, stop, rate, noise, anneal, self._radius, self._constants[r]
        largest: float = compiled(*own, *buffers, self._tables[r], self._keys[r], *steps)
        return largest

    def advance(self, start: int, stop: int, learning_rate: Array, noise_std: Array, anneal: Array) -> Array:
        """Run steps start .. stop-1 on every replicate; returns their largest mini-batch losses, (replicates,)."""
        largest = np.zeros(self.task.replicates)
        anneal = np.ascontiguousarray(anneal, dtype=np.float64)
        rates, deviations = (np.asarray(values, dtype=np.float64).tolist() for values in (learning_rate, noise_std))
        assert len(anneal) == stop - start
        assert len(rates) == len(deviations) == len(largest)
        queue = itertools.count()

        def work(buffers: Buffers) -> None:
            while (r := next(queue)) < len(largest):
                largest[r] = self._run(self._run_steps, r, buffers, start, stop, rates[r], deviations[r], anneal)

        helpers = [self._helpers.submit(work, buffers) for buffers in self._buffers[1:]]
        work(self._buffers[0])
        for helper in helpers:
            helper.result()
        return largest

    def layers(self) -> list[Array]:
        """Current weights: L arrays (replicates, d_j, d_{j-1}), copies."""
        return [self._layout.layer(self._weights, j).copy() for j in range(len(self.task.widths) - 1)]

    def state(self) -> list[Array]:
        """What the update rule keeps: L arrays (replicates, slots, d_j, d_{j-1}), copies."""
        return [kept.copy() for kept in self._kept_views()]

    def _kept_views(self) -> list[Array]:
        by_slot = np.moveaxis(self._kept, -1, 1)[:, : self.task.slots]  # (replicates, slots, weights_size)
        return [self._layout.layer(by_slot, j) for j in range(len(self.task.widths) - 1)]


def warm(dtypes: Sequence[str] = DTYPES[:1], signs: Sequence[bool] = (False, True)) -> None:
    """Compile the step, or load it from the cache, so that no worker on this machine has to wait for it later.

    Args:
        dtypes: cell dtypes that will be trained.
        signs: kinds of measurements to compile for: +1/-1 (True) or floats (False).
    """
    for dtype, sign in itertools.product(dtypes, signs):
        one, key = np.ones((1, 1), dtype), np.zeros((1, 2), np.uint32)
        rows = [np.ones((1, 1, 1), "int8" if sign else dtype)]
        task = TrainingTask((1, 1, 1), rows, [one[0]], [[one, one]], key, key, 1, True, None, dtype)
        FusedEngine().start(task).advance(0, 1, np.zeros(1), np.zeros(1), np.zeros(1))


def _buffers(layouts: Sequence[Layout], task: TrainingTask) -> Buffers:
    numbers = aligned_zeros(max(layout.scratch_size for layout in layouts), task.dtype)
    indices = np.zeros(max(layout.indices_size for layout in layouts), dtype=np.int32)
    if task.batch_size is None:
        indices[: task.drawn] = np.arange(task.drawn)
    return numbers, indices, np.zeros((4, max(layout.fill_blocks for layout in layouts)), dtype=np.uint32)


def _kernel_form(stored: Measurements, dtype: str) -> tuple[Array | tuple[Array, Array], Storage]:
    """The arguments of the compiled step, not copied if the dtype is right: see ``run_steps``."""
    if isinstance(stored, Factors):
        factors = np.ascontiguousarray(stored.left, dtype=dtype), np.ascontiguousarray(stored.right, dtype=dtype)
        return factors, "factors"
    if isinstance(stored, Entries):
        return (np.ascontiguousarray(stored.rows, np.int32), np.ascontiguousarray(stored.columns, np.int32)), "entries"
    assert isinstance(stored, Dense)
    kind = stored.dtype if stored.dtype in (np.int8, np.float16) else dtype
    rows = np.ascontiguousarray(stored.array, dtype=kind).reshape(len(stored), -1)
    return (rows.view(np.uint16) if kind == np.float16 else rows), "rows"  # Numba knows no float16 on the CPU
