"""Kill a sweep over and over, and compare what it leaves with an undisturbed one.

Starts a Ray cluster of a head and two nodes on this machine and a driver, and sends SIGKILL to the driver, a worker or
a node at random moments. A killed driver is started again, a killed node replaced. When the sweep has ended, its trials
table must equal an undisturbed run's in every result column, bit for bit, with no key missing and none twice.

    python tests/launch/chaos.py --kills 50 --cells 60

ends with status 0 if it does. Only processes that this script started are touched.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.cells.cell import Cell

KINDS = ("worker", "worker", "driver", "node")  # a worker twice as often as the others
MEASURED = ("wall_seconds", "finished_at", "host", "git_sha", "git_dirty")  # may differ between two runs
NOT_TRIALS = (b"IDLE", b"Agent", b"Monitor")  # a node dies with its agents, and dying nodes are counted as such
DRIVER_PATIENCE = 600.0  # seconds without any of the wanted progress after which the script gives up


def make_cells(count: int, steps: int) -> list[Cell]:
    """Small cells with different numbers of measurements."""
    from flatdist.cells.cell import Cell

    return [
        Cell(d_out=8, d_in=8, rank=1 + i % 2, n=20 + i, steps=steps, evaluations=8, learning_rate=0.02)
        for i in range(count)
    ]


def drive(options: argparse.Namespace, executor: str) -> int:
    """Run what is missing; returns the exit code."""
    from flatdist.launch import launch
    from flatdist.planning import Settings, make_plan
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

    cells = make_cells(options.cells, options.steps)
    sweep = Sweep("chaos", "", options.replicates, tuple(cells), left_out=0, source="", path=None)
    plan = make_plan([sweep], Store(options.store), Settings(slots=2), retry_failed=True)
    settings = Settings(
        executor,
        address=options.address,
        checkpoint_seconds=0.5,
        flush_seconds=1.0,
        same_error_limit=10**6,
        gpus_per_trial=0,
    )
    return launch(plan, options.store, settings=settings, display="plain").exit_code


class Victim:
    """A cluster of a head and two nodes, and a driver, all of which can be killed."""

    def __init__(self, options: argparse.Namespace, store: Path, log: Path) -> None:
        from ray.cluster_utils import Cluster

        self._options = options
        self._store = store
        self._log = log.open("a")
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        self._nodes = [self._cluster.add_node(num_cpus=1), self._cluster.add_node(num_cpus=1)]
        self._driver: subprocess.Popen[bytes] | None = None
        self.kills: Counter[str] = Counter()

    def start_driver(self) -> None:
        """Start the driver, again if need be."""
        options = self._options
        command = [sys.executable, __file__, "--drive", "--address", self._cluster.address, "--store", str(self._store)]
        for name in ("cells", "steps", "replicates"):
            command += [f"--{name}", str(getattr(options, name))]
        self._driver = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def driver_status(self) -> int | None:
        """Exit code of the driver, None while it runs."""
        assert self._driver is not None
        return self._driver.poll()

    def kill(self, kind: str, chance: random.Random) -> bool:
        """Kill something of a kind; returns whether there was anything to kill."""
        assert self._driver is not None
        if kind == "driver":
            self._driver.kill()
            self._driver.wait()
        elif kind == "node":
            node = chance.choice(self._nodes)
            self._cluster.remove_node(node, allow_graceful=False)
            self._nodes.remove(node)
            self._nodes.append(self._cluster.add_node(num_cpus=1))
        else:
            workers = [pid for node in self._nodes for pid in busy_workers(raylet_pid(node))]
            if not workers:
                return False
            os.kill(chance.choice(workers), signal.SIGKILL)
        self.kills[kind] += 1
        return True

    def mend(self) -> None:
        """Replace nodes that died by themselves, as they may on a machine that is too busy for their heartbeats."""
        for node in list(self._nodes):
            if node.all_processes["raylet"][0].process.poll() is not None:
                self._cluster.remove_node(node, allow_graceful=False)
                self._nodes.remove(node)
                self._nodes.append(self._cluster.add_node(num_cpus=1))

    def close(self) -> None:
        """End the driver and the cluster."""
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
            self._driver.wait()
        self._cluster.shutdown()
        self._log.close()


def raylet_pid(node: Any) -> int:
    """Process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def busy_workers(raylet: int) -> list[int]:
    """Worker processes of a raylet that hold an actor: the trials."""
    busy = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == raylet and title.startswith(b"ray::") and not any(other in title for other in NOT_TRIALS):
                busy.append(int(entry.name))
    return busy


