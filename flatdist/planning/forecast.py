"""Predicted times of replicates: nominal costs times the ratio of measured to nominal, from stored rows or short
probes.

A family is all gradient methods of one dtype, or another method by itself. A cell's log(measured / nominal) is the
median over the ``NEIGHBOURS`` measured kinds of its family nearest in size, n, depth, batch and steps; their spread is
the scatter of single kinds about it. In a sum over cells that scatter averages out, but three errors do not: that of
the median, of extrapolation, and of a machine that is faster or slower today. ``Z90`` times the root of their sum of
squares is the 90 % interval.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from flatdist.cells.cell import FIELDS, Cell
from flatdist.cells.problems import storage_dtype
from flatdist.engines import resolve_engine
from flatdist.errors import FlatdistError, StoreError, counted
from flatdist.planning.packs import Card, device_bytes
from flatdist.planning.work import WorkItem
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.types import Array

if TYPE_CHECKING:
    from flatdist.planning.settings import Settings
    from flatdist.store import Store

NEIGHBOURS = 7
NEAR = 0.7  # a cell this close to a measured one needs no probe
DRIFT = 0.12  # of the logarithm: two runs of one program differ by that
SINGLE_SCATTER = 0.3  # of one measurement's logarithm, on a machine that others use too
DISTANCE_SCATTER = 0.35  # added for each unit of distance
UNKNOWN_SCATTER = 1.2  # without any measurement
Z90 = 1.645
PROBE_STEPS = 400  # at least, or all that the cell has
LONG_PROBE = 0.3  # nominal seconds; enough steps for that, since short runs are mostly preparation
MAX_PROBES = 12
PROBE_SECONDS = 10.0  # for all probes together, compilation not counted
BATCHED_PROBE = 8  # replicates together: a replicate's share of a batch is what will be paid
WARM_UP_SECONDS = 0.5  # shorter runs are always measured twice
LONGEST_PROBE = 5.0  # nominal seconds beyond which a solver is not probed
# Fields that do not change how long a run takes; whatever is added later may.
_FREE = ("ground_truth", "observation_noise_std", "nested", "init_scale", "init", "learning_rate", "label_noise_std")
_FREE_FIELDS = frozenset((*_FREE, "schedule", "anneal_fraction", "sam_radius", "momentum"))
_COST_FIELDS = tuple(name for name in FIELDS if name not in _FREE_FIELDS)

# Round costs of one core. Only ratios between cells matter once something has been measured.
STEP_SECONDS, LAYER_SECONDS, EVALUATION_SECONDS, REPLICATE_SECONDS = 0.5e-6, 0.2e-6, 4e-5, 1e-3
DRAWN_FLOPS, PRODUCT_FLOPS, EVALUATION_FLOPS, SOLVER_FLOPS = 1.5e10, 1e11, 5e9, 5e9
SAMPLING = 2e-8  # seconds for one entry of a measurement
ITERATION_FLOPS = 1e5  # cost of a solver's iteration on the smallest matrices
ENGINE_FACTORS = {"batched": 15.0, "reference": 150.0}  # of the fused engine's time for a step

ON_CHIP = ("cuda", "triton")
# An H100: fitted to benchmarks/gpu.py's times at d = 12, 20, 32 and 60 (docs/gpu.md), full of replicates and with few.
CARD_BYTES, CARD_FLOPS = 7.4e12, 1.6e13  # per second, one after the other: drawn rows, arithmetic
CARD_LATENCY, CARD_LATENCY_FLOPS = 2.0e-6, 8e10  # seconds a step, however few replicates; one block's arithmetic
CARD_REPLICATE, CARD_EVALUATION = 6.5e-4, 2.2e-11  # seconds of a replicate's rows; of an entry that an evaluation reads

Probe = Callable[[Cell], float]  # returns the wall seconds of one replicate of a cell


@dataclass(frozen=True)
class Interval:
    """A prediction and the limits between which it is expected to come out 9 times in 10."""

    low: float
    mid: float
    high: float

    def __str__(self) -> str:
        return f"{duration(self.mid)} ({duration(self.low)} to {duration(self.high)})"


@dataclass(frozen=True)
class Observation:
    """Measured seconds of one replicate of a kind of cell, its share of a batch, and what ran it where."""

    cell: Cell
    seconds: float
    engine: str
    device: str


@dataclass(frozen=True)
class Prediction:
    """Seconds of one replicate, what their logarithm errs by, and the distance to the nearest measured kind."""

    seconds: float
    scatter: float  # of the logarithm of single kinds about the prediction
    doubt: float  # of the logarithm of all kinds of the family in common
    distance: float  # in natural logarithms of size; infinite where nothing of the family was measured


class Forecast:
    """Predicts the time of replicates on one engine and device.

    Args:
        observations: what was measured; what gradient methods took on other engines and devices is left out.
        engine: the engine of gradient methods, or ``auto``.
        device: ``cpu``, or a torch device.
        basis: where the measurements come from, in words.
        card: the model of the GPU, as torch names it; empty where any model will do.
    """

    def __init__(
        self,
        observations: Iterable[Observation],
        engine: str,
        device: str,
        basis: str = "nothing to run",
        card: str = "",
    ) -> None:
        self.engine, self.device, self.basis, self.card = engine, device, basis, card
        ratios: dict[str, dict[tuple[float, ...], list[float]]] = defaultdict(lambda: defaultdict(list))
        for one in observations:
            ran_here = one.engine == self.engine_of(one.cell) and is_device(one.device, device, card)
            if one.seconds > 0 and (ran_here or not one.cell.spec.takes_steps):
                ratio = math.log(one.seconds / nominal_seconds(one.cell, one.engine))
                ratios[family(one.cell)][features(one.cell)].append(ratio)
        self._measured: dict[str, tuple[Array, list[list[float]]]] = {
            name: (np.array(list(places)), list(places.values())) for name, places in ratios.items()
        }
        self._cache: dict[str, Prediction] = {}

    def engine_of(self, cell: Cell) -> str:
        """The engine that takes a cell's steps."""
        try:
            return resolve_engine(self.engine, self.device, cell)
        except FlatdistError:  # said when the cell runs
            return self.engine

    def replicate(self, cell: Cell) -> Prediction:
        """The time of one replicate of a cell."""
        if cell.cell_id not in self._cache:
            self._cache[cell.cell_id] = self._predict(cell)
        return self._cache[cell.cell_id]

    def _predict(self, cell: Cell) -> Prediction:
        nominal = nominal_seconds(cell, self.engine_of(cell))
        if family(cell) not in self._measured:
            return Prediction(nominal, 0.0, UNKNOWN_SCATTER, math.inf)
        places, measured = self._measured[family(cell)]
        distances = np.linalg.norm(places - features(cell), axis=1)
        nearest = np.argsort(distances, kind="stable")[:NEIGHBOURS]
        ratios = np.array([np.median(measured[index]) for index in nearest])
        runs = sum(len(measured[index]) for index in nearest)
        middle, distance = float(np.median(ratios)), float(distances[nearest[0]])
        # A few kinds say little about their scatter: SINGLE_SCATTER counts as one more of them.
        scatter = math.sqrt((np.sum((ratios - middle) ** 2) + SINGLE_SCATTER**2 / runs) / len(ratios))
        error = (1.0 if len(ratios) < 3 else 1.25) * scatter / math.sqrt(len(ratios))  # of a median
        doubt = min(math.hypot(error, DISTANCE_SCATTER * distance), UNKNOWN_SCATTER)
        return Prediction(nominal * math.exp(middle), scatter, doubt, distance)

    def item_seconds(self, item: WorkItem) -> float:
        """Predicted seconds of an item on one slot."""
        return self.replicate(item.cell).seconds * len(item.replicates) * item.share

    def pack_seconds(self, items: Sequence[WorkItem]) -> float:
        """Predicted seconds of items that one kernel launch trains together: never less than a step's latency."""
        whole = sum(self.item_seconds(item) for item in items)
        cell = items[0].cell
        return max(whole, cell.steps * card_step(cell)[1]) if self.engine_of(cell) in ON_CHIP else whole

    def interval(self, items: Sequence[WorkItem]) -> Interval:
        """Predicted seconds of all items on one slot, and the limits of 90 %."""
        seconds, alone = 0.0, 0.0
        together: dict[str, float] = defaultdict(float)
        for item in items:
            one, part = self.replicate(item.cell), self.item_seconds(item)
            seconds += part
            alone += (part * one.scatter) ** 2
            together[family(item.cell)] += part * one.doubt
        if not seconds:
            return Interval(0.0, 0.0, 0.0)
        scatter = math.hypot(DRIFT, math.sqrt(alone) / seconds, math.hypot(*together.values()) / seconds)
        return Interval(seconds * math.exp(-Z90 * scatter), seconds, seconds * math.exp(Z90 * scatter))


