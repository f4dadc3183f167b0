"""What a plan predicts, and from which measurements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flatdist.cells.cell import Cell
from flatdist.planning.cost import Z90, CostModel, Interval, Prediction, total
from flatdist.planning.observations import Probe, TimedStore, probe_observations, stored_observations
from flatdist.planning.work import WorkItem


class Forecast:
    """Predicts work items.

    Args:
        model: the fitted cost model.
        basis: where its measurements come from, in words.
    """

    def __init__(self, model: CostModel, basis: str) -> None:
        self.model, self.basis = model, basis
        self._cache: dict[str, Prediction] = {}

    def replicate(self, cell: Cell) -> Prediction:
        """The time of one replicate of a cell."""
        if cell.cell_id not in self._cache:
            self._cache[cell.cell_id] = self.model.predict(cell)
        return self._cache[cell.cell_id]

    def item_seconds(self, item: WorkItem) -> float:
        """Predicted seconds of an item on one slot."""
        return self.replicate(item.cell).seconds * len(item.replicates)

    def interval(self, items: Sequence[WorkItem]) -> Interval:
        """Predicted seconds of all items on one slot."""
        predictions = [(self.replicate(item.cell), len(item.replicates)) for item in items]
        seconds, scatter = total([(one.seconds * count, one.scatter) for one, count in predictions])
        return Interval(seconds * math.exp(-Z90 * scatter), seconds, seconds * math.exp(Z90 * scatter))


def make_forecast(
    items: Sequence[WorkItem], store: TimedStore, engine: str, device: str, probe: Probe | None
) -> Forecast:
    """Fit the cost model to the store's wall times, and to probes of kinds of cells that it says nothing about."""
    stored = stored_observations(store) if items else []
    model = CostModel(stored, engine, device)
    cells = [item.cell for item in items]
    probed = probe_observations(cells, model, probe) if probe is not None else []
    if probed:
        model = CostModel([*stored, *probed], engine, device)
    forecast = Forecast(model, "nothing to run")
    known = sum(math.isfinite(forecast.replicate(cell).distance) for cell in cells)
    sources = []
    if stored and known:
        sources.append("times in the store")
    if probed:
        sources.append(f"{len(probed)} short probe{'s' if len(probed) > 1 else ''}")
    if known < len(cells):
        sources.append(f"nominal costs for {len(cells) - known} of {len(cells)} cells")
    forecast.basis = " and ".join(sources) or forecast.basis
    return forecast
