"""Successive halving in rounds against Ray Tune's ASHA, on a reduced ``sweeps/tune_training.yaml``.

    python benchmarks/early_stopping.py [--budget 24] [--steps 20000] [--seeds 3] [--searcher random]
    python benchmarks/early_stopping.py --decide 10

Both search the same fields with the same searcher, budget, rungs (a tenth and three tenths of the steps, a third
continues) and slots. For each the script prints, from the store alone: the wall time; the time until the best cell's
last row; that cell's metric; the share of cells stopped; the replicate-steps that were trained; and the share of
slot-seconds, after Ray is up, in which no steps were taken. Then both are killed after half of their time and run
again: the total time over that of the run that was not killed, and whether the cells are the same.

With ``--decide K`` nothing is timed: the cells of K searches of 8 x 8 matrices are trained to their end, and both rules
decide from the curves which of them they would have stopped, ASHA by Tune's own class in the order in which two slots
would have got there. Prints the best cell that each search was left with, and the steps trained for it.
"""

from __future__ import annotations

import argparse
import heapq
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import flatdist
from flatdist.store import Store
from flatdist.sweepfile.declaration import EarlyStopping
from flatdist.sweeps import Sweep
from flatdist.sweeps.early_stopping import Halving

SLOTS = 2
Values = Mapping[tuple[str, int], float]  # (cell id, rung) -> the value compared there
STOPPING = {"rounds": "early_stopping: {first: FIRST, factor: 3}", "asha": "scheduler: {asha: {grace_period: FIRST}}"}
SOURCE = Path(__file__).parents[1] / "sweeps" / "tune_training.yaml"


