"""Time of one SGD step on every engine, compared with good hand-written code and with the core's limits.

    python -m benchmarks.engines [--quick] [--sizes 12 60] [--seconds 8] [--json build/engines.json]

Batch 50 with replacement, label noise, float32, draws included. Everything about one shape is timed in short bursts,
in turn, and the shortest burst counts, so that other work on the machine disturbs the ratios little; the threads' gain
needs two free cores. The tables go to
the standard output as Markdown, and every figure with its median to the JSON file.
"""

from __future__ import annotations

import argparse
import dataclasses
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

from benchmarks.limits import Limits
from benchmarks.rivals import NOISE, RATE, Work, on_this_machine
from flatdist.engines.base import Engine, Session, TrainingTask
from flatdist.engines.batched import BatchedEngine
from flatdist.engines.fused import WORTH_COMPILING, FusedEngine
from flatdist.machine.provenance import machine_provenance
from flatdist.machine.threads import set_threads
from flatdist.planning.settings import processors
from flatdist.types import Array, aligned_zeros

SHAPES = {(12, 12): 67, (20, 20): 210, (60, 60): 1200, (16, 16): 120, (30, 30): 400}  # (d_out, d_in): n
DEPTHS = (2, 3, 5)
BATCH = 50
DISTINCT = 8  # problems held at once
BURST_SECONDS = 5e-3


@dataclass
class Contender:
    """Something that takes steps, timed in bursts.

    Attributes:
        start: sets up, and returns what takes a number of steps.
        replicates: that take them together.
        burst: steps timed at a time; 0 to be found.
        clock: this thread's processor time, so that programs beside it do not count; wall time for several threads.
        times: seconds per replicate-step.
    """

    start: Callable[[], Callable[[int], None]]
    replicates: int
    burst: int = 0
    clock: Callable[[], float] = time.thread_time
    times: list[float] = field(default_factory=list)

    def run(self) -> None:
        """Time one burst of a fresh start; the first call finds out how many steps a burst has.

        Fresh, because where the system places a pool's threads stays as it is once they run.
        """
        steps = self.start()
        steps(2)
        if not self.burst:
            # Together, replicates get longer bursts: each must find its measurements in the cache again.
            length = min(BURST_SECONDS * self.replicates, 30 * BURST_SECONDS)
            self.burst = max(2, min(4000, int(20 * length / min(self._time(steps, 20) for _ in range(3)))))
        self.times.append(self._time(steps, self.burst) / self.burst / self.replicates)

    def _time(self, steps: Callable[[int], None], count: int) -> float:
        start = self.clock()
        steps(count)
        return self.clock() - start


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


def contenders_of(widths: tuple[int, ...], problems: Any) -> dict[str, Contender]:
    """Everything that takes steps of one shape; steps of the engines start afresh, the rivals go on."""
    one, eight, both = (make_task(widths, problems, r, threads) for r, threads in ((1, 1), (8, 1), (8, 2)))
    chosen = dataclasses.replace(one, planned_steps=WORTH_COMPILING)
    half = dataclasses.replace(chosen, measurements=[rows.astype(np.float16) for rows in one.measurements])
    fused = FusedEngine()
    found = {
        "fused": Contender(stepper(fused, one), 1),
        "fused, one shape": Contender(stepper(fused, chosen), 1),
        "float16 rows": Contender(stepper(fused, half), 1),
        "fused x8": Contender(stepper(fused, eight), 8),
    }
    if processors() > 1:
        found["fused x8, 2 threads"] = Contender(stepper(fused, both), 8, clock=time.perf_counter)
    session = session_steps(BatchedEngine().start(eight), 8)  # it copies the measurements: once
    found["batched x8"] = Contender(lambda: session, 8)
    work = Work(
        torch.from_numpy(one.measurements[0]).flatten(1)[None],
        torch.from_numpy(one.labels[0])[None],
        [torch.from_numpy(layer)[None] for layer in one.layers[0]],
        BATCH,
    )
    for name, make in on_this_machine().items():
        steps = make(work)
        found[name] = Contender(lambda steps=steps: steps, 1, 200 if name == "JAX" else 0)
    return found


