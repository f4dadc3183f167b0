"""All replicates in one torch tensor program, on the CPU or on a CUDA device.

A chunk of steps runs without allocating and without waiting for the device: draws for the whole chunk are made at once
by tensor arithmetic, every product is written to a preallocated buffer, no sum is taken in an order that the device
chooses, and on CUDA the chunk is captured once as a graph and replayed.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from flatdist.engines.base import SAM_EPSILON, TrainingTask
from flatdist.sensing.draws import tensor as draws
from flatdist.sensing.measurements import Entries, Factors, as_measurements
from flatdist.types import Array

CHUNK = 64  # steps whose draws are made together
MINIMUM_BATCH = 2  # a single matrix takes another kernel, with other bits, than a batch of matrices


class BatchedEngine:
    """One tensor program over a leading replicate axis."""

    name = "batched"

    def start(self, task: TrainingTask) -> BatchedSession:
        """Set up a session at the task's starting layers."""
        return BatchedSession(task)


class BatchedSession:
    """See :class:`flatdist.engines.base.Session`."""

    def __init__(self, task: TrainingTask) -> None:
        self.task = task
        self.device = torch.device(task.device)
        self.dtype = getattr(torch, task.dtype)
        # A single replicate is trained together with a copy of itself, so that its bits are those it has in a batch.
        self.members = [*range(task.replicates)] + [0] * max(0, MINIMUM_BATCH - task.replicates)
        layers, starts = range(len(task.widths) - 1), task.starting_state()
        self.weights = [
            torch.stack([torch.as_tensor(task.layers[r][j], dtype=self.dtype) for r in self.members]).to(self.device)
            for j in layers
        ]
        # Per layer (slots, replicates, d_j, d_{j-1}): what the update rule keeps beside the weights.
        self.kept = [
            torch.stack([torch.as_tensor(starts[r][j]) for r in self.members], dim=1).to(self.device) for j in layers
        ]
        columns = torch.as_tensor(task.starting_constants()[self.members]).to(self.device, self.dtype).T
        self.constants = tuple(column[:, None, None] for column in columns)
        stored: list[Any] = [as_measurements(task.measurements[r]) for r in self.members]
        kinds: dict[Any, Any] = {Entries: _EntryRows, Factors: _FactorRows}
        self.drawn = kinds.get(type(stored[0]), _DenseRows)(stored, task.drawn, self.dtype, self.device)
        self.labels = _joined([task.labels[r] for r in self.members], self.dtype, self.device)
        count, keys = len(self.members), np.concatenate([task.batch_keys[self.members], task.noise_keys[self.members]])
        keys = keys[0 if task.batch_size is not None else count : 2 * count if task.label_noise else count]
        self.keys = torch.as_tensor(keys.astype(np.int64)).to(self.device)  # the batch's streams, then the noise's
        self._make_buffers()
        self.graphs: dict[int, torch.cuda.CUDAGraph] = {}  # by number of steps

    def _make_buffers(self) -> None:
        count, drawn = len(self.members), self.task.drawn
        widths = self.task.widths
        d_in, d_out = widths[0], widths[-1]

        def buffer(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=self.dtype, device=self.device)

        self.first_step = torch.zeros((), dtype=torch.int64, device=self.device)
        self.step_offsets = torch.arange(CHUNK, device=self.device)
        self.counts = torch.tensor([[self.task.counts[r]] for r in self.members], device=self.device)  # (members, 1)
        self.row_offsets = self.counts.cumsum(0) - self.counts
        self.rows = torch.zeros(CHUNK, count, drawn, dtype=torch.int64, device=self.device)
        self.noise = buffer(CHUNK, count, drawn)
        self.noise_std = buffer(CHUNK, count)  # s_t, annealed
        self.learning_rate = buffer(count, 1, 1)
        self.largest = buffer(count)
        self.targets = self.labels if self.task.batch_size is None else buffer(count * drawn)
        if self.task.batch_size is None:
            assert len(set(self.task.counts)) == 1, "full batches of different n are not one rectangle"
            self.drawn.take_all()
        self.residual = buffer(count, drawn, 1)
        self.gradient = buffer(count, d_out, d_in)
        self.right = [buffer(count, width, d_in) for width in widths[2:]]  # W_2 W_1, W_3 W_2 W_1, ..., M
        self.left = [buffer(count, d_out, width) for width in widths[1:-2]]  # W_L..W_2 back to W_L W_{L-1}
        self.pulled = [buffer(count, widths[j + 1], d_in) for j in range(len(widths) - 2)]
        self.steps = [torch.zeros_like(w) for w in self.weights]
        self.ahead = [torch.zeros_like(w) for w in self.weights] if self.task.sam_radius is not None else []

    def advance(self, start: int, stop: int, learning_rate: Array, noise_std: Array, anneal: Array) -> Array:
        """Run steps start .. stop-1 on every replicate."""
        self.learning_rate.copy_(torch.as_tensor(learning_rate[self.members])[:, None, None])
        self.largest.zero_()
        # (stop - start, members), moved once: chunks then wait for nothing from the host
        levels = torch.as_tensor(anneal[:, None] * noise_std[self.members][None, :]).to(self.device, self.dtype)
        with _full_precision():
            first = start
            while first < stop:
                count = CHUNK
                while count > stop - first:  # 64, 32, ... 1
                    count //= 2
                self.first_step.fill_(first)
                self.noise_std[:count].copy_(levels[first - start : first - start + count])
                if self.device.type == "cuda":
                    self._replay(count)
                else:
                    self._chunk(count)
                first += count
        return self.largest[: self.task.replicates].to("cpu", torch.float64, copy=True).numpy()

    def layers(self) -> list[Array]:
        """Current weights, L arrays (replicates, d_j, d_{j-1})."""
        return [layer.cpu().numpy().copy() for layer in self.layer_tensors()]

    def layer_tensors(self) -> list[torch.Tensor]:
        """Current weights on the device, L views (replicates, d_j, d_{j-1})."""
        return [w[: self.task.replicates] for w in self.weights]

    def state(self) -> list[Array]:
        """What the update rule keeps, L arrays (replicates, slots, d_j, d_{j-1})."""
        return [kept[:, : self.task.replicates].cpu().numpy().swapaxes(0, 1).copy() for kept in self.kept]

    def _replay(self, count: int) -> None:
        """Run a chunk as a CUDA graph, captured the first time."""
        if count not in self.graphs:
            changed = (*self.weights, *self.kept, self.largest)
            saved = [tensor.clone() for tensor in changed]
            stream = _side_stream(self.device)
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):  # capture needs kernels and workspaces warmed up on a side stream
                self._chunk(count)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            # On the same stream: its workspaces exist by now, and the default one may be another device's.
            with torch.cuda.device(self.device), torch.cuda.graph(graph, stream=stream):
                self._chunk(count)
            for tensor, value in zip(changed, saved, strict=True):
                tensor.copy_(value)
            self.graphs[count] = graph
        self.graphs[count].replay()

    def _chunk(self, count: int) -> None:
        steps, drawn = self.first_step + self.step_offsets[:count], self.task.drawn
        words = draws.words(self.keys, steps, drawn + drawn % 2)  # (count, streams, drawn or one more), all at once
        if self.task.batch_size is not None:
            rows = draws.indices_of(words[:, : len(self.members), :drawn], self.counts)
            torch.add(rows, self.row_offsets, out=self.rows[:count])
        if self.task.label_noise:
            normals = draws.normals_of(words[:, -len(self.members) :])[..., :drawn].to(self.dtype)
            torch.mul(normals, self.noise_std[:count, :, None], out=self.noise[:count])
        for step in range(count):
            self._step(self.rows[step].view(-1), self.noise[step])

    def _step(self, rows: torch.Tensor, noise: torch.Tensor) -> None:
        if self.task.batch_size is not None:
            self.drawn.gather(rows)
            torch.index_select(self.labels, 0, rows, out=self.targets)
        self._layer_steps(self.weights, noise, record=True)
        if self.task.sam_radius is not None:
            norm = torch.sqrt(sum((g * g).sum((1, 2), keepdim=True) for g in self.steps))  # type: ignore[arg-type]
            reach = self.task.sam_radius / (norm + SAM_EPSILON)
            for ahead, weight, step in zip(self.ahead, self.weights, self.steps, strict=True):
                torch.addcmul(weight, step, reach, out=ahead)
            self._layer_steps(self.ahead, noise, record=False)
        if self.task.update is None:
            for weight, step in zip(self.weights, self.steps, strict=True):
                weight.addcmul_(step, self.learning_rate, value=-1.0)
            return
        for weight, step, kept in zip(self.weights, self.steps, self.kept, strict=True):
            moved, slots = self.task.update.step(weight, step, tuple(kept), self.learning_rate, self.constants)
            weight.copy_(moved)
            for slot, value in zip(kept, slots, strict=True):
                slot.copy_(value)

    def _layer_steps(self, weights: list[torch.Tensor], noise: torch.Tensor, *, record: bool) -> None:
        """Gradients of the batch loss at ``weights``, into ``self.steps``."""
        depth, drawn = len(weights), self.task.drawn
        right = [weights[0], *self.right]  # right[j] = W_{j+1} ... W_1
        for j in range(1, depth):
            torch.bmm(weights[j], right[j - 1], out=right[j])
        self.drawn.apply(right[-1], out=self.residual)
        self.residual.sub_(self.targets.view_as(self.residual))
        if record:
            loss = (self.residual * self.residual).mean((1, 2))
            torch.maximum(self.largest, loss, out=self.largest)  # propagates NaN
        if self.task.label_noise:
            self.residual.add_(noise[:, :, None])
        self.residual.mul_(2.0 / drawn)
        gradient = self.gradient  # G
        self.drawn.adjoint(self.residual, out=gradient)
        left = [*self.left, weights[-1]]  # left[j] = W_L ... W_{j+2}
        for j in range(depth - 3, -1, -1):
            torch.bmm(left[j + 1], weights[j + 1], out=left[j])
        torch.bmm(gradient, right[-2].mT, out=self.steps[-1])
        for j in range(depth - 2, 0, -1):
            torch.bmm(left[j].mT, gradient, out=self.pulled[j])
            torch.bmm(self.pulled[j], right[j - 1].mT, out=self.steps[j])
        torch.bmm(left[0].mT, gradient, out=self.steps[0])