def write(folder: Path, kind: str, options: argparse.Namespace, seed: int) -> Path:
    """The reduced sweep file."""
    text = SOURCE.read_text(encoding="utf-8")
    for name, value in (("replicates", options.replicates), ("steps", options.steps), ("budget", options.budget),
                        ("searcher", options.searcher), ("round", options.round)):  # fmt: skip
        text = re.sub(rf"^( *{name}): .*$", rf"\1: {value}", text, flags=re.MULTILINE)
    stopping = STOPPING[kind].replace("FIRST", str(options.steps // 10))
    text = re.sub(r"^  early_stopping: .*$", f"  {stopping}\n  seed: {seed}", text, flags=re.MULTILINE)
    path = folder / "tune_training.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def run(path: Path, kill_after: float | None = None) -> tuple[float, float]:
    """One ``flatdist sweep``; returns its wall seconds, and after how many Ray was up."""
    command = [sys.executable, "-m", "flatdist", "sweep", path.name, "--store", "store", "--display", "plain",
               "--no-probe", "--yes", "--max-concurrent", str(SLOTS), "--checkpoint-seconds", "5"]  # fmt: skip
    start, up = time.perf_counter(), 0.0
    said = path.parent / "said.txt"
    with said.open("w") as log:
        process = subprocess.Popen(command, cwd=path.parent, stdout=log, stderr=log, start_new_session=True)
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if not up and "Ray is up" in said.read_text():
                up = time.perf_counter() - start
            if kill_after is not None and time.perf_counter() - start > kill_after:
                os.killpg(process.pid, signal.SIGKILL)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0 and kill_after is None:
        raise SystemExit(said.read_text())
    return time.perf_counter() - start, up


def describe(path: Path, began: float, wall: float, up: float) -> dict[str, float]:
    """What the store says of a search that has ended."""
    store = Store(path.parent / "store")
    sweep: Sweep = flatdist.load_sweep(path).recorded(store)
    trials = flatdist.load_trials(store.uri, sweep="tune_training")
    metric = sweep.ranking[0]
    values = {
        cell: median(found.values()) for cell, found in metric.values(store, list(set(trials["cell_id"]))).items()
    }
    best = min(values, key=lambda cell: values[cell])
    ended = trials[trials["cell_id"] == best]["finished_at"].max().timestamp() - began
    stopped = sum(one.step for one in sweep.stopped.values()) * sweep.replicates
    steps = trials["steps_run"].sum() + stopped
    each = (trials["wall_seconds"] / trials["steps_run"]).median()
    return {
        "wall s": wall, "best cell after s": ended, "its metric": values[best],
        "stopped %": 100 * len(sweep.stopped) / len(sweep.cells), "million steps": steps / 1e6,
        "idle %": 100 * (1 - steps * each / (SLOTS * (wall - up))),
    }  # fmt: skip


def cells_of(path: Path) -> list[str]:
    """The cells that a search has asked for, and those that it has stopped."""
    sweep = flatdist.load_sweep(path).recorded(Store(path.parent / "store"))
    return [f"{cell.cell_id}{'-' if cell.cell_id in sweep.stopped else '+'}" for cell in sweep.cells]


def in_rounds(cells: Sequence[str], at: Values, rungs: Sequence[int], size: int) -> tuple[list[str], int]:
    """The cells that halving in rounds trains to the end, and the steps of all."""
    rule, steps, ended = EarlyStopping(first=rungs[0]), 0, []
    before: dict[int, list[float]] = {rung: [] for rung in rungs}
    for start in range(0, len(cells), size):
        alive, last = dict(enumerate(cells[start : start + size])), 0
        for rung in rungs[:-2]:  # the last two are ASHA's, and the end
            values = {index: at[cell, rung] for index, cell in alive.items()}
            steps, last = steps + len(alive) * (rung - last), rung
            gone = rule.stopped(values, before[rung], "min")
            before[rung] += values.values()
            alive = {index: cell for index, cell in alive.items() if index not in gone}
        steps += len(alive) * (rungs[-1] - last)
        ended += alive.values()
    return ended, steps


def as_they_arrive(cells: Sequence[str], at: Values, rungs: Sequence[int]) -> tuple[list[str], int]:
    """The same of ASHA, with cells that all take the same time per step."""
    from ray.tune.schedulers.async_hyperband import _Bracket

    bracket, queue, steps, ended = _Bracket(rungs[0], rungs[-1], 3, 0), list(cells), 0, []
    running = [(rungs[0], slot, queue.pop(0), 0) for slot in range(SLOTS)]  # when, for a fixed order, cell, its rung
    while running:
        now, order, cell, place = heapq.heappop(running)
        steps += rungs[place] - (rungs[place - 1] if place else 0)
        if place == len(rungs) - 1:
            ended.append(cell)
        elif (
            bracket.on_result(SimpleNamespace(trial_id=cell), rungs[place], -min(at[cell, rungs[place]], 1e9)) != "STOP"
        ):
            heapq.heappush(running, (now + rungs[place + 1] - rungs[place], order, cell, place + 1))
            continue
        if queue:
            heapq.heappush(running, (now + rungs[0], order, queue.pop(0), 0))
    return ended, steps


def decide(searches: int, options: argparse.Namespace) -> None:
    """Print what both rules would have been left with."""
    steps = 6000
    small = argparse.Namespace(**vars(options) | {"budget": searches * options.budget, "steps": steps, "round": 80})
    rungs = [steps // 10, 3 * steps // 10, 9 * steps // 10, steps]
    with tempfile.TemporaryDirectory() as folder:
        path, store = write(Path(folder), "rounds", small, 0), Store(Path(folder) / "store")
        text = re.sub(r"^  early_stopping: .*\n", "", path.read_text(), flags=re.MULTILINE)
        for name, value in (("d_out", 8), ("d_in", 8), ("rank", 1), ("evaluations", 97)):
            text = re.sub(rf"^( *{name}): .*$", rf"\1: {value}", text, flags=re.MULTILINE)
        path.write_text(text)
        flatdist.sweep(path, store, executor="inline", display="none", probe=False)
        sweep = flatdist.load_sweep(path).recorded(store)
        metric, ids = sweep.ranking[0], [cell.cell_id for cell in sweep.cells]
        final = {cell: median(found.values()) for cell, found in metric.values(store, ids).items()}
        values = Halving(EarlyStopping(first=rungs[0]), store, metric, "min")
        at = {(c.cell_id, r): values.value(c, range(options.replicates), r) for c in sweep.cells for r in rungs[:-1]}
    for start in range(0, len(ids), options.budget):
        cells = ids[start : start + options.budget]
        print(f"best of all {min(final[cell] for cell in cells):6g}", end="")
        for kind, (ended, trained) in (("rounds", in_rounds(cells, at, rungs, options.round)),
                                       ("asha", as_they_arrive(cells, at, rungs))):  # fmt: skip
            best = min((final[cell] for cell in ended), default=math.inf)
            print(f"   {kind} {best:6g} with {trained:,} steps, {len(ended)} to the end", end="")
        print()


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("budget", 24), ("round", 8), ("replicates", 4), ("steps", 20000), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--searcher", default="random")
    parser.add_argument("--decide", type=int, metavar="K", help="compare the decisions alone, in K searches")
    options = parser.parse_args(arguments)
    if options.decide:
        decide(options.decide, options)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the sweep that is running ends too
    rows: dict[str, list[dict[str, float]]] = {kind: [] for kind in STOPPING}
    for seed in range(options.seeds):
        for kind in STOPPING:  # in turn, so that other work on the machine meets both
            with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
                path, again = write(Path(folder), kind, options, seed), write(Path(other), kind, options, seed)
                began = time.time()
                wall, up = run(path)
                rows[kind].append(describe(path, began, wall, up))
                if seed == 0:
                    first, _ = run(again, kill_after=up + (wall - up) / 2)
                    second, _ = run(again)
                    same = cells_of(path) == cells_of(again)
                    rows[kind][0] |= {"killed / not": (first + second) / wall, "same cells": float(same)}
                print(kind, seed, rows[kind][-1], flush=True)
    print(f"median of {options.seeds}")
    for kind, found in rows.items():
        shown = {name: median(row[name] for row in found if name in row) for name in found[0]}
        print(f"{kind:>8}  " + "  ".join(f"{name} {value:.3g}" for name, value in shown.items()))


if __name__ == "__main__":
    main()