def measure(shape: tuple[int, int], depth: int, problems: Any, seconds: float) -> dict[str, Any]:
    """All figures of one shape and depth, times in seconds per replicate-step."""
    widths = (shape[1], *[max(shape)] * (depth - 1), shape[0])
    contenders = contenders_of(widths, problems)
    limits = Limits(widths, problems[0][0].reshape(len(problems[1][0]), -1), BATCH)
    for contender in contenders.values():  # compiles
        contender.run()
        contender.times.clear()
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < 3 or time.perf_counter() < end:
        for contender in contenders.values():
            contender.run()
        limits.burst()
        rounds += 1
    return {
        "d_out": shape[0],
        "d_in": shape[1],
        "depth": depth,
        "n": len(problems[1][0]),
        "seconds": {name: min(contender.times) for name, contender in contenders.items()},
        "median_seconds": {name: float(np.median(contender.times)) for name, contender in contenders.items()},
        "rounds": rounds,
        "flops": limits.flops,
        "peak": limits.peak,
        "arithmetic": limits.arithmetic,
        "reading": limits.reading,
    }


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [heads, ["---"] * len(heads), *rows])


def reports(results: list[dict[str, Any]]) -> str:
    """Markdown: times in microseconds per replicate-step, the fused engine beside its limits, and the rivals."""
    names, limits, beside = list(results[0]["seconds"]), [], []
    ours = names[: names.index("batched x8")]
    for r in results:
        t = {name: 1e6 * value for name, value in r["seconds"].items()}
        work, rows = 1e6 * r["arithmetic"], 1e6 * r["reading"]
        shape, best = [f"{r['d_out']}x{r['d_in']}", str(r["depth"])], t["fused, one shape"]
        floor, total = max(work, rows), work + rows
        limits.append(
            [
                *shape,
                *(f"{t[name]:.3g}" for name in ours),
                f"{t['fused'] / best:.2f}x, {t['fused'] / t['float16 rows']:.2f}x",
                f"{t['fused x8'] / t['fused x8, 2 threads']:.2f}x" if "fused x8, 2 threads" in t else "-",
                f"{r['flops'] / best / 1e3:.0f} of {r['peak'] / 1e9:.0f}",
                f"{work:.3g}, {rows:.3g}",
                f"{100 * floor / t['fused']:.0f}, {100 * total / t['fused']:.0f}",
                f"{100 * floor / best:.0f}, {100 * total / best:.0f}",
            ]
        )
        others = names[names.index("batched x8") :]
        beside.append([*shape, f"{best:.3g}", *(f"{t[name]:.3g} ({t[name] / best:.1f}x)" for name in others)])
    first = table(
        ["shape", "depth", *ours, "gain of one shape, with float16", "2 threads / 1", "GFLOP/s", "arithmetic, rows",
         "fused: max, sum as % of it", "one shape: max, sum as % of it"],
        limits,
    )  # fmt: skip
    return first + "\n\n" + table(["shape", "depth", "fused, one shape", *names[names.index("batched x8") :]], beside)


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="depth 3 alone")
    parser.add_argument("--sizes", type=int, nargs="*", default=[d for d, _ in SHAPES], help="of the square shapes")
    parser.add_argument("--seconds", type=float, default=8.0, help="measuring time for each shape and depth")
    parser.add_argument("--json", type=Path, default=Path("build/engines.json"))
    options = parser.parse_args()
    set_threads(1)
    record: dict[str, Any] = {
        "machine": {**machine_provenance(), "processor": platform.processor()},
        "blas": threadpoolctl.threadpool_info(),
        "versions": {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()},
        "batch": BATCH,
        "results": [],
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    chosen = [(shape, n) for shape, n in SHAPES.items() if shape[0] in options.sizes]
    for (shape, n), depth in product(chosen, (3,) if options.quick else DEPTHS):
        record["results"].append(measure(shape, depth, make_problems(shape, n, DISTINCT), options.seconds))
        options.json.write_text(json.dumps(record, indent=1) + "\n")  # a run that is cut short keeps what it has
    print("Microseconds per replicate-step, one replicate on one thread; xR: R replicates together.\n")
    print(reports(record["results"]))
    print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()
