"""One run on a GPU: correctness, stability of bits and speed of every engine, compared with rivals.

    python -m benchmarks.gpu [--budget 450] [--device cuda] [--quick] [--only correct,sweep] [--out DIR]

Every part has its own time limit: if one fails it is reported and the next begins, and none starts that no longer fits
the budget. Prints Markdown; writes gpu.json to DIR (or $OUT). Needs neither Ray nor a store; ``--device cpu --quick``
runs it through without a card, the Triton kernel on its interpreter.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib
import itertools
import json
import multiprocessing
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

if "cpu" in sys.argv:
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before triton is imported

import numpy as np
import torch

from benchmarks.rivals import autograd_loop, compiled, jax_scan, random_work
from benchmarks.tasks import join, task_of, widened
from flatdist.cells.cell import Cell
from flatdist.engines import cuda, load_engine, triton, why_absent
from flatdist.engines._launched import Launch, LaunchedSession, Shape
from flatdist.engines.base import Session
from flatdist.engines.reference import ReferenceEngine
from flatdist.planning.packs import EVALUATION_SHARE, device_bytes
from flatdist.types import Array

Result = dict[str, Any]
BATCH_SIZE = 50
SIZES = ((12, 120), (20, 200), (32, 320), (60, 600), (100, 500))  # (d, n)

# Configurations that are tried, by width; the engines' tables hold those that won.
CUDA_TRIED = {
    12: [(64, 8, 1, 2, 2, 8), (64, 8, 1, 3, 1, 8), (32, 8, 2, 3, 2, 16), (32, 4, 1, 3, 2, 12), (96, 8, 1, 2, 1, 6)],
    20: [(128, 32, 2, 2, 2, 4), (128, 32, 3, 2, 2, 4), (64, 16, 2, 4, 2, 8), (256, 32, 1, 2, 1, 3)],
    32: [(128, 32, 2, 2, 4, 3), (128, 64, 3, 2, 4, 4), (256, 64, 2, 2, 2, 2), (128, 128, 5, 2, 4, 4)],
    60: [(256, 256, 3, 4, 4, 2), (256, 256, 2, 4, 4, 2), (256, 256, 4, 4, 4, 2), (512, 512, 5, 4, 2, 1)],
}  # fmt: skip
TRITON_TRIED: dict[int, list[tuple[Any, ...]]] = {
    12: [(1, 4, "ieee", 8, 128)],
    20: [(4, 8, "ieee", 8, 128)],
    32: [(4, 4, "tf32x3")],
    60: [(8, 2, "tf32x3")],
}


class Bench:
    """The run: its options, its clock and what was found."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.device, self.quick, self.budget = options.device, options.quick, options.budget
        self.only = set(filter(None, options.only.split(",")))
        self.out = Path(options.out) if options.out else None
        self.began = time.perf_counter()
        self.results: Result = {}
        self.failed: list[str] = []

    @property
    def on_card(self) -> bool:
        """Whether the device is a GPU."""
        return str(self.device).startswith("cuda")

    @property
    def left(self) -> float:
        """Seconds left of the budget."""
        return float(self.budget - (time.perf_counter() - self.began))

    def part(self, name: str, need: float, work: Callable[[Bench], Result]) -> None:
        """Run one part and keep what it found."""
        if self.only and name not in self.only:
            return
        print(f"\n## {name}", flush=True)
        if self.left < need:
            self.results[name] = "skipped"
            print(f"skipped: {self.left:.0f} s are left", flush=True)
            return
        start = time.perf_counter()
        try:
            self.results[name] = work(self)
        except Exception as error:
            self.failed.append(name)
            self.results[name] = f"failed: {type(error).__name__}: {error}"
            traceback.print_exc(limit=6, file=sys.stdout)
        print(f"\n({name}: {time.perf_counter() - start:.1f} s, {self.left:.0f} s left)", flush=True)
        self.tidy()
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "gpu.json").write_text(json.dumps(self.results, indent=1, default=str))

    def sync(self) -> None:
        """Wait for the device."""
        if self.on_card:
            torch.cuda.synchronize()

    def tidy(self) -> None:
        """Give memory back."""
        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def clock(self, work: Callable[[int], object], least: float = 0.15) -> float:
        """Seconds of one call, averaged over enough of them; the first, which compiles, is left out."""
        work(0)
        self.sync()
        count, call = 1, 1
        while True:
            start = time.perf_counter()
            for _ in range(count):
                work(call)
                call += 1
            self.sync()
            spent = time.perf_counter() - start
            if spent > least or count >= 64:
                return spent / count
            count = min(64, max(count + 1, int(1.3 * count * least / max(spent, 1e-4))))

    def kernels(self) -> list[str]:
        """Engines to be checked on this device."""
        if not self.on_card:
            return ["triton", "batched"]
        return [name for name in ("cuda", "triton") if why_absent(name) is None] + ["batched"]


