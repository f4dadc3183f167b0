"""CPU seconds of the figure commands and the report, for sweeps of about 10,000 and 100,000 rows.

    python -m benchmarks.analyses [--rows 10000 100000] [--against CHECKOUT] [--limit SECONDS] [--out FILE]

Each command runs in a process of its own, imports included, and writes png, svg and pdf. The rows are made up, of a
sweep with as many curves as ``sweeps/quickstart.yaml``: two sizes, ranks 1 to 3 and three methods, which make 18 curves
in 6 panels, with 12 values of n each; logistic transitions at the statistical dimension with 2 % of failures however
large n is; the number of replicates gives the number of rows. ``--wide`` takes six sizes and four methods: 72 curves in
18 panels. ``--against`` also runs the same commands of another checkout, each checkout on a store that it wrote itself
(such as ``git worktree add ../released fe91866``, which is 0.1.0). A command that takes longer than ``--limit`` is
stopped and counted as infinite.
"""

from __future__ import annotations

import argparse
import datetime
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHAPES = ((12, 12), (12, 24), (16, 16), (20, 20), (20, 30), (24, 24))  # the first two unless --wide
METHODS = ("label_noise_sgd", "min_nuclear_norm", "min_hessian_trace", "minibatch_sgd")  # likewise, the first three
RANKS = (1, 2, 3)
VALUES = 12
EVALUATIONS = 8
FIGURES = ("sample_complexity", "phase_diagram", "scaling", "tolerance", "paired")
HERE = Path(__file__).resolve().parents[1]


def sweep_text(rows: int, *, wide: bool) -> str:
    """A sweep of about this many replicates."""
    shapes, methods = (SHAPES, METHODS) if wide else (SHAPES[:2], METHODS[:3])
    replicates = max(rows // (len(shapes) * len(RANKS) * len(methods) * VALUES), 2)
    sizes = [list(column) for column in zip(*shapes, strict=True)]
    shares = [f"{0.5 * 4.0 ** (place / (VALUES - 1)):.4f}*statdim" for place in range(VALUES)]
    return f"""name: made_up
replicates: {replicates}
fixed: {{evaluations: {EVALUATIONS}}}
axes:
  d_out: {sizes[0]}
  d_in: {sizes[1]}
  rank: {list(RANKS)}
  method: {list(methods)}
  n: {shares}
zip: [[d_out, d_in]]
"""


def write(sweep_file: Path, location: str) -> None:
    """Fill a store with made-up rows of the sweep, by whichever flatdist is imported."""
    import numpy as np

    from flatdist.store import Store
    from flatdist.theory import statistical_dimension

    try:
        from flatdist.sweeps import load_sweep
    except ImportError:  # 0.1
        from flatdist.sweepfile import load_sweep  # type: ignore[attr-defined, no-redef]
    sweep, generator = load_sweep(sweep_file), np.random.default_rng(0)
    trials: list[dict[str, Any]] = []
    history: list[dict[str, Any]] = []
    now = datetime.datetime.now(datetime.UTC)
    for cell in sweep.cells:
        margin = np.log(cell.n / statistical_dimension(cell.d_out, cell.d_in, cell.rank)) / 0.1
        size = sweep.replicates
        succeeded = (margin > generator.logistic(size=size)) & (generator.random(size) > 0.02)
        errors = np.where(succeeded, 10.0 ** -generator.uniform(2.1, 6.5, size), generator.uniform(0.1, 1.0, size))
        fixed = {**cell.row(), "cell_id": cell.cell_id, "configuration_id": cell.configuration_id}
        fixed |= {"status": "converged", "numerics_version": 1, "sampling_version": 1, "finished_at": now}
        fixed |= {"nuclear_norm": 1.0, "nuclear_norm_truth": 1.0, "wall_seconds": 1.0, "engine": "fused"}
        for replicate, error in enumerate(errors):
            trials.append({**fixed, "replicate": replicate, "relative_error": error, "population_loss": error})
            if cell.method.endswith("_sgd"):
                measured = dict.fromkeys(("train_loss", "population_loss", "nuclear_norm", "hessian_trace"), error)
                key = {"cell_id": cell.cell_id, "replicate": replicate}
                history += [{**key, "step": 5000 * step, **measured} for step in range(EVALUATIONS)]
    store = Store(location)
    store.write(trials, history)
    save = store.sweeps.save if hasattr(store, "sweeps") else store.save_sweep  # type: ignore[attr-defined]  # 0.1
    save(sweep.name, sweep_file.read_text(), [cell.cell_id for cell in sweep.cells], sweep.replicates)


def cpu_seconds(checkout: Path, words: list[str], limit: float = math.inf) -> float:
    """Of one Python process and its children; infinite where it takes longer than the limit."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package is compiled
    before = os.times()
    command, seconds = [sys.executable, *words], limit if math.isfinite(limit) else None
    try:
        subprocess.run(command, cwd=checkout, env=environment, check=True, stdout=subprocess.PIPE, timeout=seconds)
    except subprocess.TimeoutExpired:
        return math.inf
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def measure(checkout: Path, rows: int, limit: float, *, wide: bool) -> dict[str, float]:
    """CPU seconds of each command of a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        sweep, store, out = Path(folder, "made_up.yaml"), str(Path(folder, "store")), str(Path(folder, "out"))
        sweep.write_text(sweep_text(rows, wide=wide))
        cpu_seconds(checkout, [__file__, "--write", str(sweep), store])
        released = not (checkout / "flatdist" / "figures").exists()  # 0.1
        commands = {name: [f"analysis.{name}"] if released else ["flatdist", "figure", name] for name in FIGURES}
        commands["report"] = ["flatdist", "report"]
        files = [str(sweep), "--store", store, "--out", out]
        return {name: cpu_seconds(checkout, ["-m", *words, *files], limit) for name, words in commands.items()}


def main() -> None:
    """Print the table, and write it as CSV."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--against", type=Path, help="another checkout to compare with")
    parser.add_argument("--wide", action="store_true", help="72 curves in 18 panels")
    parser.add_argument("--limit", type=float, default=math.inf, help="seconds after which a command is stopped")
    parser.add_argument("--out", type=Path, help="write the table here, as CSV")
    parser.add_argument("--write", nargs=2, metavar=("SWEEP", "STORE"), help="only fill a store")
    options = parser.parse_args()
    if options.write:
        write(Path(options.write[0]), options.write[1])
        return
    checkouts = {"before": options.against.resolve()} if options.against else {}
    lines = ["rows,checkout," + ",".join([*FIGURES, "report"])]
    for rows in options.rows:
        for name, checkout in {**checkouts, "now": HERE}.items():
            seconds = measure(checkout, rows, options.limit, wide=options.wide)
            lines.append(f"{rows},{name}," + ",".join(f"{value:.2f}" for value in seconds.values()))
            print("\n".join(lines[-1:] if len(lines) > 2 else lines), flush=True)
    if options.out:
        options.out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
