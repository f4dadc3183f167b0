"""The interface of engines: all engines take the same steps from the same draws.

Step t of a replicate, with B = batch size and s_t = noise_std * anneal_t:

    i_1 .. i_B  = Stream(batch key).indices([t], B, n)      (every index once if the batch is full)
    xi_1 .. xi_B = Stream(noise key).normals([t], B)        (label noise only)
    e_k = <A_{i_k}, M> - b_{i_k} + s_t xi_k,   M = W_L ... W_1
    G = (2/B) sum_k e_k A_{i_k}
    W_j <- W_j - eta (W_L ... W_{j+1})^T G (W_{j-1} ... W_1)^T      for all j at once

With a SAM radius rho the gradient is taken at W + rho g / (||g|| + SAM_EPSILON), g the gradient above and ||g|| its
norm over all layers. A method with an update rule of its own replaces the last line, entry by entry, by that rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from flatdist.methods.base import UpdateRule
from flatdist.sensing.measurements import Measurements
from flatdist.types import Array

WIDEST = 64  # layers that kernels hold on the chip of a GPU, rows and columns
SAM_EPSILON = 1e-12  # keeps SAM's direction defined where a drawn measurement is fitted exactly


@dataclass(frozen=True)
class TrainingTask:
    """Everything a session needs to train replicates together, from one cell or several that differ in their problems.

    Sequences and first axes are by replicate.
    """

    widths: tuple[int, ...]  # d_0 ... d_L, from input to output
    # As the ensemble stores them, or (n, d_out, d_in); in the cell's dtype, or int8 for +1/-1 ensembles.
    measurements: Sequence[Measurements | Array]
    labels: Sequence[Array]  # (n,) in the cell's dtype; n may differ between replicates
    layers: Sequence[Sequence[Array]]  # at the start, layers[r][j] is W_{j+1} of shape (widths[j+1], widths[j])
    batch_keys: Array  # (replicates, 2) uint32, Philox keys of the batch indices
    noise_keys: Array  # (replicates, 2) uint32, Philox keys of the label noise
    batch_size: int | None  # indices drawn per step, with replacement; None for every index once
    label_noise: bool  # whether labels are perturbed at all
    sam_radius: float | None  # length of SAM's perturbation; None for plain SGD
    dtype: str  # float32 or float64
    update: UpdateRule | None = None  # how a gradient moves the weights; None for W <- W - eta g
    constants: Array | None = None  # (replicates, constants), the numbers passed to ``update``
    # state[r][j] is the state of ``update`` for W_{j+1}, (slots, widths[j+1], widths[j]); None for zeros.
    state: Sequence[Sequence[Array]] | None = None
    threads: int = 1  # of the CPU, that the session may use
    device: str = "cpu"  # or a torch device such as ``cuda:0``
    # Replicate-steps planned with these widths and this batch, here and in other tasks: an engine may compile code for
    # this shape if they make up for the compilation.
    planned_steps: int = 0

    @property
    def replicates(self) -> int:
        """Number of replicates trained together."""
        return len(self.labels)

    @property
    def counts(self) -> list[int]:
        """Number of measurements n of each replicate."""
        return [len(labels) for labels in self.labels]

    @property
    def drawn(self) -> int:
        """Number of terms in one step's gradient: the batch size, or the largest n if the batch is full."""
        return max(self.counts) if self.batch_size is None else self.batch_size

    @property
    def slots(self) -> int:
        """Number of numbers that the update rule keeps with every weight."""
        return 0 if self.update is None else len(self.update.state)

    def starting_state(self) -> list[list[Array]]:
        """``state`` in the cell's dtype, zeros by default."""
        if self.state is not None:
            return [[np.asarray(slots, self.dtype) for slots in layers] for layers in self.state]
        return [[np.zeros((self.slots, *layer.shape), self.dtype) for layer in layers] for layers in self.layers]

    def starting_constants(self) -> Array:
        """``constants``, without columns by default, (replicates, constants) float64."""
        return np.asarray(np.zeros((self.replicates, 0)) if self.constants is None else self.constants, np.float64)


class Session(Protocol):
    """A batch of replicates being trained."""

    def advance(self, start: int, stop: int, learning_rate: Array, noise_std: Array, anneal: Array) -> Array:
        """Run steps start .. stop-1 on every replicate.

        Args:
            start: number of the first step.
            stop: number after the last step.
            learning_rate: (replicates,) step sizes.
            noise_std: (replicates,) absolute label noise s, in units of the labels.
            anneal: (stop - start,) factors on the label noise.

        Returns:
            (replicates,) float64: the largest mini-batch loss of those steps, the mean squared residual of the drawn
            batch without label noise at the weights before each step; not finite where any of them was not.
        """

    def layers(self) -> list[Array]:
        """Current weights: L arrays (replicates, d_j, d_{j-1}) in the cell's dtype, copies."""

    def layer_tensors(self) -> list[Any]:
        """The layers as torch tensors on the session's device, views if possible; only on engines for GPUs."""

    def state(self) -> list[Array]:
        """State of the update rule: L arrays (replicates, slots, d_j, d_{j-1}) in the cell's dtype, copies."""


class Engine(Protocol):
    """A way of executing SGD steps."""

    name: str

    def start(self, task: TrainingTask) -> Session:
        """Set up a session at the task's starting layers."""


def why_not_on_chip(widths: Sequence[int], dtype: str) -> str | None:
    """Why kernels that hold a replicate on the chip of a GPU cannot run an architecture, or None."""
    if dtype != "float32":
        return f"it computes in float32, not in {dtype}"
    if max(widths) > WIDEST:
        return f"it holds layers of up to {WIDEST} x {WIDEST} on the chip, not {max(widths)}"
    return None