def take_steps(session: Session, count: int, cuts: Sequence[int], steps: int, rate: float = 0.03) -> list[Array]:
    """Layers after annealed steps, with pauses at the cuts."""
    anneal, start = np.linspace(1, 0, steps), 0
    for stop in (*cuts, steps):
        session.advance(start, stop, np.full(count, rate), np.full(count, 0.5), anneal[start:stop])
        start = stop
    return session.layers()


def distance(ours: Sequence[Array], expected: Sequence[Array]) -> float:
    """Largest relative distance of a layer."""
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in zip(ours, expected, strict=True))


def same(ours: Sequence[Array], others: Sequence[Array]) -> bool:
    """Whether layers are equal to the bit."""
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, others, strict=True))


def machine(bench: Bench) -> Result:
    """Versions, and what a launch and a copy cost."""
    found: Result = {"torch": torch.__version__, "numpy": np.__version__, "python": platform.python_version()}
    if bench.on_card:
        card = torch.cuda.get_device_properties(bench.device)
        found |= {"card": card.name, "sms": card.multi_processor_count, "gib": card.total_memory / 2**30}
        found |= {"shared_bytes": cuda.shared_limit(bench.device), "l2_mib": card.L2_cache_size / 2**20}
        found |= {f"no {name}": reason for name in ("cuda", "triton") if (reason := why_absent(name))}
        source = torch.randn(2**28, device=bench.device)
        target = torch.empty_like(source)
        found["copy_tb_s"] = 2 * 4 * source.numel() / bench.clock(lambda _: target.copy_(source)) / 1e12
    print(json.dumps(found))
    return found


def kinds(bench: Bench) -> Iterator[tuple[str, Cell]]:
    """Cells that between them meet every method, storage, depth and size."""
    small: dict[str, Any] = {"d_out": 7, "d_in": 6, "rank": 1, "n": 30, "batch_size": 16}
    if bench.quick:
        small |= {"d_out": 4, "n": 12, "batch_size": 7}
    yield "label noise", Cell(**small)
    yield "full batch, noise", Cell(**(small | {"batch_size": None}))
    yield "1-SAM", Cell(**small, method="sam")
    yield "rank_one", Cell(**small, ensemble="rank_one")
    if bench.quick:
        return
    yield "gradient descent", Cell(**small, method="gradient_descent")
    yield "mini-batch", Cell(**small, method="minibatch_sgd")
    for ensemble in ("rademacher", "entries"):
        yield ensemble, Cell(**small, ensemble=ensemble)
    yield "depth 2, 7 x 12", Cell(d_out=7, d_in=12, rank=1, n=30, depth=2)
    yield "depth 5", Cell(d_out=5, d_in=4, rank=1, n=15, depth=5, width=[4, 5, 6, 7])
    for d in (12, 20, 32, 60):
        yield f"d={d}", Cell(d_out=d, d_in=d, rank=1, n=2 * d)
    yield "d=30 x 20, rank_one", Cell(d_out=30, d_in=20, rank=1, n=100, ensemble="rank_one")


