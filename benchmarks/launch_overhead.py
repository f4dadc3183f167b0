"""Cost of launching: 600 cells of about one second on two slots, compared with one Tune trial per cell.

    python benchmarks/launch_overhead.py [--cells 600] [--each 40] [--plain 20]

The cells sleep, so that other work on the machine hardly matters. Prints for ``--trials packs`` the wall time and its
excess over (work / slots), without Ray's start; then the slot-seconds of overhead for each trial of ``--trials cells``,
with worker processes used again and without, and of a plain Tune run.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from flatdist.cells.cell import Cell
from flatdist.launch import Settings, launch
from flatdist.launch.ray.cluster import ClusterSession
from flatdist.machine.environment import import_ray, quiet_tune
from flatdist.planning import WorkItem
from flatdist.planning.sharding import Sized, make_shards, shuffle

SLOTS = 2


def launched(cells: list[Cell], **options: Any) -> tuple[float, int]:
    """Run the cells as flatdist does, on a Ray that is up; returns wall seconds and the number of shards."""
    sized = [Sized(WorkItem(cell, (0,)), cell.steps / 1000) for cell in cells]
    shards = make_shards(shuffle(sized, SLOTS, 0), SLOTS)
    plan: Any = SimpleNamespace(cells=tuple(cells), shards=tuple(shards), done=0, sweeps=())
    settings = Settings(slots=SLOTS, runner="simulated_runner:sleeping", **options)
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
    parser.add_argument("--each", type=int, default=40, help="cells of the runs with one trial per cell")
    parser.add_argument("--plain", type=int, default=20, help="cells of the plain Tune run; 0 skips it")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path[1:]])  # for the workers
    chance = random.Random(0)
    cells = [
        Cell(d_out=12, d_in=12, rank=1, n=10 + i, steps=chance.randint(500, 1500), evaluations=2)
        for i in range(max(options.cells, options.each, options.plain))
    ]

    def show(what: str, count: int, seconds: float) -> None:
        work = sum(cell.steps for cell in cells[:count]) / 1000
        each, more = (seconds * SLOTS - work) / count, seconds * SLOTS / work - 1
        print(f"{what}: {count} cells, {work:.0f} s of work on {SLOTS} slots in {seconds:.1f} s", flush=True)
        print(f"  {more:.1%} over work / slots, {each:.2f} slot-seconds of overhead a cell", flush=True)

    import_ray(local=True)
    start = time.perf_counter()
    with ClusterSession(Settings(slots=SLOTS)):
        print(f"Ray's start: {time.perf_counter() - start:.1f} s, in none of the figures below", flush=True)
        if options.cells:
            seconds, shards = launched(cells[: options.cells])
            show(f"--trials packs, {shards} shards", options.cells, seconds)
        if options.each:
            for reuse in (True, False):
                seconds, _ = launched(cells[: options.each], trials="cells", reuse_actors=reuse)
                show(f"--trials cells, processes {'used again' if reuse else 'of their own'}", options.each, seconds)
        if options.plain:
            show("a plain Tune run, one trial a cell", options.plain, plain(cells[: options.plain]))


if __name__ == "__main__":
    main()
