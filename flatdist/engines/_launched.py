"""Sessions in which one kernel launch takes all steps of a segment, with one block of threads per replicate.

A replicate's bits do not depend on other replicates: its block reads its own layers, rows, keys, rate and noise levels,
and sums in a fixed order. Replicates of one launch may differ in n; they share :class:`Shape`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from flatdist.engines.base import TrainingTask
from flatdist.sensing.measurements import Entries, Factors, as_measurements
from flatdist.types import Array

STORAGES = ("rows", "signs", "factors", "entries")
VECTOR = 4  # entries: widths are rounded up to multiples of it, so that rows are read 16 bytes at a time


@dataclass(frozen=True)
class Shape:
    """What a kernel is compiled for."""

    widths: tuple[int, ...]  # d_0 ... d_L, rounded up to multiples of four; what is added is zero and stays zero
    batch: int  # indices drawn per step; 0 for every index once
    label_noise: bool  # labels are perturbed at every step
    sharpness_aware: bool  # the gradient is taken ahead, as SAM does
    storage: str  # of STORAGES: float32 rows, int8 rows, factors, or entries

    @classmethod
    def of(cls, task: TrainingTask) -> Shape:
        """The shape of a task."""
        first = as_measurements(task.measurements[0])
        storage = "entries" if isinstance(first, Entries) else "factors" if isinstance(first, Factors) else "rows"
        if storage == "rows" and str(first.dtype).removeprefix("torch.") == "int8":
            storage = "signs"
        widths = tuple(map(rounded_up, task.widths))
        return cls(widths, task.batch_size or 0, task.label_noise, task.sam_radius is not None, storage)

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.widths) - 1


def rounded_up(count: int) -> int:
    """The next multiple of :data:`VECTOR`."""
    return -(-count // VECTOR) * VECTOR


@dataclass(frozen=True)
class Launch:
    """A kernel's arguments, tensors on its device unless a number; several replicates' stand one after the other."""

    weights: torch.Tensor  # (replicates, sum of p_{j+1} p_j) float32, layers W_1 ... W_L, changed in place
    first: torch.Tensor  # rows (float32 or int8), left factors, or row numbers (int32)
    second: torch.Tensor  # right factors or column numbers; ``first`` again where there are none
    labels: torch.Tensor  # float32
    bases: torch.Tensor  # int64 (replicates,), the first row of each
    counts: torch.Tensor  # int32 (replicates,), n of each
    keys: torch.Tensor  # int32 (replicates, 4), the words of the batch's and the noise's key
    rates: torch.Tensor  # float32 (replicates,), step sizes
    levels: torch.Tensor  # float32 (replicates, steps), label noise s_t
    starts: torch.Tensor  # int32 (replicates,), number of the first step
    steps: torch.Tensor  # int32 (replicates,), how many
    largest: torch.Tensor  # float32 (replicates,), largest mini-batch losses, in and out
    constants: torch.Tensor  # float32 (2,), SAM's radius and sqrt(d_out d_in)
    room: int  # indices of one step, rounded up to multiples of four

    def tensors(self) -> list[torch.Tensor]:
        """The tensors, in the kernels' order."""
        return [value for value in vars(self).values() if isinstance(value, torch.Tensor)]


