"""Cost of launching: 600 cells of about one second on two slots, compared with one Tune trial per cell.

    python benchmarks/launch_overhead.py [--cells 600] [--each 40] [--plain 20]

The cells sleep, so that other work on the machine hardly matters. Prints, without Ray's start, for ``--trials packs``
and ``--trials cells``, with worker processes used again and without: how long it took until both slots worked, and the
rest of the wall time over (work / slots). Then the same of a plain Tune run, whose start is not told apart.
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
from flatdist.launch.progress.display import Display
from flatdist.launch.progress.state import Progress
from flatdist.launch.ray.cluster import ClusterSession
from flatdist.machine.environment import import_ray, quiet_tune
from flatdist.planning import WorkItem
from flatdist.planning.sharding import Sized, make_shards, shuffle

SLOTS = 2


class Watch(Display):
    """Notes when all slots are at work for the first time."""

    begun: float | None = None

    def draw(self, progress: Progress) -> None:
        """Look at the slots."""
        if self.begun is None and progress.running >= SLOTS:
            self.begun = progress.elapsed


def launched(cells: list[Cell], **options: Any) -> tuple[float, float, int]:
    """Run the cells as flatdist does, on a Ray that is up.

    Returns:
        Wall seconds, those until all slots were at work, and the number of shards.
    """
    sized = [Sized(WorkItem(cell, (0,)), cell.steps / 1000) for cell in cells]
    shards = make_shards(shuffle(sized, SLOTS, 0), SLOTS)
    plan: Any = SimpleNamespace(cells=tuple(cells), shards=tuple(shards), done=0, sweeps=())
    settings = Settings(slots=SLOTS, runner="simulated_runner:sleeping", **options)
    with tempfile.TemporaryDirectory() as store:
        start, watch = time.perf_counter(), Watch()
        result = launch(plan, store, settings=settings, display=watch)
        seconds = time.perf_counter() - start
    assert result.exit_code == 0, result.summary()
    return seconds, watch.begun or 0.0, len(shards)


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

    def show(what: str, count: int, seconds: float, begun: float = 0.0) -> None:
        work = sum(cell.steps for cell in cells[:count]) / 1000
        spent = (seconds - begun) * SLOTS
        print(f"{what}: {count} cells, {work:.0f} s of work on {SLOTS} slots in {seconds:.1f} s", flush=True)
        print(f"  {begun:.1f} s until all slots worked; from then on {spent / work - 1:.1%} over work / slots, "
              f"{(spent - work) / count:.2f} slot-seconds a cell", flush=True)  # fmt: skip

    import_ray(local=True)
    start = time.perf_counter()
    with ClusterSession(Settings(slots=SLOTS)):
        print(f"Ray's start: {time.perf_counter() - start:.1f} s, in none of the figures below", flush=True)
        if options.cells:
            seconds, begun, shards = launched(cells[: options.cells])
            show(f"--trials packs, {shards} shards", options.cells, seconds, begun)
        if options.each:
            for reuse in (True, False):
                seconds, begun, _ = launched(cells[: options.each], trials="cells", reuse_actors=reuse)
                what = f"--trials cells, processes {'used again' if reuse else 'of their own'}"
                show(what, options.each, seconds, begun)
        if options.plain:
            show("a plain Tune run, one trial a cell", options.plain, plain(cells[: options.plain]))


if __name__ == "__main__":
    main()
