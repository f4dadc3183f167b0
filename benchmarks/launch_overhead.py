"""What launching costs: 600 cells of about one second on two slots, and beside it one Tune trial for each cell.

    python benchmarks/launch_overhead.py [--cells 600] [--plain 20]

The cells sleep, so that other work on the machine hardly matters. Prints the wall time, its excess over (work / slots),
and the bound of 8 % + 20 s; then the slot-seconds of overhead for each trial of a plain Tune run without shards.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flatdist.cells.cell import Cell
from flatdist.launch import LaunchSettings, launch
from flatdist.launch.ray.cluster import ClusterSession
from flatdist.machine.environment import import_ray, quiet_tune
from flatdist.planning import PlanSettings, WorkItem
from flatdist.planning.sharding import Sized, make_shards, shuffle

SLOTS = 2


def sharded(cells: list[Cell]) -> tuple[float, int]:
    """Run the cells as flatdist does, Ray's start included; returns wall seconds and the number of shards."""
    sized = [Sized(WorkItem(cell, (0,)), cell.steps / 1000) for cell in cells]
    shards = make_shards(shuffle(sized, SLOTS, 0), SLOTS)
    plan: Any = SimpleNamespace(cells=tuple(cells), shards=tuple(shards), done=0, sweeps=(), settings=PlanSettings())
    settings = LaunchSettings(slots=SLOTS, runner="simulated_runner:sleeping")
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        result = launch(plan, store, settings=settings, display="plain")
        seconds = time.perf_counter() - start
    assert result.exit_code == 0, result.summary()
    return seconds, len(shards)


def plain(cells: list[Cell]) -> float:
    """Run the cells as one Tune trial each, with Tune's defaults; returns wall seconds without Ray's start."""
    from ray import tune

    def trial(config: dict[str, Any]) -> None:
        import torch  # as a training function would

        assert torch.__version__
        time.sleep(config["seconds"])
        tune.report({"done": 1})

    with tempfile.TemporaryDirectory() as folder, quiet_tune():
        start = time.perf_counter()
        tune.Tuner(
            tune.with_resources(trial, {"cpu": 1}),
            param_space={"seconds": tune.grid_search([cell.steps / 1000 for cell in cells])},
            run_config=tune.RunConfig(storage_path=folder, verbose=0),
        ).fit()
        return time.perf_counter() - start


def main() -> None:
    """Measure both and print them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=600)
    parser.add_argument("--plain", type=int, default=20, help="cells of the plain Tune run; 0 leaves it out")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers find the simulated runner
    chance = random.Random(0)
    cells = [
        Cell(d_out=12, d_in=12, rank=1, n=10 + i, steps=chance.randint(500, 1500), evaluations=2)
        for i in range(options.cells)
    ]
    work = sum(cell.steps for cell in cells) / 1000
    seconds, shards = sharded(cells)
    ideal = work / SLOTS
    print(f"sharded: {len(cells)} cells, {work:.0f} s of work in {shards} shards on {SLOTS} slots: {seconds:.1f} s")
    print(f"  {seconds - ideal:.1f} s ({seconds / ideal - 1:.1%}) over {ideal:.0f} s; bound {1.08 * ideal + 20:.0f} s")
    print(f"  {(seconds * SLOTS - work) / len(cells):.2f} slot-seconds of overhead a cell, Ray's start included")
    if options.plain:
        some = cells[: options.plain]
        work = sum(cell.steps for cell in some) / 1000
        import_ray(local=True)
        with ClusterSession(LaunchSettings(slots=SLOTS)):
            seconds = plain(some)
        overhead = (seconds * SLOTS - work) / len(some)
        print(f"one Tune trial a cell: {len(some)} cells, {work:.0f} s of work: {seconds:.1f} s")
        print(f"  {overhead:.2f} slot-seconds of overhead a cell, Ray's start not included")


if __name__ == "__main__":
    main()
