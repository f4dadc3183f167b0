"""Successive halving in rounds against Ray Tune's ASHA, on a reduced ``sweeps/tune_training.yaml``.

    python benchmarks/early_stopping.py [--budget 24] [--steps 20000] [--seeds 3] [--searcher random]

Both search the same fields with the same searcher, budget, rungs (a tenth and three tenths of the steps, a third
continues) and slots. For each the script prints, from the store alone: the wall time; the time until the best cell's
last row; that cell's metric; the share of cells stopped; the replicate-steps that were trained; and the share of
slot-seconds, after Ray is up, in which no steps were taken. Then both are killed after half of their time and run
again: the total time over that of the run that was not killed, and whether the cells are the same.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import flatdist
from flatdist.store import Store
from flatdist.sweeps import Sweep

SLOTS = 2
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
    metric = sweep.kind.ranking[0]
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("budget", 24), ("round", 8), ("replicates", 4), ("steps", 20000), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--searcher", default="random")
    options = parser.parse_args(arguments)
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