def correct(bench: Bench) -> Result:
    """Every engine against plain autograd in float64, draw for draw: relative distance of the layers."""
    found: Result = {}
    cells = list(kinds(bench))
    warm_cuda(bench, [Shape.of(task_of(cell, [0])) for _, cell in cells])
    names = bench.kernels()
    print("| kind | " + " | ".join(names) + " |\n|---|" + "---|" * len(names))
    steps = 3 if bench.quick else 70
    for kind, cell in cells:
        task = task_of(cell, [0, 1, 5], bench.device)
        rate = 0.001 if cell.method == "sam" else 0.03
        expected = take_steps(ReferenceEngine().start(widened(task)), 3, (steps // 2,), steps, rate)
        row: Result = {}
        for name in names:
            try:
                row[name] = distance(
                    take_steps(load_engine(name, bench.device).start(task), 3, (steps // 2,), steps, rate), expected
                )
            except Exception as error:
                row[name] = f"{type(error).__name__}: {error}"[:160]
        found[kind] = row
        shown = [f"{v:.1e}" if isinstance(v, float) else v for v in row.values()]
        print(f"| {kind} | " + " | ".join(shown) + " |", flush=True)
    wrong = [(k, n, v) for k, row in found.items() for n, v in row.items() if isinstance(v, str) or not v < 3e-6]
    print(f"\n{len(wrong)} wrong: {wrong}")
    return found


def bits(bench: Bench) -> Result:
    """A replicate alone, in company of other n, cut elsewhere, resumed and again: equal to the bit?"""
    found: Result = {}
    steps = 3 if bench.quick else 60
    for d in (5,) if bench.quick else (12, 20, 60):
        for name in bench.kernels():
            engine = load_engine(name, bench.device)
            mine = task_of(Cell(d_out=d, d_in=d, rank=1, n=3 * d), [3], bench.device)
            alone = [layer[0] for layer in take_steps(engine.start(mine), 1, (steps // 2,), steps)]
            row: Result = {}
            for company in (3,) if bench.quick else (2, 7, 33, 512, 2048):
                if company * 3 * d**3 * 4 > 4e9:
                    continue
                other = task_of(Cell(d_out=d, d_in=d, rank=1, n=2 * d), [0], bench.device)
                together = join([*([other] * (company - 1)), mine])
                layers = take_steps(engine.start(together), company, (steps // 2,), steps)
                row[str(company)] = same([layer[-1] for layer in layers], alone)
            cuts = ((1, 2),) if bench.quick else ((1,), (steps - 1,), (1, steps // 2))
            row["cut"] = all(same([w[0] for w in take_steps(engine.start(mine), 1, c, steps)], alone) for c in cuts)
            session = engine.start(mine)
            half, anneal = steps // 2, np.linspace(1, 0, steps)
            session.advance(0, half, np.full(1, 0.03), np.full(1, 0.5), anneal[:half])
            resumed = engine.start(dataclasses.replace(mine, layers=[[layer[0] for layer in session.layers()]]))
            resumed.advance(half, steps, np.full(1, 0.03), np.full(1, 0.5), anneal[half:])
            row["resumed"] = same([w[0] for w in resumed.layers()], alone)
            found[f"{name}, d={d}"] = row
            print(f"- {name}, d={d}: {row}", flush=True)
    return found


def sessions(bench: Bench) -> Result:
    """What stays allocated after many sessions; memory that runs out; NaN beside a sound neighbour."""
    cell = Cell(d_out=12, d_in=12, rank=1, n=60) if not bench.quick else Cell(d_out=4, d_in=4, rank=1, n=9)
    found: Result = {}
    for name in bench.kernels():
        engine, row = load_engine(name, bench.device), {}
        for index in range(40 if bench.on_card else 2):
            task = task_of(cell, range(8 if bench.on_card else 1), bench.device)
            session = engine.start(task)
            count, few = task.replicates, 64 if bench.on_card else 2
            session.advance(0, few, np.full(count, 0.03), np.full(count, 0.5), np.ones(few))
            del session
            gc.collect()
            if bench.on_card and index in (0, 9, 39):
                row[f"MiB after {index + 1}"] = round(torch.cuda.memory_allocated() / 2**20, 2)
        task = task_of(cell, [0, 1], bench.device)
        steps = 200 if bench.on_card else 12
        with np.errstate(all="ignore"):
            both = engine.start(task)
            largest = both.advance(0, steps, np.array([50.0, 0.03]), np.full(2, 0.5), np.ones(steps))
            sound = engine.start(task_of(cell, [1], bench.device))
            sound.advance(0, steps, np.full(1, 0.03), np.full(1, 0.5), np.ones(steps))
        row["NaN stays"] = not np.isfinite(largest[0]) and bool(np.isfinite(largest[1]))
        row["neighbour same"] = same([w[1] for w in both.layers()], [w[0] for w in sound.layers()])
        if bench.on_card:
            torch.cuda.set_per_process_memory_fraction(0.01)
            try:
                big = task_of(Cell(d_out=60, d_in=60, rank=1, n=600), [0], bench.device)
                engine.start(join([big] * 256))
                row["out of memory"] = "no error"
            except torch.OutOfMemoryError:
                row["out of memory"] = "OutOfMemoryError"
            finally:
                torch.cuda.set_per_process_memory_fraction(1.0)
                bench.tidy()
            again = engine.start(task_of(cell, [1], bench.device))
            again.advance(0, steps, np.full(1, 0.03), np.full(1, 0.5), np.ones(steps))
            row["same after it"] = same(again.layers(), sound.layers())
        found[name] = row
        print(f"- {name}: {row}", flush=True)
    return found


class Crowd:
    """Arguments of a launch for many replicates, made on the device from a few problems' numbers."""

    def __init__(self, bench: Bench, d: int, n: int, count: int, depth: int = 3, ensemble: str = "gaussian") -> None:
        cell = Cell(d_out=d, d_in=d, rank=1, n=n, depth=depth, ensemble=ensemble, batch_size=BATCH_SIZE)
        task = task_of(cell, range(4), bench.device)
        few = LaunchedSession(task, lambda launch: None)
        times = -(-count // 4)
        generator = np.random.default_rng(0)
        keys = generator.integers(-(2**31), 2**31, (count, 4)).astype(np.int32)

        def repeat(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.repeat(times, *[1] * (tensor.dim() - 1))

        rows, self.count, self.shape = repeat(few.first), count, few.shape
        self.start = repeat(few.weights)[:count]
        self.base = Launch(
            self.start.clone(),
            rows,
            rows if few.second is few.first else repeat(few.second),
            repeat(few.labels),
            torch.arange(count, device=bench.device) * n,
            torch.full((count,), n, dtype=torch.int32, device=bench.device),
            torch.as_tensor(keys).to(bench.device),
            torch.full((count,), 0.01, device=bench.device),
            torch.zeros(count, 1, device=bench.device),
            torch.zeros(count, dtype=torch.int32, device=bench.device),
            torch.zeros(count, dtype=torch.int32, device=bench.device),
            torch.zeros(count, device=bench.device),
            few.constants,
            few.room,
        )

    def launch(self, first: int, steps: int) -> Launch:
        """Arguments for steps from ``first`` on."""
        device, count = self.base.weights.device, self.count
        return dataclasses.replace(
            self.base,
            levels=torch.full((count, steps), 0.5, device=device),
            starts=torch.full((count,), first, dtype=torch.int32, device=device),
            steps=torch.full((count,), steps, dtype=torch.int32, device=device),
        )


def warm_cuda(bench: Bench, shapes: Sequence[Shape], chosen: cuda.Configuration | None = None) -> None:
    """Compile the cuda engine's kernels side by side."""
    if not bench.on_card or why_absent("cuda"):
        return

    def compiled(shape: Shape) -> None:
        card = torch.cuda.get_device_properties(bench.device)
        cuda.machine_code(cuda.source(shape, chosen or cuda.configuration_of(shape)), f"sm_{card.major}{card.minor}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(compiled, dict.fromkeys(shapes)))


def sweep(bench: Bench) -> Result:
    """Nanoseconds per replicate-step of every configuration that is tried, by size and number of replicates."""
    found: Result = {}
    if not bench.on_card:
        print("needs a card")
        return found
    print("| d | n | kernel | configuration | " + " | ".join(f"R={r}" for r in COUNTS) + " | against the table's |")
    print("|---|---|---|---|" + "---|" * (len(COUNTS) + 1))
    expected: dict[int, torch.Tensor] = {}
    for name, (d, n) in itertools.product(("cuda", "triton"), SIZES[:4]):
        if why_absent(name):
            continue
        shape = Shape((d,) * 4, BATCH_SIZE, True, False, "rows")
        tried: list[Any] = [cuda.Configuration(*values) for values in CUDA_TRIED[d]]
        if name == "cuda":
            with ThreadPoolExecutor(10) as pool:
                list(pool.map(lambda chosen, shape=shape: warm_cuda(bench, [shape], chosen), tried))
        else:
            tried = [triton.Configuration(*values) for values in TRITON_TRIED[d]]
        crowds = {count: Crowd(bench, d, n, count) for count in COUNTS if count * n * d * d * 4 < 2.5e10}
        for chosen in tried:
            if bench.left < 5:
                continue
            label = " ".join(str(value) for value in vars(chosen).values())
            row: Result = {}
            try:
                run = kernel_of(name, shape, chosen)
                small = crowds[COUNTS[0]]
                small.base.weights.copy_(small.start)
                run(small.launch(0, 40))
                ended = small.base.weights.clone()
                reference = expected.setdefault(d, ended)
                row["against"] = float((ended - reference).norm() / reference.norm())
                for count, crowd in crowds.items():
                    steps = 64 if count * d**2 > 2e6 else 256
                    crowd.base.weights.copy_(crowd.start)
                    launch = crowd.launch(0, steps)
                    row[str(count)] = 1e9 * bench.clock(lambda _, a=launch, f=run: f(a), 0.06) / steps / count
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:120]
            found[f"{d} {name} {label}"] = row
            cells = [f"{row[str(count)]:.1f}" if str(count) in row else "" for count in COUNTS]
            last = row.get("error", row.get("against"))
            print(f"| {d} | {n} | {name} | {label} | {' | '.join(cells)} | {last} |", flush=True)
        crowds.clear()
        bench.tidy()
    return found


COUNTS = (8, 132, 528, 1056, 2112, 4224)


def kernel_of(name: str, shape: Shape, chosen: Any) -> Callable[[Launch], None]:
    """A function that launches a kernel in one configuration."""
    if name == "cuda":
        return lambda launch: cuda.run(launch, shape, chosen)
    scratch = triton.Scratch()
    return lambda launch: triton.run(launch, shape, chosen, scratch)


def speed(bench: Bench) -> Result:
    """Nanoseconds per replicate-step of every engine as it is used, by size, depth, storage and replicates."""
    found: Result = {}
    counts = (8, 64, 512, 2048, 8192) if bench.on_card else (2,)
    names = bench.kernels()
    print(
        "| d | n | engine | "
        + " | ".join(f"R={count}" for count in counts)
        + " |\n|---|---|---|"
        + "---|" * len(counts)
    )
    for d, n in SIZES if bench.on_card else ((5, 20),):
        for name in names:
            row: Result = {}
            for count in counts:
                if bench.left < 60 or (name != "batched" and d > 64) or count * (n + BATCH_SIZE) * d * d * 4 > 3e10:
                    continue
                steps = 128 if bench.on_card else 2
                try:
                    few = task_of(
                        Cell(d_out=d, d_in=d, rank=1, n=n, batch_size=min(n, BATCH_SIZE)),
                        range(min(4, count)),
                        bench.device,
                    )
                    session = load_engine(name, bench.device).start(join([few] * (count // few.replicates)))

                    def go(call: int, session: Session = session, count: int = count, steps: int = steps) -> None:
                        rate, noise = np.full(count, 0.01), np.full(count, 0.5)
                        session.advance(call * steps, call * steps + steps, rate, noise, np.ones(steps))

                    row[str(count)] = 1e9 * bench.clock(go, 0.1) / steps / count
                except torch.OutOfMemoryError:
                    row[str(count)] = float("nan")
                session = go = None
                bench.tidy()
            found[f"{d} {name}"] = row
            cells = [f"{row[str(count)]:.0f}" if str(count) in row else "" for count in counts]
            print(f"| {d} | {n} | {name} | " + " | ".join(cells) + " |", flush=True)
    return found


STAGES = (  # where a pack's time goes: module, class or None, function
    ("sampling", "flatdist.trials.on_device", None, "sample_pack"),
    ("evaluating", "flatdist.trials.on_device", "PackEvaluator", "__init__"),
    ("evaluating", "flatdist.trials.on_device", "PackEvaluator", "__call__"),
    ("evaluating", "flatdist.trials.on_device", "PackEvaluator", "sharpness"),
    ("evaluating", "flatdist.trials.on_device", "PackEvaluator", "singular_values"),
    ("step sizes", "flatdist.trials.train", "_Run", "_update_learning_rates"),
    ("preparing", "flatdist.trials.train", None, "prepare"),
    ("rows", "flatdist.trials.train", None, "trial_row"),
    ("rows", "flatdist.trials.train", None, "history_rows"),
)


def pack_of(d: int, cells: int, replicates: int, steps: int) -> list[tuple[Cell, range]]:
    """A pack as a sweep has it: n from 5 d to 11 d, ranks 1 to 3, automatic step sizes, 64 evaluations."""
    made = [Cell(d_out=d, d_in=d, rank=1 + i % 3, n=round(d * (5 + 6 * i / cells)), steps=steps) for i in range(cells)]
    return [(cell, range(replicates)) for cell in made]


def run_whole(device: str, name: str, *size: int) -> list[Any]:
    """The rows of a pack, with one thread beside the device."""
    from flatdist.trials.run import run_pack
    from flatdist.trials.settings import RunSettings

    return list(run_pack(pack_of(*size), RunSettings(engine=name, device=device, threads=1), provenance={}))


def whole(bench: Bench) -> Result:
    """A pack from cells to rows, as a sweep runs it: what each stage takes of its time."""
    found: Result = {}
    sizes = ((12, 256, 8, 10000), (20, 256, 8, 10000), (32, 128, 8, 10000), (60, 128, 8, 10000))
    for size in sizes if bench.on_card else ((4, 2, 1, 20),):
        d, cells, replicates, steps = size
        for name in bench.kernels()[:: 2 if d == 12 else 3] if bench.on_card else ("batched",):
            run_whole(bench.device, name, d, 2, 1, 20)  # compiles
            engine = load_engine(name, bench.device)
            kind: Any = type(engine.start(task_of(pack_of(*size)[0][0], [0], bench.device)))
            spent: dict[str, float] = {}
            with timed(bench, spent, ("stepping", kind, "advance"), *places()):
                start = time.perf_counter()
                rows = run_whole(bench.device, name, *size)
                seconds, count = time.perf_counter() - start, cells * replicates
            row: Result = {"seconds": seconds, "ns a replicate-step": 1e9 * seconds / count / steps}
            row |= {stage: taken / seconds for stage, taken in spent.items()}
            row["elsewhere"] = 1 - sum(spent.values()) / seconds
            row["statuses"] = sorted({str(one.trial["status"]) for one in rows})
            found[f"{d} {name}"] = row
            shown = {key: f"{value:.3g}" if isinstance(value, float) else value for key, value in row.items()}
            print(f"- {name}, d={d}, {cells} cells x {replicates}, {steps} steps: {shown}", flush=True)
            if bench.on_card:
                memory = torch.cuda.get_device_properties(bench.device).total_memory
                planned = replicates * sum(device_bytes(cell, name) for cell, _ in pack_of(*size))
                planned += int(EVALUATION_SHARE * memory)
                row["GiB"], row["GiB planned"] = torch.cuda.max_memory_allocated() / 2**30, planned / 2**30
                print(f"  at most {row['GiB']:.1f} GiB, planned {row['GiB planned']:.1f}", flush=True)
            bench.tidy()
    return found


def places() -> list[tuple[str, Any, str]]:
    """The functions of :data:`STAGES`."""
    found = []
    for stage, module, owner, name in STAGES:
        loaded: Any = importlib.import_module(module)
        found.append((stage, getattr(loaded, owner) if owner else loaded, name))
    return found


@contextlib.contextmanager
def timed(bench: Bench, spent: dict[str, float], *functions: tuple[str, Any, str]) -> Iterator[None]:
    """Meanwhile, add up the seconds of functions, the device's work included; of nested ones, the outermost counts."""
    inside, before = False, [(owner, name, getattr(owner, name)) for _, owner, name in functions]

    def clocked(stage: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            nonlocal inside
            if inside:
                return work(*arguments)
            bench.sync()
            start, inside = time.perf_counter(), True
            try:
                return work(*arguments)
            finally:
                bench.sync()
                inside = False
                spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - start

        return run

    for stage, owner, name in functions:
        setattr(owner, name, clocked(stage, getattr(owner, name)))
    try:
        yield
    finally:
        for owner, name, work in before:
            setattr(owner, name, work)


def shared(bench: Bench) -> Result:
    """Packs of d = 12 by 1, 2, 4 and 8 processes that share the card: nanoseconds per replicate-step of all."""
    found: Result = {}
    size, name = (12, 128, 8, 10000), bench.kernels()[0]
    for processes in (1, 2, 4, 8) if bench.on_card else ():
        with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
            list(pool.map(run_small, [(bench.device, name)] * (4 * processes)))  # starts them, compiles
            packs, start = 2 * processes, time.perf_counter()
            for done in [pool.submit(count_rows, bench.device, name, *size) for _ in range(packs)]:
                done.result()
            seconds = time.perf_counter() - start
        found[str(processes)] = 1e9 * seconds / packs / size[1] / size[2] / size[3]
        print(f"- {processes} processes, {packs} packs: {found[str(processes)]:.1f} ns", flush=True)
    return found


def run_small(given: tuple[str, str]) -> None:
    """Start and compile in this process."""
    run_whole(*given, 12, 2, 1, 20)
    time.sleep(0.5)


def count_rows(device: str, name: str, *size: int) -> int:
    """Run a pack in this process."""
    return len(run_whole(device, name, *size))


def profile(bench: Bench) -> Result:
    """Kernels a step of the batched engine, and where their time goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as recorded

    cell = Cell(d_out=12, d_in=12, rank=1, n=60) if bench.on_card else Cell(d_out=4, d_in=4, rank=1, n=20)
    few = task_of(cell, range(4), bench.device)
    session = load_engine("batched", bench.device).start(join([few] * (16 if bench.on_card else 1)))
    count, steps = session.task.replicates, 64
    arguments = np.full(count, 0.01), np.full(count, 0.5), np.ones(steps)
    session.advance(0, steps, *arguments)
    kinds = [ProfilerActivity.CUDA] if bench.on_card else [ProfilerActivity.CPU]
    with recorded(activities=kinds) as record:
        session.advance(steps, 2 * steps, *arguments)
        bench.sync()
    events = [
        (event.key[:80], event.count, event.self_device_time_total if bench.on_card else event.self_cpu_time_total)
        for event in record.key_averages()
    ]
    events = sorted((event for event in events if event[2] > 0), key=lambda event: -event[2])
    total = {
        "kernels_per_step": sum(c for _, c, _ in events) / steps,
        "us_per_step": sum(t for *_, t in events) / steps,
    }
    print(f"{total['kernels_per_step']:.1f} a step, {total['us_per_step']:.1f} us a step; the longest:")
    for key, calls, spent in events[:8]:
        print(f"- {spent / steps:.2f} us, {calls / steps:.2f} a step: {key}")
    return total | {"longest": events[:8]}


def rivals(bench: Bench) -> Result:
    """Nanoseconds per replicate-step of what one would write instead: many replicates, and the plain loop with one."""
    found: Result = {}
    print("| d | R | autograd loop, one replicate | torch.compile | JAX |\n|---|---|---|---|---|")
    for d, count in ((4, 2),) if bench.quick else ((12, 512), (32, 512)):
        work, row = random_work(bench.device, d, count, 10 * d, BATCH_SIZE), found.setdefault(f"{d}, {count}", {})
        makers: Any = (("autograd", autograd_loop, 1), ("compiled", compiled, count), ("jax", jax_scan, count))
        for name, make, together in makers:
            if bench.quick and name != "autograd":
                continue
            try:
                steps, few = make(work), 200 if name == "jax" else 20
                row[name] = 1e9 * bench.clock(lambda _, f=steps, n=few: f(n), 0.15) / few / together
            except Exception as error:
                row[name] = f"{type(error).__name__}: {error}"[:80]
        shown = [f"{v:.0f}" if isinstance(v, float) else v for v in row.values()]
        print(f"| {d} | {count} | " + " | ".join(shown) + " |", flush=True)
    return found


def main() -> None:
    """Run the parts that fit the budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=450.0, help="seconds for everything")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, a minute on a CPU")
    parser.add_argument("--only", default="", metavar="PARTS", help="parts, comma-separated")
    parser.add_argument("--out", default=os.environ.get("OUT"), metavar="DIR", help="where gpu.json goes")
    bench = Bench(parser.parse_args())
    for name, need, work in (
        ("machine", 5, machine),
        ("correct", 20, correct),
        ("bits", 20, bits),
        ("sessions", 15, sessions),
        ("sweep", 30, sweep),
        ("speed", 30, speed),
        ("whole", 20, whole),
        ("shared", 40, shared),
        ("profile", 10, profile),
        ("rivals", 30, rivals),
    ):
        bench.part(name, need if bench.on_card else 0, work)
    print(f"\n{len(bench.failed)} parts failed: {bench.failed}; {time.perf_counter() - bench.began:.0f} s in all")
    sys.exit(1 if bench.failed else 0)


if __name__ == "__main__":
    main()
