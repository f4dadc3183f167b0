"""Good hand-written replacements for an engine, which the engine benchmarks time for comparison.

Each rival trains ``count`` replicates of label-noise SGD on a factorization of depth L, batches drawn with replacement,
from generators of its own: the same arithmetic as a step of an engine, not the same numbers.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit

from flatdist.types import Array

RATE, NOISE = 1e-4, 0.5
SCANNED = 200  # steps of one call of JAX's program
Steps = Callable[[int], None]


@dataclass(frozen=True)
class Work:
    """What a rival trains on.

    Attributes:
        rows: (count, n, d_out * d_in) float32.
        labels: (count, n) float32.
        layers: W_1 ... W_L, each (count, d_{j+1}, d_j) float32.
        batch: indices drawn per step.
        device: of torch tensors.
    """

    rows: torch.Tensor
    labels: torch.Tensor
    layers: Sequence[torch.Tensor]
    batch: int
    device: str = "cpu"

    @property
    def count(self) -> int:
        """Number of replicates."""
        return len(self.labels)

    def drawn(self, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices and label noise."""
        index = torch.randint(self.labels.shape[1], shape, device=self.device)
        return index, NOISE * torch.randn(shape, device=self.device)


def random_work(device: str, d: int, count: int, n: int, batch: int, depth: int = 3) -> Work:
    """Work on random numbers, square layers of width d, on a device."""
    generator = torch.Generator(device=device).manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, generator=generator)

    layers = [normal(count, d, d) * 0.5 / d**0.5 for _ in range(depth)]
    return Work(normal(count, n, d * d), normal(count, n), layers, batch, device)