def make_forecast(items: Sequence[WorkItem], store: Store, settings: Settings, probe: Probe | None) -> Forecast:
    """A forecast from the store's wall times, and from probes of kinds of cells that it says nothing about."""
    stored = stored_observations(store) if items else []
    cells, card = [item.cell for item in items], settings.expected_card
    where = settings.engine, settings.expected_device, "nothing to run", card.name if card is not None else ""
    forecast = Forecast(stored, *where)
    answered = any(math.isfinite(forecast.replicate(cell).distance) for cell in cells)
    sources = ["times in the store"] if answered else []
    if probed := probe_observations(cells, forecast, probe) if probe is not None else []:
        forecast = Forecast([*stored, *probed], *where)
        sources.append(counted(len(probed), "short probe"))
    if unknown := sum(math.isinf(forecast.replicate(cell).distance) for cell in cells):
        sources.append(f"nominal costs for {unknown} of {len(cells)} cells")
    forecast.basis = " and ".join(sources) or forecast.basis
    return forecast


def is_device(label: str, device: str, card: str = "") -> bool:
    """Whether rows of a device say how long a plan's device takes: of one kind and model, whatever the driver.

    >>> is_device("cuda NVIDIA H100 80GB HBM3, CUDA 12.8, driver API 12080", "cuda:0", "NVIDIA H100 80GB HBM3")
    True
    """
    kind, _, model = label.partition(",")[0].partition(" ")
    return kind.partition(":")[0] == device.partition(":")[0] and (not model or not card or model == card)


