"""How long replicates take: nominal costs, scaled by what was measured on cells like them.

For a cell, log(measured / nominal) is averaged over the measured cells of the same method family, engine and device,
weighted by a Gaussian kernel of their distance in the logarithms of size, measurements, depth, batch and steps. The
scatter of those logarithms, the distance to the nearest of them and a floor for the machine's own unsteadiness make the
interval. Without any measurement the nominal cost stands, with an interval that says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from flatdist.cells.cell import Cell
from flatdist.methods.base import GradientMethod
from flatdist.planning.nominal import nominal_cost

BANDWIDTH = 0.35  # of the kernel, in natural logarithms of size
NEAR = 0.7  # a cell this close to a measured one needs no probe
FLOOR_SCATTER = 0.12  # of the logarithm: two runs of one program differ by that
SINGLE_SCATTER = 0.3  # of one measurement's logarithm, on a machine that others use too; it averages out over several
DISTANCE_SCATTER = 0.35  # added for each unit of distance
UNKNOWN_SCATTER = 1.2  # without any measurement
Z90 = 1.645
_LARGEST = 2000  # measurements kept for one family; neighbours beyond that are averaged


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
    """One measured replicate, or the mean of several of the same cell.

    Attributes:
        cell: its configuration.
        seconds: wall time of one replicate, its share of a batch.
        engine: what took the steps.
        device: where.
    """

    cell: Cell
    seconds: float
    engine: str
    device: str


@dataclass(frozen=True)
class Prediction:
    """Seconds of one replicate, the scatter of their logarithm, and the distance to the nearest measured cell."""

    seconds: float
    scatter: float
    distance: float


class CostModel:
    """Predicts the time of replicates on one engine and device.

    Args:
        observations: what was measured; those of other engines and devices are left out.
        engine: the engine that gradient methods will run on.
        device: ``cpu``, or a torch device.
    """

    def __init__(self, observations: Iterable[Observation], engine: str, device: str) -> None:
        self.engine, self.device = engine, device
        self._families: dict[str, _Family] = {}
        self._cache: dict[tuple[str, tuple[float, ...]], tuple[float, float, float]] = {}
        ratios: dict[str, dict[tuple[float, ...], list[float]]] = {}
        for observation in observations:
            if observation.seconds > 0 and self._counts(observation):
                ratio = math.log(observation.seconds / nominal_cost(observation.cell, engine).seconds)
                place = features(observation.cell)
                ratios.setdefault(family(observation.cell), {}).setdefault(place, []).append(ratio)
        for name, places in ratios.items():
            self._families[name] = _Family.of(places)

    def _counts(self, observation: Observation) -> bool:
        is_gradient = isinstance(observation.cell.spec, GradientMethod)
        return not is_gradient or (observation.engine == self.engine and observation.device == self.device)

    def predict(self, cell: Cell) -> Prediction:
        """The time of one replicate of a cell."""
        key = family(cell), features(cell)
        if key not in self._cache:
            known = self._families.get(key[0])
            self._cache[key] = (0.0, UNKNOWN_SCATTER, math.inf) if known is None else known.ratio(key[1])
        ratio, scatter, distance = self._cache[key]
        return Prediction(nominal_cost(cell, self.engine).seconds * math.exp(ratio), scatter, distance)


@dataclass(frozen=True)
class _Family:
    """Measured cells of one method family: where they lie, and the logarithm of measured over nominal there."""

    places: npt.NDArray[np.float64]  # (cells, features)
    ratios: npt.NDArray[np.float64]  # (cells,) medians
    scatters: npt.NDArray[np.float64]  # (cells,) within each cell
    counts: npt.NDArray[np.float64]  # (cells,) of replicates

    @classmethod
    def of(cls, measured: dict[tuple[float, ...], list[float]]) -> _Family:
        places = sorted(measured)
        if len(places) > _LARGEST:
            places = places[:: -(-len(places) // _LARGEST)]
        logarithms = [np.array(measured[place]) for place in places]
        return cls(
            np.array(places),
            np.array([float(np.median(values)) for values in logarithms]),
            np.array([float(np.std(values)) for values in logarithms]),
            np.array([float(len(values)) for values in logarithms]),
        )

    def ratio(self, place: tuple[float, ...]) -> tuple[float, float, float]:
        """Logarithm of measured over nominal at a place, its scatter, and the distance to the nearest measured cell."""
        distances = np.sqrt(np.sum((self.places - np.array(place)) ** 2, axis=1))  # (cells,)
        nearest = float(distances.min())
        # relative to the nearest, so that far from all of them the nearest few still decide
        weights = np.exp(-0.5 * (distances**2 - nearest**2) / BANDWIDTH**2) * np.sqrt(self.counts)
        weights /= weights.sum()
        mean = float(weights @ self.ratios)
        between = float(weights @ (self.ratios - mean) ** 2)
        within = float(weights @ self.scatters**2)
        doubt = SINGLE_SCATTER**2 / float(self.counts.sum())
        scatter = math.sqrt(between + within + doubt + FLOOR_SCATTER**2 + (DISTANCE_SCATTER * nearest) ** 2)
        return mean, min(scatter, UNKNOWN_SCATTER), nearest

    @cached_property
    def size(self) -> int:
        """Number of measured cells."""
        return len(self.ratios)


def family(cell: Cell) -> str:
    """Methods whose costs have one shape: all gradient methods together (per number type), each solver by itself."""
    return f"gradient {cell.dtype}" if isinstance(cell.spec, GradientMethod) else cell.method


def features(cell: Cell) -> tuple[float, ...]:
    """Where a cell lies among cells of its family: natural logarithms of what its cost depends on."""
    size = 0.5 * math.log(cell.d_out * cell.d_in)
    method = cell.spec
    if not isinstance(method, GradientMethod):
        depth = math.log(cell.depth or 64) if "depth" in method.fields else 0.0
        length = 0.2 * math.log(cell.flow_duration) if "flow_duration" in method.fields else 0.0
        return tuple(round(value, 6) for value in (size, 0.5 * math.log(cell.n), depth, length))
    drawn = {"drawn": cell.batch_size or cell.n, "full": cell.n, "one": 1}[method.batch]
    steps = 0.1 * math.log(cell.steps)  # nearly proportional to them, so they hardly set cells apart
    values = (size, 0.3 * math.log(cell.n), 0.5 * math.log(cell.depth), 0.5 * math.log(drawn), steps)
    return tuple(round(value, 6) for value in values)


def total(parts: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The sum of predicted seconds, and the scatter of its logarithm; parts that err alike err together.

    Args:
        parts: (seconds, scatter) of each.
    """
    seconds = sum(part for part, _ in parts)
    return seconds, (sum(part * scatter for part, scatter in parts) / seconds if seconds else 0.0)


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3.5 h, 2.1 days."""
    if seconds < 0.05:
        return "0 s"
    for limit, unit, length in ((90, "s", 1.0), (90 * 60, "min", 60.0), (48 * 3600, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / length:.2g} {unit}" if seconds / length < 9.95 else f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86400:.3g} days"
