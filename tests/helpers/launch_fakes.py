"""Stand-ins for the numerics: runners that answer at once, sleep, fail or die, named by ``settings.runner``."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

from flatdist.cells.cell import Cell
from flatdist.planning.packs import Card
from flatdist.trials.run import Outcome
from flatdist.trials.settings import Interrupted


def outcome(cell: Cell, replicate: int, **values: Any) -> Outcome:
    """A plausible row: a replicate succeeds where n is at least 50."""
    key = {"cell_id": cell.cell_id, "replicate": replicate}
    error = 1e-4 if cell.n >= 50 else 0.5
    trial = {
        **key,
        "configuration_id": cell.configuration_id,
        **cell.row(),
        "status": "converged",
        "relative_error": error,
        "population_loss": error,
        "train_loss": error / 10,
        "steps_run": cell.steps,
        "wall_seconds": 0.01,
        "numerics_version": cell.numerics["method"],
        "sampling_version": cell.numerics["sampling"],
        **values,
    }
    return Outcome(trial, [{**key, "step": step, "train_loss": error} for step in (0, cell.steps)])


def canned(cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any) -> Iterator[Outcome]:
    """Rows at once."""
    for replicate in replicates:
        if hooks.should_stop():
            raise Interrupted
        hooks.on_steps(cell.steps)
        yield outcome(cell, replicate)


def sleeping(cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any) -> Iterator[Outcome]:
    """Rows after ``cell.steps`` milliseconds each."""
    for replicate in replicates:
        end = time.monotonic() + cell.steps / 1000
        while time.monotonic() < end:
            if hooks.should_stop():
                raise Interrupted
            time.sleep(min(0.02, cell.steps / 1000))
        hooks.on_steps(cell.steps)
        yield outcome(cell, replicate)


def on_card(cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any) -> Iterator[Outcome]:
    """Rows after half a second, whose device is the card that Ray gave this trial."""
    time.sleep(0.5)
    for replicate in replicates:
        yield outcome(cell, replicate, device=f"card {os.environ['CUDA_VISIBLE_DEVICES']}")


def failing(cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any) -> Iterator[Outcome]:
    """The first replicate's row, then an exception."""
    yield outcome(cell, replicates[0])
    raise ArithmeticError(f"no luck with n = {cell.n}")


def always_failing(
    cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any
) -> Iterator[Outcome]:
    """An exception that differs between cells only in a number."""
    raise ArithmeticError(f"singular matrix at n = {cell.n}")
    yield


def compiled(cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any) -> Iterator[Outcome]:
    """The first replicate's row, then code that does not ask and turns what breaks it off into an error of its own."""
    yield outcome(cell, replicates[0])
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        time.sleep(60)
    except BaseException as interruption:
        raise SystemError("returned a result with an exception set") from interruption


def short_of_memory(
    cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any
) -> Iterator[Outcome]:
    """Manages two replicates at a time."""
    if len(replicates) > 2:
        raise MemoryError("cannot allocate")
    for replicate in replicates:
        yield outcome(cell, replicate)


def deadly(cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any) -> Iterator[Outcome]:
    """Kills its process at n = 13."""
    if cell.n == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    for replicate in replicates:
        yield outcome(cell, replicate)


def inspecting(cell: Cell, replicates: Sequence[int], settings: Any, **others: Any) -> Iterator[Outcome]:
    """The real numerics, numba's for even n and torch's for odd; ``host`` tells the thread pools' sizes after them."""
    import dataclasses
    import json
    import sys

    import threadpoolctl

    from flatdist.trials.run import run_replicates

    chosen = dataclasses.replace(settings, engine="batched" if cell.n % 2 else "fused")
    for row in run_replicates(cell, replicates, chosen, **others):
        loaded = threadpoolctl.threadpool_info()
        pools = {f"{pool['user_api']}:{pool['filepath']}": pool["num_threads"] for pool in loaded}
        pools |= {name: sys.modules[name].get_num_threads() for name in ("torch", "numba") if name in sys.modules}
        row.trial["host"] = json.dumps(pools)
        yield row


def on_its_card(
    cell: Cell, replicates: Sequence[int], settings: Any, *, hooks: Any, provenance: Any
) -> Iterator[Outcome]:
    """Rows whose device is the GPU that Ray gave the trial, after time for the other GPU to be given away."""
    time.sleep(0.5)
    for replicate in replicates:
        yield outcome(cell, replicate, device=f"card {os.environ['CUDA_VISIBLE_DEVICES']}")


def standing_card() -> Card:
    """A card in the place of one that torch sees."""
    return Card(processors=4, memory=2**30, name="stand-in")