def torment(options: argparse.Namespace, store: Path, log: Path, kinds: list[str]) -> Counter[str]:
    """Run the sweep to its end while killing; ``kinds`` are used up from the front.

    Returns:
        How often each kind was killed.
    """
    chance = random.Random(options.seed)
    victim = Victim(options, store, log)
    try:
        victim.start_driver()
        deadline = time.monotonic() + DRIVER_PATIENCE
        while True:
            next_kill = time.monotonic() + chance.expovariate(1.0 / options.interval)
            while victim.driver_status() is None and (not kinds or time.monotonic() < next_kill):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the sweep has not ended, see {log}")
                time.sleep(0.1)
            victim.mend()
            status = victim.driver_status()
            if status == 0:
                return victim.kills
            if status is not None:  # it may end with failures: what died four times counts as one
                victim.start_driver()
                continue
            if kinds and victim.kill(kinds[0], chance):
                print(f"killed a {kinds.pop(0)}, {sum(victim.kills.values())} so far", flush=True)
                deadline = time.monotonic() + DRIVER_PATIENCE
    finally:
        victim.close()


def results(store: str) -> pd.DataFrame:
    """The trials table without what may differ between two runs, sorted by key."""
    from flatdist.store import Store

    table = Store(store).trials()
    return table.drop(columns=list(MEASURED)).sort_values(["cell_id", "replicate"], ignore_index=True)


def differences(found: pd.DataFrame, wanted: pd.DataFrame) -> list[str]:
    """What distinguishes two trials tables, in words; empty if nothing does."""
    keys = ["cell_id", "replicate"]
    problems = []
    if found.duplicated(keys).any():
        problems.append(f"{int(found.duplicated(keys).sum())} keys are there twice")
    if len(found) != len(wanted) or not found[keys].equals(wanted[keys]):
        problems.append(f"{len(found)} rows instead of {len(wanted)}, or other keys")
        return problems
    for column in wanted.columns:
        left, right = found[column].astype(object), wanted[column].astype(object)
        same = [repr(a) == repr(b) for a, b in zip(left, right, strict=True)]
        if not all(same):
            problems.append(f"column {column} differs in {same.count(False)} rows")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--cells", type=int, default=60)
    parser.add_argument("--replicates", type=int, default=2)
    parser.add_argument("--steps", type=int, default=400_000, help="of each cell; sets how long a trial lasts")
    parser.add_argument("--interval", type=float, default=4.0, help="mean seconds between two kills")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", help="what to kill, in this order, instead of at random: worker,driver,node")
    parser.add_argument("--folder", type=Path, help="keep stores and logs here")
    parser.add_argument("--drive", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    parser.add_argument("--store", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.drive:
        return drive(options, "ray")

    os.environ["RAY_AUTH_MODE"] = "disabled"  # a private cluster on loopback; no token in the user's home
    from flatdist.machine.environment import import_ray

    import_ray(local=True)
    with tempfile.TemporaryDirectory(prefix="flatdist-chaos-") as scratch:
        folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        options.store = str(folder / "undisturbed")
        start = time.monotonic()
        assert drive(options, "inline") == 0, "the undisturbed run failed"
        wanted = results(options.store)
        print(f"undisturbed: {len(wanted)} rows in {time.monotonic() - start:.0f} s", flush=True)

        chance = random.Random(options.seed)
        kinds = options.kinds.split(",") if options.kinds else [chance.choice(KINDS) for _ in range(options.kills)]
        total: Counter[str] = Counter()
        sweeps = 0
        problems = []
        start = time.monotonic()
        while kinds:  # a sweep that ends before the last kill is followed by another in a fresh store
            store = folder / f"disturbed-{sweeps}"
            total += torment(options, store, folder / f"driver-{sweeps}.log", kinds)
            problems += [f"sweep {sweeps}: {text}" for text in differences(results(str(store)), wanted)]
            sweeps += 1
        counts = ", ".join(f"{count} x {kind}" for kind, count in sorted(total.items()))
        print(f"{sum(total.values())} kills ({counts}) over {sweeps} sweeps of {options.cells} cells")
        print(f"in {time.monotonic() - start:.0f} s; every result column equal: {not problems}")
        for problem in problems:
            print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
