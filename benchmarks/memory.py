"""Memory that training takes, compared with the size of its measurements and with the plan's estimate.

``python -m benchmarks.memory`` runs each configuration in a process of its own and prints one row for it: the peak
above what the process held once everything was imported and compiled, its share of the promise (1.25 times the bytes of
the measurements as they are trained on, plus 100 MB), and the whole process against the plan's estimate.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys

CONFIGURATIONS = [
    {"d_out": 12, "d_in": 12, "n": 60, "replicates": 8},
    {"d_out": 20, "d_in": 20, "n": 200, "replicates": 64},
    {"d_out": 60, "d_in": 60, "n": 1200, "replicates": 1},
    {"d_out": 60, "d_in": 60, "n": 1200, "replicates": 16},
    {"d_out": 60, "d_in": 60, "n": 1200, "replicates": 16, "ensemble": "rademacher"},
    {"d_out": 100, "d_in": 100, "n": 3000, "replicates": 8},
    {"d_out": 60, "d_in": 60, "n": 1200, "replicates": 16, "engine": "batched"},
    {"d_out": 100, "d_in": 100, "n": 3000, "replicates": 8, "ensemble": "rank_one"},
    {"d_out": 100, "d_in": 100, "n": 3000, "replicates": 8, "ensemble": "entries"},
]
MEGABYTE = 1e6


def measure(configuration: dict[str, object]) -> dict[str, float]:
    """Train in this process; bytes before, at the peak, of the measurements, and as planned."""
    from flatdist.cells.cell import Cell
    from flatdist.cells.problems import storage_dtype
    from flatdist.planning.memory import memory_bytes
    from flatdist.sensing.ensembles import ENSEMBLES
    from flatdist.trials.run import run_replicates
    from flatdist.trials.settings import RunSettings

    fields = dict(configuration)
    replicates, engine = int(fields.pop("replicates")), str(fields.pop("engine", "fused"))  # type: ignore[call-overload]
    cell = Cell(rank=1, steps=200, evaluations=8, **fields)  # type: ignore[arg-type]
    small = Cell(rank=1, n=8, d_out=4, d_in=4, steps=2, evaluations=2, ensemble=cell.ensemble)
    settings = RunSettings(engine=engine)
    list(run_replicates(small, [0], settings))  # imports and compiles
    before = _resident()
    list(run_replicates(cell, range(replicates), settings))
    row_bytes = ENSEMBLES[cell.ensemble].storage.row_bytes(cell.d_out, cell.d_in, storage_dtype(cell, engine))
    return {
        "before": before,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "measurements": replicates * cell.n * row_bytes,
        "planned": memory_bytes(cell, replicates, engine, "inline"),
    }


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def main() -> None:
    """Print the table."""
    print(
        f"{'configuration':<62} {'above':>8} {'promise':>8} {'ratio':>6} {'process':>8} {'planned':>8} {'ratio':>6}  MB"
    )
    for configuration in CONFIGURATIONS:
        command = [sys.executable, "-m", "benchmarks.memory", json.dumps(configuration)]
        result = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        above = result["peak"] - result["before"]
        promise = 1.25 * result["measurements"] + 100 * MEGABYTE
        name = " ".join(f"{key}={value}" for key, value in configuration.items())
        print(
            f"{name:<62} {above / MEGABYTE:8.0f} {promise / MEGABYTE:8.0f} {above / promise:6.2f} "
            f"{result['peak'] / MEGABYTE:8.0f} {result['planned'] / MEGABYTE:8.0f} "
            f"{result['planned'] / result['peak']:6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(json.loads(sys.argv[1]))))
    else:
        main()