def autograd_loop(work: Work) -> Steps:
    """The plain loop: autograd and torch.optim.SGD, one replicate."""
    shape = work.layers[-1].shape[1], work.layers[0].shape[2]
    measurements, labels = work.rows[0].view(-1, *shape), work.labels[0]
    layers = [torch.nn.Parameter(layer[0].clone()) for layer in work.layers]
    optimizer = torch.optim.SGD(layers, lr=RATE)

    def steps(count: int) -> None:
        for _ in range(count):
            index, noise = work.drawn(work.batch)
            matrix = layers[0]
            for layer in layers[1:]:
                matrix = layer @ matrix
            prediction = torch.einsum("kab,ab->k", measurements[index], matrix)
            loss = ((prediction - labels[index] + noise) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def compiled(work: Work) -> Steps:
    """torch.compile of a step in closed form, all replicates in one tensor program."""
    d_out, d_in = work.layers[-1].shape[1], work.layers[0].shape[2]

    def step(layers: list[torch.Tensor], index: torch.Tensor, noise: torch.Tensor) -> list[torch.Tensor]:
        products = [layers[0]]
        for layer in layers[1:]:
            products.append(layer @ products[-1])
        drawn = torch.gather(work.rows, 1, index[:, :, None].expand(-1, -1, d_out * d_in))
        prediction = (drawn @ products[-1].reshape(work.count, -1, 1))[..., 0]
        residual = (prediction - torch.gather(work.labels, 1, index) + noise) * (2 / work.batch)
        pulled = (drawn.mT @ residual[..., None]).reshape(work.count, d_out, d_in)
        moved = []
        for j in range(len(layers) - 1, 0, -1):
            moved.append(layers[j] - RATE * (pulled @ products[j - 1].mT))
            pulled = layers[j].mT @ pulled
        return [layers[0] - RATE * pulled, *moved[::-1]]

    on_card = work.device != "cpu"
    fast = torch.compile(step, mode="reduce-overhead") if on_card else torch.compile(step)
    state = [layer.clone() for layer in work.layers]

    def steps(count: int) -> None:
        with torch.no_grad():
            for _ in range(count):
                if on_card:
                    torch.compiler.cudagraph_mark_step_begin()
                state[:] = [layer.clone() for layer in fast(state, *work.drawn(work.count, work.batch))]

    return steps


def jax_scan(work: Work) -> Steps:
    """JAX: jit of vmap of scan, gradients in closed form, draws of all steps of a call in bulk."""
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    n = work.labels.shape[1]

    def one(rows: Any, labels: Any, layers: Any, key: Any) -> Any:
        first, second = jax.random.split(key)
        index = jax.random.randint(first, (SCANNED, work.batch), 0, n)
        noise = NOISE * jax.random.normal(second, (SCANNED, work.batch))

        def step(layers: Any, drawn: Any) -> Any:
            index, noise = drawn
            products = [layers[0]]
            for layer in layers[1:]:
                products.append(layer @ products[-1])
            chosen = rows[index]
            residual = (chosen @ products[-1].reshape(-1) - labels[index] + noise) * (2 / work.batch)
            pulled = (residual @ chosen).reshape(products[-1].shape)
            moved = []
            for j in range(len(layers) - 1, 0, -1):
                moved.append(layers[j] - RATE * pulled @ products[j - 1].T)
                pulled = layers[j].T @ pulled
            return [layers[0] - RATE * pulled, *moved[::-1]], None

        return jax.lax.scan(step, layers, (index, noise))[0]

    run = jax.jit(jax.vmap(one))
    rows, labels = (jnp.asarray(x.cpu().numpy()) for x in (work.rows, work.labels))
    state = [jnp.asarray(layer.cpu().numpy()) for layer in work.layers]
    key = jax.random.PRNGKey(0)

    def steps(count: int) -> None:
        nonlocal state, key
        for _ in range(max(1, round(count / SCANNED))):
            key, here = jax.random.split(key)
            state = run(rows, labels, state, jax.random.split(here, work.count))
        jax.block_until_ready(state)

    return steps


@njit(nogil=True)
def _naive_steps(
    rows: Array, labels: Array, layers: tuple[Array, ...], batch: int, steps: int, rate: float, noise: float
) -> None:
    """numpy as one writes it, compiled by Numba."""
    for _ in range(steps):
        products = [layers[0].copy()]
        for j in range(1, len(layers)):
            products.append(np.dot(layers[j], products[j - 1]))
        matrix = products[-1]
        gradient = np.zeros_like(matrix)
        for _draw in range(batch):
            i = np.random.randint(0, len(labels))  # noqa: NPY002  what Numba has
            residual = (rows[i] * matrix).sum() - labels[i] + noise * np.random.randn()  # noqa: NPY002
            gradient += np.float32(2.0 * residual / batch) * rows[i]
        for j in range(len(layers) - 1, 0, -1):
            below = np.dot(layers[j].T, gradient)
            layers[j][:] = layers[j] - np.float32(rate) * np.dot(gradient, products[j - 1].T)
            gradient = below
        layers[0][:] = layers[0] - np.float32(rate) * gradient


def naive_numba(work: Work) -> Steps:
    """Loops and numpy functions under ``@njit``, one replicate."""
    layers = tuple(layer[0].numpy().copy() for layer in work.layers)
    rows = work.rows[0].numpy().reshape(-1, layers[-1].shape[0], layers[0].shape[1])
    labels = work.labels[0].numpy()
    return lambda count: _naive_steps(rows, labels, layers, work.batch, count, RATE, NOISE)


def cpp(work: Work) -> Steps:
    """``rival.cpp``, compiled for this shape and processor, one replicate."""
    d_out, d_in = work.layers[-1].shape[1], work.layers[0].shape[2]
    train = _library(d_out, d_in, len(work.layers)).train
    rows, labels = work.rows[0].numpy(), work.labels[0].numpy()
    layers = np.concatenate([layer[0].numpy().ravel() for layer in work.layers])
    pointers = [array.ctypes.data_as(ctypes.c_void_p) for array in (rows, labels, layers)]
    rate, noise, seed = ctypes.c_float(RATE), ctypes.c_float(NOISE), ctypes.c_uint64(1)

    def steps(count: int) -> None:
        train(pointers[0], pointers[1], len(labels), pointers[2], work.batch, rate, noise, ctypes.c_long(count), seed)
        assert np.isfinite(layers).all()

    return steps


@functools.lru_cache
def _library(d_out: int, d_in: int, depth: int) -> ctypes.CDLL:
    compiler = shutil.which("g++") or shutil.which("clang++")
    assert compiler is not None
    sizes = [f"-DD_OUT={d_out}", f"-DD_IN={d_in}", f"-DLAYERS={depth}"]
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "rival.so")
        source = str(Path(__file__).with_name("rival.cpp"))
        flags = ["-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", *sizes]
        subprocess.run([compiler, *flags, "-o", target, source], check=True)
        return ctypes.CDLL(target)


def on_this_machine() -> dict[str, Callable[[Work], Steps]]:
    """The rivals that can run here."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    found = {"C++": cpp} if compiler else {}
    found |= {"JAX": jax_scan} if importlib.util.find_spec("jax") else {}
    found |= {"Numba": naive_numba}
    found |= {"torch.compile": compiled} if compiler else {}
    return found | {"autograd": autograd_loop}
