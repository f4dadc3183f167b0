"""What a strong user would write instead of an engine for many replicates on one device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DEPTH, RATE, NOISE = 3, 1e-3, 0.5
Clock = Callable[..., float]


def rivals(device: str, quick: bool, clock: Clock, batch: int) -> dict[str, Any]:
    """Nanoseconds per replicate-step of an autograd loop, a compiled batched step, and JAX's vmap over a scan."""
    found: dict[str, Any] = {}
    print("| d | R | autograd loop, one replicate | torch.compile, batched | JAX vmap of scan |\n|---|---|---|---|---|")
    for d, count in ((4, 2),) if quick else ((12, 512), (32, 512)):
        numbers = _Numbers(device, d, count, 10 * d, batch)
        row: dict[str, Any] = {}
        for name, measure in (("autograd", _autograd), ("compiled", _compiled), ("jax", _jax)):
            try:
                row[name] = None if quick and name != "autograd" else measure(numbers, clock)
            except Exception as error:
                row[name] = f"{type(error).__name__}: {error}"[:80]
        found[f"{d}, {count}"] = row
        shown = [f"{v:.0f}" if isinstance(v, float) else str(v) for v in row.values()]
        print(f"| {d} | {count} | " + " | ".join(shown) + " |", flush=True)
    return found


class _Numbers:
    def __init__(self, device: str, d: int, count: int, n: int, batch: int) -> None:
        self.device, self.d, self.count, self.n, self.batch = device, d, count, n, batch
        self.generator = torch.Generator(device=device).manual_seed(0)
        self.rows, self.labels = self.normal(count, n, d * d), self.normal(count, n)
        self.layers = [self.normal(count, d, d) * 0.5 / d**0.5 for _ in range(DEPTH)]

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=self.device, generator=self.generator)

    def index(self, *shape: int) -> torch.Tensor:
        return torch.randint(self.n, shape, device=self.device, generator=self.generator)


def _autograd(numbers: _Numbers, clock: Clock) -> float:
    layers = [layer[0].clone().requires_grad_() for layer in numbers.layers]

    def steps(_: int) -> None:
        for _ in range(20):
            index = numbers.index(numbers.batch)
            matrix = layers[2] @ layers[1] @ layers[0]
            noise = NOISE * numbers.normal(numbers.batch)
            residual = numbers.rows[0][index] @ matrix.reshape(-1) - numbers.labels[0][index] + noise
            gradients = torch.autograd.grad((residual**2).mean(), layers)
            with torch.no_grad():
                for layer, gradient in zip(layers, gradients, strict=True):
                    layer.sub_(RATE * gradient)

    return 1e9 * clock(steps, 0.1) / 20


def _compiled(numbers: _Numbers, clock: Clock) -> float:
    count, d, batch = numbers.count, numbers.d, numbers.batch

    def step(w1: Any, w2: Any, w3: Any, index: Any, xi: Any) -> Any:
        right = w2 @ w1
        drawn = torch.gather(numbers.rows, 1, index[:, :, None].expand(-1, -1, d * d))
        prediction = (drawn @ (w3 @ right).reshape(count, -1, 1))[..., 0]
        residual = (prediction - torch.gather(numbers.labels, 1, index) + NOISE * xi) * (2 / batch)
        g = (drawn.mT @ residual[..., None]).reshape(count, d, d)
        pulled = w3.mT @ g
        return w1 - RATE * (w2.mT @ pulled), w2 - RATE * (pulled @ w1.mT), w3 - RATE * (g @ right.mT)

    fast = torch.compile(step, mode="reduce-overhead")
    state = [layer.clone() for layer in numbers.layers]

    def steps(_: int) -> None:
        for _ in range(20):
            torch.compiler.cudagraph_mark_step_begin()
            state[:] = [x.clone() for x in fast(*state, numbers.index(count, batch), numbers.normal(count, batch))]

    return 1e9 * clock(steps, 0.15) / 20 / count


def _jax(numbers: _Numbers, clock: Clock) -> float:
    import jax
    import jax.numpy as jnp

    jax.config.update("jax_default_matmul_precision", "highest")
    count, n, batch, steps = numbers.count, numbers.n, numbers.batch, 500

    def one(rows: Any, labels: Any, layers: Any, key: Any) -> Any:
        def step(layers: Any, key: Any) -> Any:
            first, second = jax.random.split(key)
            index, xi = jax.random.randint(first, (batch,), 0, n), jax.random.normal(second, (batch,))

            def loss(layers: Any) -> Any:
                matrix = layers[2] @ layers[1] @ layers[0]
                return jnp.mean((rows[index] @ matrix.reshape(-1) - labels[index] + NOISE * xi) ** 2)

            gradients = jax.grad(loss)(layers)
            return [w - RATE * g for w, g in zip(layers, gradients, strict=True)], None

        return jax.lax.scan(step, layers, jax.random.split(key, steps))[0]

    run = jax.jit(jax.vmap(one))
    arguments = [jnp.asarray(x.cpu().numpy()) for x in (numbers.rows, numbers.labels)]
    layers = [jnp.asarray(layer.cpu().numpy()) for layer in numbers.layers]
    keys = jax.random.split(jax.random.PRNGKey(0), count)
    return 1e9 * clock(lambda _: jax.block_until_ready(run(*arguments, layers, keys)), 0.15) / steps / count