def family(cell: Cell) -> str:
    """Methods whose costs have one shape: all gradient methods together (per number type), each other by itself."""
    return f"gradient {cell.dtype}" if cell.spec.takes_steps else cell.method


def features(cell: Cell) -> tuple[float, ...]:
    """A cell's position within its family: natural logarithms of the quantities its cost depends on."""
    size, method = 0.5 * math.log(cell.d_out * cell.d_in), cell.spec
    if method.takes_steps:
        steps = 0.1 * math.log(cell.steps)  # nearly proportional to them, so they hardly distinguish cells
        drawn = 0.5 * math.log(cell.training.drawn(cell))
        values = [size, 0.3 * math.log(cell.n), 0.5 * math.log(cell.depth), drawn, steps]
    else:
        depth = math.log(cell.depth or 64) if "depth" in method.fields else 0.0
        length = 0.2 * math.log(cell.flow_duration) if "flow_duration" in method.fields else 0.0
        values = [size, 0.5 * math.log(cell.n), depth, length]
    return tuple(round(value, 6) for value in values)


def nominal_seconds(cell: Cell, engine: str = "fused") -> float:
    """The cost of one replicate on a nominal core: counts of multiplications times round unit costs."""
    entries, smaller, method = cell.d_out * cell.d_in, min(cell.d_out, cell.d_in), cell.spec
    sampling = REPLICATE_SECONDS + SAMPLING * cell.n * entries
    if not method.takes_steps:
        if method.study_seconds:
            length = cell.flow_duration if "flow_duration" in method.fields else 1.0
            return sampling + method.study_seconds * length * entries / 100
        gram = 2.0 * cell.n**2 * entries + cell.n**3 / 3
        depth = cell.depth if "depth" in method.fields else 1
        iteration = depth * (4.0 * cell.n * entries + 20.0 * entries * smaller) + ITERATION_FLOPS
        return sampling + (gram + method.iterations * iteration) / SOLVER_FLOPS
    training, chain = cell.training, _chain(cell)
    passing = PRODUCT_FLOPS if ENSEMBLES[cell.ensemble].storage.structured else DRAWN_FLOPS
    computing = 4 * training.drawn(cell) * entries / passing + 6 * chain / PRODUCT_FLOPS
    step = STEP_SECONDS + (2 if training.sharpness_aware else 1) * (LAYER_SECONDS * cell.depth + computing)
    evaluation = EVALUATION_SECONDS + cell.n * entries * (2 + 2 * cell.depth) / EVALUATION_FLOPS
    evaluations = min(cell.evaluations, cell.steps + 1)
    if engine in ON_CHIP:
        step = card_step(cell)[0]
        if not ENSEMBLES[cell.ensemble].storage.structured:  # otherwise a processor samples and evaluates
            sampling, evaluation = CARD_REPLICATE, CARD_EVALUATION * cell.n * entries
    else:
        step *= ENGINE_FACTORS.get(engine, 1.0)
    return sampling + cell.steps * step + evaluations * evaluation


def card_step(cell: Cell) -> tuple[float, float]:
    """Seconds of a replicate-step of the on-chip kernels on a full H100, and of a step of a replicate that is alone."""
    storage, drawn, chain = ENSEMBLES[cell.ensemble].storage, cell.training.drawn(cell), _chain(cell)
    read = drawn * storage.row_bytes(cell.d_out, cell.d_in, storage_dtype(cell, "cuda"))
    flops = 4 * drawn * cell.d_out * cell.d_in + 6 * chain * (cell.depth - 1) / cell.depth
    return read / CARD_BYTES + flops / CARD_FLOPS, CARD_LATENCY + flops / CARD_LATENCY_FLOPS


def _chain(cell: Cell) -> int:
    return sum(a * b * min(cell.widths[0], cell.widths[-1]) for a, b in pairwise(cell.widths))


