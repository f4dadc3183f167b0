"""Time of one SGD step on every engine, against a plain autograd loop and against the roofline.

    python -m benchmarks.engines [--quick] [--seconds 3] [--json build/engines.json]

Batch 50 with replacement, label noise, float32, draws included. Everything about one shape is timed in short bursts,
in turn, and the shortest burst counts, so that other work on the machine disturbs the ratios little. The table goes to
the standard output as Markdown, and every figure with its median to the JSON file.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import threadpoolctl
import torch

from benchmarks.roofline import Roofline, step_flops
from flatdist.engines.base import Engine, Session, TrainingTask
from flatdist.engines.batched import BatchedEngine
from flatdist.engines.fused import FusedEngine
from flatdist.machine.provenance import machine_provenance
from flatdist.machine.threads import set_threads
from flatdist.types import Array, aligned_zeros

SHAPES = {(12, 12): 67, (20, 20): 210, (30, 20): 300, (60, 60): 1200, (100, 100): 2000}  # (d_out, d_in): n
DEPTHS = (2, 3, 5)
REPLICATES = (1, 8, 64)
THREADS = (1, 2)
BATCH = 50
DISTINCT = 8  # problems held at once; more replicates train on the same ones, to bound the memory
RATE, NOISE = 1e-4, 0.5
BURST_SECONDS = 5e-3


@dataclass
class Contender:
    """Something that takes steps, timed in bursts."""

    start: Callable[[], Callable[[int], None]]
    replicates: int
    burst: int = 0
    times: list[float] = field(default_factory=list)  # seconds per replicate-step

    def run(self) -> None:
        """Time one burst of a fresh start; the first call finds out how many steps a burst has.

        Fresh, because where the system places a pool's threads stays as it is once they run.
        """
        steps = self.start()
        steps(2)
        if not self.burst:
            # Together, replicates get longer bursts: each must find its measurements in the cache again.
            length = min(BURST_SECONDS * self.replicates, 30 * BURST_SECONDS)
            self.burst = max(2, min(4000, int(20 * length / min(_time(steps, 20) for _ in range(3)))))
        self.times.append(_time(steps, self.burst) / self.burst / self.replicates)


def _time(steps: Callable[[int], None], count: int) -> float:
    start = time.perf_counter()
    steps(count)
    return time.perf_counter() - start


def make_problems(shape: tuple[int, int], n: int, count: int) -> tuple[list[Array], list[Array]]:
    """Gaussian measurements (n, d_out, d_in) of a random matrix of rank one, and their labels."""
    rng = np.random.default_rng(0)
    measurements, labels = [], []
    for _ in range(count):
        rows = aligned_zeros((n, *shape), "float32")
        rng.standard_normal(dtype=np.float32, out=rows)
        truth = np.outer(rng.standard_normal(shape[0]), rng.standard_normal(shape[1])).astype(np.float32)
        measurements.append(rows)
        labels.append(rows.reshape(n, -1) @ (truth / np.linalg.norm(truth)).ravel())
    return measurements, labels


def make_task(widths: tuple[int, ...], problems: Any, replicates: int, threads: int) -> TrainingTask:
    """A task on those problems, taken in turn."""
    rng = np.random.default_rng(2)
    shapes = list(zip(widths[1:], widths[:-1], strict=True))
    measurements, labels = ([part[r % len(part)] for r in range(replicates)] for part in problems)
    return TrainingTask(
        widths=widths,
        measurements=measurements,
        labels=labels,
        layers=[
            [(0.5 * rng.standard_normal(s) / np.sqrt(s[1])).astype(np.float32) for s in shapes]
            for _ in range(replicates)
        ],
        batch_keys=rng.integers(0, 2**32, (replicates, 2), dtype=np.uint32),
        noise_keys=rng.integers(0, 2**32, (replicates, 2), dtype=np.uint32),
        batch_size=BATCH,
        label_noise=True,
        sam_radius=None,
        dtype="float32",
        threads=threads,
    )


def stepper(engine: Engine, task: TrainingTask) -> Callable[[], Callable[[int], None]]:
    """Starts sessions of an engine."""
    return lambda: session_steps(engine.start(task), task.replicates)


def session_steps(session: Session, replicates: int) -> Callable[[int], None]:
    """Steps of one session."""
    done = 0

    def steps(count: int) -> None:
        nonlocal done
        rate, noise = np.full(replicates, RATE), np.full(replicates, NOISE)
        largest = session.advance(done, done + count, rate, noise, np.ones(count))
        assert np.isfinite(largest).all()
        done += count

    return steps


def autograd_loop(task: TrainingTask) -> Callable[[int], None]:
    """Label-noise SGD as one would write it: autograd and torch.optim.SGD."""
    measurements, labels = torch.from_numpy(task.measurements[0]), torch.from_numpy(task.labels[0])
    layers = [torch.nn.Parameter(torch.from_numpy(w.copy())) for w in task.layers[0]]
    optimizer = torch.optim.SGD(layers, lr=RATE)

    def steps(count: int) -> None:
        for _ in range(count):
            index = torch.randint(len(labels), (BATCH,))
            noise = NOISE * torch.randn(BATCH)
            matrix = layers[0]
            for layer in layers[1:]:
                matrix = layer @ matrix
            prediction = torch.einsum("kab,ab->k", measurements[index], matrix)
            loss = ((prediction - labels[index] + noise) ** 2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return steps


def measure(shape: tuple[int, int], depth: int, problems: Any, seconds: float, quick: bool) -> dict[str, Any]:
    """All figures of one shape and depth, times in seconds per replicate-step."""
    widths = (shape[1], *[max(shape)] * (depth - 1), shape[0])
    contenders: dict[str, Contender] = {}
    for replicates, threads in product(REPLICATES[:2] if quick else REPLICATES, THREADS):
        if replicates >= threads:
            task = make_task(widths, problems, replicates, threads)
            contenders[f"fused {replicates} {threads}"] = Contender(stepper(FusedEngine(), task), replicates)
    for replicates in (1, 8):
        session = BatchedEngine().start(make_task(widths, problems, replicates, 1))  # it copies the measurements: once
        steps = session_steps(session, replicates)
        contenders[f"batched {replicates} 1"] = Contender(lambda steps=steps: steps, replicates)
    loop = autograd_loop(make_task(widths, problems, 1, 1))
    contenders["autograd 1 1"] = Contender(lambda: loop, 1)
    roofline = Roofline(widths, problems[0][0].reshape(len(problems[1][0]), -1), BATCH)
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < 3 or time.perf_counter() < end:
        for contender in contenders.values():
            contender.run()
        roofline.burst()
        rounds += 1
    best = {name: min(contender.times) for name, contender in contenders.items()}
    return {
        "d_out": shape[0],
        "d_in": shape[1],
        "depth": depth,
        "n": len(problems[1][0]),
        "seconds": best,
        "median_seconds": {name: float(np.median(contender.times)) for name, contender in contenders.items()},
        "rounds": rounds,
        "flops": step_flops(widths, BATCH),
        "blas_seconds": roofline.products,
        "rows_seconds": roofline.reading,
        "rows_bytes_per_second": roofline.bandwidth,
    }


def table(results: list[dict[str, Any]]) -> str:
    """Markdown table, times in microseconds per replicate-step."""
    names = list(results[0]["seconds"])
    fused = [name for name in names if name.startswith("fused")]
    heads = ["shape", "depth", "autograd", "batched x1", "batched x8"]
    heads += [f"fused x{name.split()[1]}" + (", 2 threads" if name.endswith("2") else "") for name in fused]
    heads += ["autograd / fused", "GFLOP/s", "roofline (products + rows)", "fused / roofline", "2 threads / 1"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for r in results:
        t = {name: 1e6 * value for name, value in r["seconds"].items()}
        own = t["fused 1 1"]
        blas, rows = 1e6 * r["blas_seconds"], 1e6 * r["rows_seconds"]
        cells = [f"{r['d_out']}x{r['d_in']}", str(r["depth"])]
        cells += [f"{t[name]:.3g}" for name in ("autograd 1 1", "batched 1 1", "batched 8 1", *fused)]
        cells += [f"{t['autograd 1 1'] / own:.0f}x", f"{r['flops'] / own / 1e3:.0f}"]
        cells += [f"{blas + rows:.3g} ({blas:.3g} + {rows:.3g})", f"{own / (blas + rows):.2f}"]
        cells += [f"{t['fused 8 1'] / t['fused 8 2']:.2f}x"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="depth 3, at most 8 replicates, up to d = 60")
    parser.add_argument("--seconds", type=float, help="measuring time for each shape and depth; default 8, quick 3")
    parser.add_argument("--json", type=Path, default=Path("build/engines.json"))
    options = parser.parse_args()
    set_threads(1)
    seconds = options.seconds or (3.0 if options.quick else 8.0)
    results = []
    for shape, n in SHAPES.items():
        if options.quick and max(shape) > 60:
            continue
        problems = make_problems(shape, n, DISTINCT)
        results += [measure(shape, d, problems, seconds, options.quick) for d in ((3,) if options.quick else DEPTHS)]
    print("Microseconds per replicate-step; xR: R replicates together. The ratios are for one replicate, one thread.\n")
    print(table(results))
    record = {
        "machine": {**machine_provenance(), "processor": platform.processor()},
        "blas": threadpoolctl.threadpool_info(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "batch": BATCH,
        "results": results,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()
