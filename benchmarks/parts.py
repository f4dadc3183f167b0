"""Eight parts of a job array on this machine, two of them killed, compared with one Ray run on the same slots.

    python -m benchmarks.parts [--replicates 200] [--parts 8] [--killed 2]
    python -m benchmarks.parts --same --parts 2 --killed 0    # the same command in two terminals; without Ray

Prints the wall time of both, and how many replicates were computed twice; every replicate must be in the store once.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from flatdist.store import Store

SWEEP = """name: parts
replicates: {replicates}
fixed: {{d_out: 20, d_in: 20, rank: 1, n: 3*statdim, steps: 60000, evaluations: 17}}
"""
# Runs the command line, and notes each replicate that it has stored.
NOTING = """
import sys, time
from flatdist.launch import worker
from flatdist.launch.progress.state import RowStored
notes, arguments = open(sys.argv[1], "a", buffering=1), sys.argv[2:]
class Noted(RowStored):
    def __new__(cls, shard, cell_id, replicate, *rest):
        notes.write(f"{time.time()} {cell_id} {replicate}\\n")
        return RowStored(shard, cell_id, replicate, *rest)
worker.RowStored = Noted
from flatdist.cli import main
sys.exit(main(arguments))
"""


def main() -> None:
    """Run both and print the comparison."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--parts", type=int, default=8)
    parser.add_argument("--killed", type=int, default=2)
    parser.add_argument("--same", action="store_true", help="the same command in each process; none on Ray")
    options = parser.parse_args()
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "parts.yaml").write_text(SWEEP.format(replicates=options.replicates))
        sweep = ["sweep", str(folder / "parts.yaml"), "--display", "none", "--yes"]
        start, began = time.monotonic(), time.time()
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", NOTING, str(folder / f"{part}.txt"), *sweep, "--store", str(folder / "store"),
                 *(["--executor", "inline"] if options.same else ["--part", f"{part}/{options.parts}"])],
                env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )
            for part in range(1, options.parts + 1)
        ]  # fmt: skip
        for part in range(1, options.killed + 1):  # each dies in the middle of its second unit
            while not (notes := folder / f"{part}.txt").exists() or not notes.stat().st_size:
                time.sleep(0.02)
            processes[part - 1].send_signal(signal.SIGKILL)
        codes = [process.wait() for process in processes]
        seconds = time.monotonic() - start
        notes = [line.split(" ", 1) for file in folder.glob("*.txt") for line in file.read_text().splitlines()]
        computed = Counter(key for _, key in notes)
        first, last = (at(float(seconds) for seconds, _ in notes) - began for at in (min, max))
        rows = Store(folder / "store").trials(columns=["cell_id", "replicate"])
        twice = sum(computed.values()) - len(computed)
        print(f"{options.parts} parts, {options.killed} killed: {seconds:.1f} s, {len(rows)} replicates stored")
        print(f"  the first after {first:.1f} s, the last after {last:.1f} s,")
        print(f"  {int(rows.duplicated().sum())} doubled in the store, {twice} computed twice, exit statuses {codes}")
        if options.same:
            return
        start = time.monotonic()
        share = (os.cpu_count() or 1) / options.parts
        command = [*sweep, "--store", str(folder / "ray"), "--no-probe", "--cpus-per-trial", f"{share:g}"]
        subprocess.run(
            [sys.executable, "-m", "flatdist", *command], env=environment, check=True, stdout=subprocess.DEVNULL
        )
        print(f"one Ray run on {options.parts} slots, none killed: {time.monotonic() - start:.1f} s")


if __name__ == "__main__":
    main()