def stored_observations(store: Store) -> list[Observation]:
    """Wall times from the store's rows, one observation per kind of cell, engine and device."""
    try:
        frame = store.trials(columns=[*_COST_FIELDS, "steps_run", "status", "wall_seconds", "engine", "device"])
    except StoreError:
        return []
    frame = frame[frame["wall_seconds"].notna() & (frame["status"] != "diverged")]
    widths = frame["width"].map(lambda width: None if width is None else tuple(width))
    names = [*_COST_FIELDS, "engine", "device"]
    grouped = frame.assign(width=widths).groupby(names, dropna=False, sort=False)["wall_seconds"]
    medians: Any = grouped.median()
    found = []
    for key, seconds in medians.items():
        with contextlib.suppress(FlatdistError):  # a row of a method that this version does not know
            cell = Cell.from_row(dict(zip(_COST_FIELDS, key, strict=False)))
            found.append(Observation(cell, float(seconds), str(key[-2]), str(key[-1])))
    return found


def probe_observations(cells: Iterable[Cell], known: Forecast, probe: Probe) -> list[Observation]:
    """Measure kinds of cells that are far from everything measured so far, those that weigh most first."""
    weights: dict[tuple[Any, ...], tuple[float, Cell]] = {}
    for cell in cells:
        predicted = known.replicate(cell)
        if predicted.distance >= NEAR:
            kind = (cell.method, cell.d_out, cell.d_in, cell.depth, cell.batch_size, cell.dtype)
            weight, first = weights.get(kind, (0.0, cell))
            weights[kind] = (weight + predicted.seconds, first)
    spent = 0.0
    found: list[Observation] = []
    for _, cell in sorted(weights.values(), key=lambda entry: -entry[0])[:MAX_PROBES]:
        engine = known.engine_of(cell)
        short = shortened(cell, engine)
        near = Forecast(found, known.engine, known.device).replicate(cell).distance < NEAR
        if spent > PROBE_SECONDS or near or nominal_seconds(short, engine) > LONGEST_PROBE:
            continue
        try:
            seconds = probe(short)
        except Exception:  # noqa: S112 - what is broken shows when it runs, with its traceback stored
            continue
        spent += seconds
        found.append(Observation(short, seconds, engine, known.device))
    return found


def shortened(cell: Cell, engine: str = "fused") -> Cell:
    """The same kind of work with fewer steps, or the cell itself if it is short."""
    nominal = nominal_seconds(cell, engine)
    if not cell.spec.takes_steps or nominal <= LONG_PROBE:
        return cell
    steps = min(cell.steps, max(PROBE_STEPS, int(cell.steps * LONG_PROBE / nominal)))
    return dataclasses.replace(cell, steps=steps, evaluations=min(cell.evaluations, 4))


def make_probe(engine: str, device: str, threads: int, tell: Callable[[str], None] = lambda text: None) -> Probe:
    """A probe that runs replicates in this process and takes the shorter of two times; as many as fill a GPU.

    The first run of a kind of cell may compile and import, which is not part of the cost. Interference from other
    programs weighs more the shorter a probe is. ``tell`` is given a line before the first run, since compiling the
    engine may take half a minute on a new machine.
    """
    seen: set[str] = set()
    card = Card.here() if device != "cpu" else None

    def probe(cell: Cell) -> float:
        from flatdist.trials.run import run_replicates
        from flatdist.trials.settings import RunSettings

        if not seen:
            tell("timing a few cells (the store has no timings for them yet)")
        settings, steps = RunSettings(engine=engine, device=device, threads=threads), cell.spec.takes_steps
        together = range(BATCHED_PROBE if engine == "batched" and steps else 1)
        if card is not None and steps:
            together = range(min(card.fill(cell), card.memory // (4 * device_bytes(cell, engine)) or 1))
        kind = f"{cell.method} {cell.dtype} {cell.depth}"
        cold = kind not in seen
        seen.add(kind)

        def once() -> float:
            rows = [outcome.trial for outcome in run_replicates(cell, together, settings, provenance={})]
            return sum(float(row["wall_seconds"]) for row in rows) / len(rows)

        seconds = once()
        if seconds < WARM_UP_SECONDS or (cold and (steps or seconds > nominal_seconds(cell, engine))):
            seconds = min(seconds, once())
        return seconds

    return probe


def duration(seconds: float) -> str:
    """A duration in readable units.

    >>> duration(45), duration(720), duration(12600), duration(180000)
    ('45 s', '12 min', '3.5 h', '2.08 days')
    """
    if seconds < 0.05:
        return "0 s"
    for limit, unit, length in ((90, "s", 1.0), (90 * 60, "min", 60.0), (48 * 3600, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / length:.2g} {unit}" if seconds / length < 9.95 else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.3g} days"
