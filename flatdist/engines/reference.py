"""Label-noise SGD in plain autograd, to be read beside the paper: every other engine must match it draw for draw."""

from __future__ import annotations

import numpy as np
import torch

from flatdist.engines.base import SAM_EPSILON, TrainingTask
from flatdist.factorization.products import end_to_end
from flatdist.sensing.draws import Stream
from flatdist.sensing.measurements import Measurements, as_measurements
from flatdist.types import Array


class ReferenceEngine:
    """One replicate after another, one step after another, with gradients by autograd."""

    name = "reference"

    def start(self, task: TrainingTask) -> ReferenceSession:
        """Set up a session at the task's starting layers."""
        return ReferenceSession(task)


class ReferenceSession:
    """See :class:`flatdist.engines.base.Session`."""

    def __init__(self, task: TrainingTask) -> None:
        self.task = task
        dtype = getattr(torch, task.dtype)
        self.weights = [[torch.tensor(w, dtype=dtype).requires_grad_() for w in layers] for layers in task.layers]
        self.measurements = [as_measurements(a).tensors(dtype) for a in task.measurements]
        self.labels = [torch.tensor(b, dtype=dtype) for b in task.labels]
        self.kept = [[torch.tensor(slots) for slots in layers] for layers in task.starting_state()]
        self.constants = [tuple(row) for row in task.starting_constants().tolist()]

    def advance(self, start: int, stop: int, learning_rate: Array, noise_std: Array, anneal: Array) -> Array:
        """Run steps start .. stop-1 on every replicate."""
        largest = np.zeros(self.task.replicates)
        for r in range(self.task.replicates):
            for step in range(start, stop):
                loss = self._step(r, step, float(learning_rate[r]), float(noise_std[r] * anneal[step - start]))
                largest[r] = np.maximum(largest[r], loss)  # propagates NaN
        return largest

    def layers(self) -> list[Array]:
        """Current weights, L arrays (replicates, d_j, d_{j-1})."""
        return [np.stack([w.detach().numpy() for w in layer]) for layer in zip(*self.weights, strict=True)]

    def state(self) -> list[Array]:
        """What the update rule keeps, L arrays (replicates, slots, d_j, d_{j-1})."""
        return [np.stack([slots.numpy() for slots in layer]) for layer in zip(*self.kept, strict=True)]

    def _step(self, r: int, step: int, eta: float, s: float) -> float:
        layers = self.weights[r]
        a, b = self._batch(r, step)
        noise = self._label_noise(r, step, s)

        def gradients(at: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
            residual = a.apply(end_to_end(at)) - b
            return torch.autograd.grad(((residual + noise) ** 2).mean(), at)

        with torch.no_grad():
            loss = float(((a.apply(end_to_end(layers)) - b) ** 2).mean())
        step_gradients = gradients(layers)
        if self.task.sam_radius is not None:
            norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in step_gradients]))
            reach = self.task.sam_radius / (norm + SAM_EPSILON)
            ahead = [w + reach * g for w, g in zip(layers, step_gradients, strict=True)]
            step_gradients = gradients(ahead)
        with torch.no_grad():
            for weight, g, kept in zip(layers, step_gradients, self.kept[r], strict=True):
                if self.task.update is None:
                    weight.sub_(eta * g)
                else:
                    moved, slots = self.task.update.step(weight, g, tuple(kept), eta, self.constants[r])
                    weight.copy_(moved)
                    for slot, value in zip(kept, slots, strict=True):
                        slot.copy_(value)
        return loss

    def _batch(self, r: int, step: int) -> tuple[Measurements, torch.Tensor]:
        if self.task.batch_size is None:
            return self.measurements[r], self.labels[r]
        key = tuple(int(k) for k in self.task.batch_keys[r])
        index = Stream(key).indices(np.array([step]), self.task.batch_size, len(self.labels[r]))[0]  # type: ignore[arg-type]
        return self.measurements[r].select(index), self.labels[r][index]

    def _label_noise(self, r: int, step: int, s: float) -> torch.Tensor:
        if not self.task.label_noise:
            return torch.zeros((), dtype=self.labels[r].dtype)
        key = tuple(int(k) for k in self.task.noise_keys[r])
        normals = Stream(key).normals(np.array([step]), self.task.batch_size or len(self.labels[r]))[0]  # type: ignore[arg-type]
        return s * torch.tensor(normals, dtype=self.labels[r].dtype)
