"""Measured times: from rows already in the store, else from short probes on this machine."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from flatdist.cells.cell import FIELDS, Cell
from flatdist.cells.fields import Keyword
from flatdist.errors import FlatdistError
from flatdist.methods.base import GradientMethod
from flatdist.planning.cost import NEAR, CostModel, Observation
from flatdist.planning.nominal import nominal_cost

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.trials.run import Outcome

PROBE_STEPS = 400  # at least, or all that the cell has
LONG_PROBE = 0.3  # nominal seconds; enough steps for that, since short runs are mostly preparation
MAX_PROBES = 12
PROBE_SECONDS = 10.0  # for all probes together, compilation not counted
BATCHED_PROBE = 8  # replicates together: a replicate's share of a batch is what will be paid
WARM_UP_SECONDS = 0.5  # shorter runs are always measured twice
LONGEST_PROBE = 5.0  # nominal seconds beyond which a solver is not run to see how long it takes
# Fields that do not change how long a run takes; whatever is added later may.
_INITIAL_FIELDS = ("ground_truth", "observation_noise_std", "nested", "init_scale", "learning_rate", "label_noise_std")
_FREE_FIELDS = frozenset((*_INITIAL_FIELDS, "schedule", "anneal_fraction", "sam_radius"))
_COST_FIELDS = tuple(name for name in FIELDS if name not in _FREE_FIELDS)

Probe = Callable[[Cell], float]  # the wall seconds of one replicate of a cell


class TimedStore(Protocol):
    """What this module needs of a store."""

    def trials(self, cell_ids: Any = None, where: Any = None, columns: Any = None) -> pd.DataFrame:
        """Rows of the trials table."""


def stored_observations(store: TimedStore) -> list[Observation]:
    """What the store's rows say about wall times, one observation for each kind of cell, engine and device."""
    from flatdist.errors import StoreError

    columns = [*_COST_FIELDS, "steps_run", "status", "wall_seconds", "engine", "device"]
    try:
        frame = store.trials(columns=columns)
    except StoreError:
        return []
    frame = frame[frame["wall_seconds"].notna() & (frame["status"] != "diverged")]
    names = [*_COST_FIELDS, "engine", "device"]
    texts = frame["width"].map(lambda width: None if width is None else ",".join(str(int(w)) for w in width))
    observations = []
    grouped = frame.assign(width=texts).groupby(names, dropna=False, sort=False)["wall_seconds"]
    for key, seconds in grouped.median().items():
        assert isinstance(key, tuple)
        cell = _cell(dict(zip(_COST_FIELDS, key, strict=False)))
        if cell is not None:
            observations.append(Observation(cell, float(seconds), str(key[-2]), str(key[-1])))
    return observations


def _cell(row: dict[str, Any]) -> Cell | None:
    """A cell that costs what a row's cell did; fields that do not matter to its method take their defaults."""
    given: dict[str, Any] = {}
    for name, value in row.items():
        if value is None or (isinstance(value, float) and math.isnan(value)):
            kind = FIELDS[name].metadata["kind"]
            if isinstance(kind, Keyword):
                given[name] = None
            continue
        given[name] = [int(width) for width in value.split(",")] if name == "width" else value
    try:
        return Cell(**given)
    except FlatdistError:  # a row of a method that this version does not know
        return None


def probe_observations(cells: Iterable[Cell], model: CostModel, probe: Probe) -> list[Observation]:
    """Measure kinds of cells that are far from everything measured so far, those that weigh most first.

    Args:
        cells: what is to be run.
        model: what is known already.
        probe: runs one replicate and returns its wall seconds.
    """
    spent = 0.0
    found: list[Observation] = []
    for cell in _unmeasured(cells, model)[:MAX_PROBES]:
        if spent > PROBE_SECONDS:
            break
        known = CostModel(found, model.engine, model.device).predict(cell)
        short = shortened(cell, model.engine)
        if known.distance < NEAR or nominal_cost(short, model.engine).seconds > LONGEST_PROBE:
            continue
        try:
            seconds = probe(short)
        except Exception:  # noqa: S112 - what is broken shows when it runs, with its traceback stored
            continue
        spent += seconds
        found.append(Observation(short, seconds, model.engine, model.device))
    return found


def _unmeasured(cells: Iterable[Cell], model: CostModel) -> Sequence[Cell]:
    weights: dict[tuple[Any, ...], tuple[float, Cell]] = {}
    for cell in cells:
        predicted = model.predict(cell)
        if predicted.distance >= NEAR:
            kind = (cell.method, cell.d_out, cell.d_in, cell.depth, cell.batch_size, cell.dtype)
            weight, first = weights.get(kind, (0.0, cell))
            weights[kind] = (weight + predicted.seconds, first)
    return [cell for _, cell in sorted(weights.values(), key=lambda entry: -entry[0])]


def shortened(cell: Cell, engine: str = "fused") -> Cell:
    """The same kind of work in fewer steps, or the cell itself where that is short."""
    nominal = nominal_cost(cell, engine).seconds
    if not isinstance(cell.spec, GradientMethod) or nominal <= LONG_PROBE:
        return cell
    steps = min(cell.steps, max(PROBE_STEPS, int(cell.steps * LONG_PROBE / nominal)))
    return dataclasses.replace(cell, steps=steps, evaluations=min(cell.evaluations, 4))


def _wall_seconds(outcomes: Iterable[Outcome]) -> float:
    shares = [float(outcome.trial["wall_seconds"]) for outcome in outcomes]
    return sum(shares) / len(shares)


def make_probe(engine: str, device: str, threads: int) -> Probe:
    """A probe that runs replicates in this process and takes the shorter of two times.

    The first run of a kind of cell may compile and import, which is no part of the cost; and a moment in which other
    programs held the processor weighs more the shorter a probe is.
    """
    warm: set[str] = set()

    def probe(cell: Cell) -> float:
        from flatdist.trials.run import run_replicates
        from flatdist.trials.settings import RunSettings

        settings = RunSettings(engine=engine, device=device, threads=threads)
        together = range(BATCHED_PROBE if engine == "batched" and isinstance(cell.spec, GradientMethod) else 1)
        kind = f"{cell.method} {cell.dtype} {cell.depth}"
        seconds = _wall_seconds(run_replicates(cell, together, settings, provenance={}))
        slow = isinstance(cell.spec, GradientMethod) or seconds > nominal_cost(cell, engine).seconds
        if seconds < WARM_UP_SECONDS or (kind not in warm and slow):
            seconds = min(seconds, _wall_seconds(run_replicates(cell, together, settings, provenance={})))
        warm.add(kind)
        return seconds

    return probe