class LaunchedSession:
    """See :class:`flatdist.engines.base.Session`.

    Args:
        task: what to train.
        launch: runs the kernel for the task's shape.
    """

    def __init__(self, task: TrainingTask, launch: Callable[[Launch], None]) -> None:
        self.task, self.launch, self.shape = task, launch, Shape.of(task)
        self.device = torch.empty(0, device=task.device).device  # with its number, to be compared
        self._sizes = [rows * columns for columns, rows in pairwise(self.shape.widths)]
        self.weights = torch.zeros(task.replicates, sum(self._sizes), device=self.device)
        for j, layer in enumerate(self.layer_tensors()):
            layer.copy_(torch.stack([torch.as_tensor(layers[j], dtype=torch.float32) for layers in task.layers]))
        self.counts = self._tensor(task.counts, torch.int32)
        self.bases = self._tensor(np.cumsum([0, *task.counts])[:-1], torch.int64)
        self.labels = torch.cat([torch.as_tensor(b, dtype=torch.float32) for b in task.labels]).to(self.device)
        self.first, self.second = self._measurements()
        keys = np.concatenate([task.batch_keys, task.noise_keys], axis=1).astype(np.uint32)
        self.keys = self._tensor(np.ascontiguousarray(keys).view(np.int32), torch.int32)
        scale = float(np.sqrt(task.widths[0] * task.widths[-1]))
        self.constants = self._tensor([task.sam_radius or 0.0, scale], torch.float32)
        self.room = rounded_up(task.drawn)

    def advance(self, start: int, stop: int, learning_rate: Array, noise_std: Array, anneal: Array) -> Array:
        """Run steps start .. stop-1 on every replicate; returns their largest mini-batch losses, (replicates,)."""
        noise, factors = (self._tensor(values, torch.float64) for values in (noise_std, anneal))
        levels = (noise[:, None] * factors[None, :]).to(torch.float32)
        largest = torch.zeros(self.task.replicates, device=self.device)
        whole = torch.ones(self.task.replicates, dtype=torch.int32, device=self.device)
        launch = Launch(
            self.weights, self.first, self.second, self.labels, self.bases, self.counts, self.keys,
            self._tensor(learning_rate, torch.float32), levels, whole * start, whole * (stop - start), largest,
            self.constants, self.room,
        )  # fmt: skip
        self.launch(launch)
        return largest.to("cpu", torch.float64).numpy()

    def layers(self) -> list[Array]:
        """Current weights, L arrays (replicates, d_j, d_{j-1})."""
        return [layer.cpu().numpy().copy() for layer in self.layer_tensors()]

    def state(self) -> list[Array]:
        """State of the update rule: none, because these kernels only take plain and sharpness-aware steps."""
        return [layer[:, None][:, :0] for layer in self.layers()]

    def layer_tensors(self) -> list[torch.Tensor]:
        """Current weights on the device, L views (replicates, d_j, d_{j-1})."""
        pads, widths = self.shape.widths, self.task.widths
        blocks = torch.split(self.weights, self._sizes, dim=1)
        return [block.view(-1, pads[j + 1], pads[j])[:, : widths[j + 1], : widths[j]] for j, block in enumerate(blocks)]

    def _tensor(self, values: Any, dtype: torch.dtype) -> torch.Tensor:
        return torch.as_tensor(np.asarray(values)).to(dtype).to(self.device)

    def _measurements(self) -> tuple[torch.Tensor, torch.Tensor]:
        stored: list[Any] = [as_measurements(one) for one in self.task.measurements]
        (d_in, *_, d_out), (pad_in, *_, pad_out) = self.task.widths, self.shape.widths
        if self.shape.storage == "entries":
            rows, columns = (
                torch.cat([torch.as_tensor(getattr(one, name)).to(torch.int32) for one in stored]).to(self.device)
                for name in ("rows", "columns")
            )
            return rows, columns
        if self.shape.storage == "factors":
            left = self._stacked([one.left for one in stored], (d_out,), (pad_out,), torch.float32)
            return left, self._stacked([one.right for one in stored], (d_in,), (pad_in,), torch.float32)
        dtype = torch.int8 if self.shape.storage == "signs" else torch.float32
        rows = self._stacked([one.array for one in stored], (d_out, d_in), (pad_out, pad_in), dtype)
        return rows, rows

    def _stacked(
        self, parts: Sequence[Any], sizes: tuple[int, ...], pads: tuple[int, ...], dtype: torch.dtype
    ) -> torch.Tensor:
        """All replicates' rows in sequence on the device, padded with zeros; not copied if they already are."""
        total = sum(len(part) for part in parts)
        there = all(isinstance(p, torch.Tensor) and (p.dtype, p.device) == (dtype, self.device) for p in parts)
        if sizes == pads and there:
            return in_sequence(parts)
        found = (torch.empty if sizes == pads else torch.zeros)(total, *pads, dtype=dtype, device=self.device)
        inside = found[(slice(None), *(slice(size) for size in sizes))]
        for part, place in zip(parts, torch.split(inside, [len(part) for part in parts]), strict=True):
            place.copy_(torch.as_tensor(part))
        return found


def in_sequence(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors one after the other along their first axis: no copy if they lie so in memory."""
    ends = [part.data_ptr() + part.numel() * part.element_size() for part in parts]
    if all(a == b.data_ptr() for a, b in zip(ends, parts[1:], strict=False)):
        total = sum(len(part) for part in parts)
        whole: torch.Tensor = torch.as_strided(parts[0], (total, *parts[0].shape[1:]), parts[0].stride())
        return whole
    return torch.cat(list(parts))