class _DenseRows:
    """All measurements of several replicates, numbered consecutively, and those drawn for a step; by their entries."""

    def __init__(self, stored: Sequence[Any], drawn: int, dtype: torch.dtype, device: torch.device) -> None:
        self.count, (d_out, d_in) = len(stored), stored[0].shape
        self.rows = torch.empty(sum(map(len, stored)), d_out * d_in, dtype=dtype, device=device)
        for one, place in zip(stored, torch.split(self.rows, [len(one) for one in stored]), strict=True):
            place.copy_(torch.as_tensor(one.array).reshape(len(one), -1))
        self.gathered = torch.zeros(self.count * drawn, d_out * d_in, dtype=dtype, device=device)

    def take_all(self) -> None:
        """Use every measurement of every replicate from now on: full batches are not copied."""
        self.gathered = self.rows

    def gather(self, rows: torch.Tensor) -> None:
        """Draw the measurements with these numbers, (replicates * drawn,)."""
        torch.index_select(self.rows, 0, rows, out=self.gathered)

    def apply(self, matrices: torch.Tensor, out: torch.Tensor) -> None:
        """<A_i, M> over the drawn ones; matrices (replicates, d_out, d_in), out (replicates, drawn, 1)."""
        torch.bmm(self.gathered.view(self.count, out.shape[1], -1), matrices.view(self.count, -1, 1), out=out)

    def adjoint(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        """sum_i w_i A_i over the drawn ones; weights (replicates, drawn, 1), out (replicates, d_out, d_in)."""
        gathered = self.gathered.view(self.count, weights.shape[1], -1)
        torch.bmm(gathered.mT, weights, out=out.view(self.count, -1, 1))


class _FactorRows:
    """The same by u_i and v_i: <A_i, M> = (u_i^T M) v_i, and sum_i (w_i u_i) v_i^T is one product."""

    def __init__(self, stored: Sequence[Any], drawn: int, dtype: torch.dtype, device: torch.device) -> None:
        d_out, d_in = stored[0].shape
        self.left, self.right = self._factors(stored, dtype, device)
        self.drawn_left, self.weighted, self.drawn_right, self.images = (
            torch.zeros(len(stored), drawn, width, dtype=dtype, device=device) for width in (d_out, d_out, d_in, d_in)
        )

    def _factors(self, stored: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Sequence[torch.Tensor]:
        return [_joined([getattr(one, side) for one in stored], dtype, device) for side in ("left", "right")]

    def take_all(self) -> None:
        self.gather(torch.arange(self.drawn_left.shape[:2].numel(), device=self.drawn_left.device))

    def gather(self, rows: torch.Tensor) -> None:
        torch.index_select(self.left, 0, rows, out=self.drawn_left.view(len(rows), -1))
        torch.index_select(self.right, 0, rows, out=self.drawn_right.view(len(rows), -1))

    def apply(self, matrices: torch.Tensor, out: torch.Tensor) -> None:
        torch.bmm(self.drawn_left, matrices, out=self.images)
        self.images.mul_(self.drawn_right)
        torch.sum(self.images, dim=2, keepdim=True, out=out)

    def adjoint(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        torch.mul(self.drawn_left, weights, out=self.weighted)
        torch.bmm(self.weighted.mT, self.drawn_right, out=out)


class _EntryRows(_FactorRows):
    """The same of single entries, as u_i = sqrt(d_out d_in) e_a and v_i = e_b made for the drawn ones alone.

    Adding numbers into places that repeat would be shorter, but on a GPU in no fixed order.
    """

    def __init__(self, stored: Sequence[Any], drawn: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(stored, drawn, dtype, device)
        self.place = torch.zeros(len(stored) * drawn, dtype=torch.int64, device=device)

    def _factors(self, stored: Sequence[Any], dtype: torch.dtype, device: torch.device) -> Sequence[torch.Tensor]:
        self.places = [_joined([getattr(one, name) for one in stored], torch.int64, device) for name in stored[0].kept]
        identities = [torch.eye(width, dtype=dtype, device=device) for width in stored[0].shape]
        return stored[0].scale * identities[0], identities[1]

    def gather(self, rows: torch.Tensor) -> None:
        lines = zip(self.places, (self.left, self.right), (self.drawn_left, self.drawn_right), strict=True)
        for places, line, out in lines:
            torch.index_select(places, 0, rows, out=self.place)
            torch.index_select(line, 0, self.place, out=out.view(len(rows), -1))


def _joined(parts: Sequence[Any], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.cat([torch.as_tensor(part).to(dtype) for part in parts]).to(device)


@contextlib.contextmanager
def _full_precision() -> Iterator[None]:
    """Products in neither TF32 nor bfloat16, whatever the process chose for its own, which it gets back."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@functools.cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream that all sessions on a device capture on: cuBLAS keeps a workspace for every stream it ever saw."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
