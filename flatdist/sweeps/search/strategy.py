"""A ``search`` as a strategy: earlier points and their stored results in, the next round of cells out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from flatdist.sweeps.search.metric import cell_value
from flatdist.sweeps.search.rounds import Request, Round
from flatdist.sweeps.search.searchers import SEARCHERS, Told
from flatdist.sweeps.search.spec import Search

if TYPE_CHECKING:
    from flatdist.store import Store

TRIES = 50  # suggestions in a row that bring no new cell, after which the domains count as exhausted


class SearchStrategy:
    """Suggests cells until the budget is spent or the searcher has nothing new to say.

    Args:
        search: what is searched.
        replicates: of each cell.
    """

    def __init__(self, search: Search, replicates: int) -> None:
        self.search, self.replicates = search, replicates

    def next_round(self, rounds: Sequence[Round], store: Store) -> list[Request]:
        """The next cells; none that was asked for before."""
        search = self.search
        asked = {request.cell.cell_id for one in rounds for request in one.requests}
        count = min(search.round_size, search.budget - len(asked))
        if count <= 0:
            return []
        searcher = SEARCHERS[search.searcher](search, self.told(rounds, store), len(rounds))
        wanted = tuple(range(self.replicates))
        requests: list[Request] = []
        misses = 0
        while len(requests) < count and misses < TRIES + len(asked):
            point = searcher.suggest()
            cell = search.cell(point)
            if cell is None or cell.cell_id in asked:
                misses += 1
                continue
            misses = 0
            asked.add(cell.cell_id)
            requests.append(Request(cell, wanted, point))
        return requests

    def told(self, rounds: Sequence[Round], store: Store) -> list[Told]:
        """Every earlier point with its result, in the order in which they were asked for."""
        search = self.search
        ids = [request.cell.cell_id for one in rounds for request in one.requests]
        values = search.metric.values(store, ids, guide=True) if ids else {}
        told = []
        for one in rounds:
            stopped = one.stopped() if search.early_stopping is not None else {}
            for index, request in enumerate(one.requests):
                if index in stopped:
                    rungs = tuple(rung.values[index] for rung in one.rungs if index in rung.values)
                    told.append(Told(request.note, stopped[index].value, rungs))
                else:
                    found = values.get(request.cell.cell_id, {})
                    told.append(Told(request.note, cell_value(found, request.replicates, search.worst)))
        return told
