"""A simulated sweep of 100,000 cells on a local Ray: the cost to the driver, Ray and the store.

    python benchmarks/launch_scaling.py [--cells 100000] [--shard 50]

The trials return canned rows at once, so that everything measured is launching and storing. Prints the time to plan,
the driver's memory, trials and rows a second, and what the store holds and how long it takes to answer;
docs/scaling.md extrapolates the numbers to a thousand GPUs.
"""

from __future__ import annotations

import argparse
import os
import pickle
import resource
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from flatdist.cells.cell import Cell
from flatdist.launch import launch
from flatdist.launch.ray.tune import PackedShards
from flatdist.planning import Settings, Shard, WorkItem, make_plan
from flatdist.store import Store

Answer = TypeVar("Answer")
MIB = 2**20


def timed(name: str, act: Callable[[], Answer]) -> Answer:
    """Run something and print how long it took and what the driver's memory was afterwards."""
    start = time.perf_counter()
    answer = act()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:<34} {time.perf_counter() - start:8.2f} s   driver's peak memory {peak:6.0f} MiB", flush=True)
    return answer


def make_cells(count: int, steps: int) -> list[Cell]:
    """Distinct cells: a hundred values of n, as many ranks and widths as it takes."""
    return [
        Cell(d_out=40, d_in=40, rank=1 + i // 100 % 40, n=10 + 10 * (i % 100), width=40 + i // 4000, steps=steps)
        for i in range(count)
    ]


def folder_size(folder: Path) -> tuple[int, int]:
    """Files and bytes under a folder."""
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return len(sizes), sum(sizes)


def watch_scratch(stop: threading.Event, seen: list[int]) -> None:
    """Follow the size of Tune's scratch folder."""
    while not stop.wait(1.0):
        for folder in Path(tempfile.gettempdir()).glob("flatdist-tune-*"):
            try:
                seen.append(folder_size(folder)[1])
            except OSError:
                continue


def main() -> None:
    """Run the simulation and print its measurements."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--shard", type=int, default=50, help="cells of one shard")
    parser.add_argument("--slots", type=int, default=2)
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # workers find the simulated runner

    cells = timed("make the cells", lambda: make_cells(options.cells, 40_000))
    timed("their identities", lambda: [cell.cell_id for cell in cells])
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        sweep: Any = SimpleNamespace(
            cells=tuple(cells), replicates=1, name="scaling", description="", left_out=0, repeated=0
        )
        plan = timed("plan", lambda: make_plan([sweep], store, Settings(slots=options.slots)))
        items = [WorkItem(cell, (0,)) for cell in cells]
        shards = tuple(
            Shard(tuple(items[i : i + options.shard]), float(options.shard))
            for i in range(0, len(items), options.shard)
        )
        print(
            f"{len(plan.shards)} shards planned for {options.slots} slots; simulated: {len(shards)} of {options.shard}"
        )
        packed = timed("pack the shards", lambda: PackedShards(shards))
        print(f"  {len(pickle.dumps(packed)) / len(cells):.0f} bytes a cell")

        stop, scratch = threading.Event(), [0]
        watcher = threading.Thread(target=watch_scratch, args=(stop, scratch), daemon=True)
        watcher.start()
        simulated: Any = SimpleNamespace(cells=tuple(cells), shards=shards, done=0, sweeps=())
        settings = Settings(slots=options.slots, runner="simulated_runner:canned")
        start, processor = time.perf_counter(), time.process_time()
        result = timed("sweep", lambda: launch(simulated, folder, settings=settings, display="plain"))
        seconds, processor = time.perf_counter() - start, time.process_time() - processor
        stop.set()
        watcher.join()
        assert result.exit_code == 0, result.summary()
        print(f"  {len(shards) / seconds:.1f} trials/s, {len(cells) / seconds:.0f} rows/s on {options.slots} slots")
        print(f"  driver's processor time: {1000 * processor / len(shards):.0f} ms a trial")
        print(f"  Tune's scratch folder at its largest: {max(scratch) / MIB:.1f} MiB")

        files, size = folder_size(Path(folder))
        print(f"store: {files} files, {size / MIB:.0f} MiB, {size / len(cells):.0f} bytes a row with its history")
        fresh = Store(folder)
        done = timed("what is done (first time)", fresh.done)
        assert sum(map(len, done.values())) == len(cells)
        timed("what is done (again)", fresh.done)
        timed("read three columns of all trials", lambda: fresh.trials(columns=["cell_id", "n", "relative_error"]))
        timed("plan again: nothing is missing", lambda: make_plan([sweep], fresh, Settings(slots=options.slots)))


if __name__ == "__main__":
    main()
