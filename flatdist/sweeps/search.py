"""Searches: sweeps that suggest their cells, round after round, from what the store holds."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import Cell
from flatdist.errors import SweepError
from flatdist.expressions import Expression
from flatdist.sweepfile.blocks import Block
from flatdist.sweepfile.choices import Choice, Domain, require_packages
from flatdist.sweepfile.declaration import EarlyStopping
from flatdist.sweepfile.expand import Expansion, expand
from flatdist.sweepfile.problems import Problems
from flatdist.sweeps.early_stopping import Halving
from flatdist.sweeps.metric import Metric, cell_value, rank
from flatdist.sweeps.rounds import Request, Round, RoundLog, Stopped, recorded_rounds
from flatdist.sweeps.searchers import Searcher, Space, Told, make_searcher
from flatdist.sweeps.sweep import Outlook, Rounds, Runner, Sweep

if TYPE_CHECKING:
    from flatdist.store import Store

TRIES = 50  # suggestions in a row that bring no new cell, after which the domains count as exhausted


@dataclass(frozen=True, repr=False, eq=False, kw_only=True)
class Search(Sweep, Space):
    """Suggests cells until the budget is spent or the searcher has no new ones."""

    block: Block  # the fixed fields and conditions that every suggestion is completed with
    metric: Metric  # what is best
    early_stopping: EarlyStopping | None = None  # when cells are stopped early, in rounds
    scheduler: Choice | None = None  # Ray Tune's, which stops cells as they report, without rounds
    chooses = True

    def check(self, without_ray: str | None) -> None:
        """Reject a searcher whose package is missing, and Ray Tune's scheduler on a run without Ray."""
        require_packages(self.searcher)
        if self.scheduler is not None and without_ray is not None:
            why = f"search.scheduler is Ray Tune's, and {without_ray} runs without Ray"
            raise SweepError(f"{why}; use early_stopping there")

    @property
    def searched(self) -> tuple[Domain, ...]:
        """Its domains."""
        return self.domains

    @property
    def fixed(self) -> Mapping[str, Any]:
        """The values of fields that are not searched."""
        return {name: entry.value for name, entry in self.block.fixed.items()}

    @property
    def stops(self) -> bool:
        """Whether cells may be stopped early."""
        return self.early_stopping is not None or self.scheduler is not None

    @property
    def longest(self) -> tuple[int, int]:
        """Steps of the longest training there may be, and the most evaluations of one."""
        ends = ({one.field: one.corners()[end] for one in self.domains} for end in (0, -1))
        cells = [cell for point in ends if (cell := self.cell(point)) is not None]
        return max((c.steps for c in cells), default=1), max((c.evaluations for c in cells), default=1)

    @property
    def worst(self) -> float:
        """The worst value of the metric."""
        return float("inf") if self.mode == "min" else float("-inf")

    def cell(self, point: Mapping[str, Any]) -> Cell | None:
        """The cell of a suggestion; None if a condition excludes it or no trial could run it."""
        expansion = Expansion()
        problems = Problems("search")
        self.expand(point, expansion, problems)
        return None if problems.found else next(iter(expansion.cells.values()), None)

    def expand(self, point: Mapping[str, Any], into: Expansion, problems: Problems) -> None:
        """Add the cell of a suggestion to an expansion, and its problems to ``problems``."""
        block = dataclasses.replace(self.block, fixed={**self.block.fixed}, unusable={*self.block.unusable})
        for domain in self.domains:
            block.fix(domain.field, point[domain.field], f"search.fields.{domain.field}", domain.line, problems)
        expand(block, into, problems)

    @property
    def identity(self) -> str:
        """Hash of everything that determines which cells it requests: not of budget, replicates, rounds or stopping."""
        content = {
            "fixed": {name: _plain(entry.value) for name, entry in sorted(self.block.fixed.items())},
            "where": sorted(condition.value.text for condition in self.block.conditions),
            "fields": sorted(domain.plain() for domain in self.domains),
            "searcher": self.searcher.plain,
            "metric": self.metric.text,
            "mode": self.mode,
            "seed": self.seed,
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:20]

    @property
    def ranking(self) -> tuple[Metric, str]:
        """What it searches for."""
        return self.metric, self.mode

    def next_round(self, rounds: Sequence[Round], store: Store) -> list[Request]:
        """The next cells, none of which was suggested before."""
        asked = {request.cell.cell_id for one in rounds for request in one.requests}
        count = min(self.round_size, self.budget - len(asked))
        if count <= 0:
            return []
        searcher = self.made_searcher(rounds, store)
        requests: list[Request] = []
        while len(requests) < count and (request := self.next_request(searcher, asked)) is not None:
            requests.append(request)
        return requests

    def made_searcher(self, rounds: Sequence[Round], store: Store) -> Searcher:
        """A searcher that knows everything that has ended."""
        return make_searcher(self, self.told(rounds, store), len(rounds), self.longest[0])

    def next_request(self, searcher: Searcher, asked: set[str]) -> Request | None:
        """The next suggestion that is a new cell, which is added to those requested; None if there is none."""
        for _ in range(TRIES + len(asked)):
            point = searcher.suggest()
            if point is None:
                return None
            cell = self.cell(point)
            if cell is not None and cell.cell_id not in asked:
                asked.add(cell.cell_id)
                return Request(cell, tuple(range(self.replicates)), point)
        return None

    def told(self, rounds: Sequence[Round], store: Store) -> list[Told]:
        """Every earlier point with its result, in the order of suggestion."""
        ids = [request.cell.cell_id for one in rounds for request in one.requests]
        values = self.metric.values(store, ids, guide=True) if ids else {}
        told = []
        for one in rounds:
            stopped = one.stopped() if self.stops else {}
            for index, request in enumerate(one.requests):
                if index in stopped:
                    rungs = {rung.step: rung.values[index] for rung in one.rungs if index in rung.values}
                    told.append(self.told_stopped(request, rungs))
                elif request.cell.cell_id in values or self.scheduler is None:
                    found = values.get(request.cell.cell_id, {})
                    told.append(Told(request.note, cell_value(found, request.replicates, self.worst)))
        return told

    def told_stopped(self, request: Request, rungs: Mapping[int, float]) -> Told:
        """What a searcher learns about a cell that was stopped early: the values compared at each rung."""
        value = rungs[max(rungs)]
        return Told(request.note, value, rungs, self.metric.guess(value, request.cell.steps))

    def recorded(self, store: Store) -> Search:
        """The search with the cells of its recorded rounds, and which of them were stopped early."""
        rounds = recorded_rounds(store, self.name, self.identity, self.replicates)
        cells = {request.cell.cell_id: request.cell for one in rounds for request in one.requests}
        stopped: dict[str, Stopped] = {}
        if self.stops:
            for one in rounds:
                stopped |= {one.requests[index].cell.cell_id: where for index, where in one.stopped().items()}
        return dataclasses.replace(self, cells=tuple(cells.values()), stopped=stopped)

    def expected(self, store: Store) -> Search:
        """Without the cells that were stopped, and with random draws for those yet to come."""
        known = {cell.cell_id for cell in self.cells}
        left = max(0, self.budget - len(known))
        stand_ins: dict[str, Cell] = {}
        index = misses = 0
        while len(stand_ins) < left and misses < TRIES + len(known):
            cell = self.cell({domain.field: domain.drawn(self.seed, index) for domain in self.domains})
            index, misses = index + 1, misses + 1
            if cell is not None and cell.cell_id not in known and cell.cell_id not in stand_ins:
                stand_ins[cell.cell_id] = cell
                misses = 0
        if not known and not stand_ins and left:
            raise SweepError(
                f"sweep {self.name!r}: where leaves out all of {misses} suggestions that were tried; widen "
                "search.fields or loosen where"
            )
        running = [cell for cell in self.cells if cell.cell_id not in self.stopped]
        return dataclasses.replace(self, cells=(*running, *stand_ins.values()))

    def outlook(self, store: Store) -> Outlook:
        """How much of the budget is spent."""
        left = max(0, self.budget - len(self.cells))
        text = f"search: {self.name}: {len(self.cells)} of {self.budget} cells suggested so far"
        if self.stopped:
            text += f", {len(self.stopped)} of them stopped early"
        if left:
            each = "as slots become free" if self.scheduler is not None else f"{self.round_size} a round"
            text += f"; the other {left} stand in for what {self.searcher.name} will suggest, {each}"
        if self.stops:
            text += "; early stopping makes it shorter"
        return Outlook(text, may_ask=left > 0, headings=("stopped",))

    def rounds(self, store: Store, limit: int | None = None) -> Rounds:
        """Until the budget is spent; another search than the file's, as ``--where`` makes it, is not recorded."""
        search = self if limit is None else dataclasses.replace(self, budget=min(self.budget, limit))
        own = self.whole is not None and self.whole().identity == search.identity
        log = RoundLog(store, self.name, self.source, self.replicates, search.identity, keep=own)
        halving = None
        if search.early_stopping is not None:
            halving = Halving(search.early_stopping, store, search.metric, search.mode)
        return (Rounds if search.scheduler is None else _Scheduled)(
            search,
            log,
            lambda requests: f"{len(requests)} cells",
            lambda: self._best(log, store),
            halving,
            "" if own else f"{self.name}: this is not the file's search; its rounds are not recorded",
        )

    def _best(self, log: RoundLog, store: Store) -> str:
        cells = {request.cell.cell_id: request.cell for request in log.requests()}
        ranked = rank(store, list(cells), self.metric, highest=self.mode == "max") if cells else []
        if not ranked:
            return ""
        cell_id, middle, low, high, _ = ranked[0]
        values = ((domain.field, getattr(cells[cell_id], domain.field)) for domain in self.domains)
        at = ", ".join(
            f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values
        )
        found = f"{middle:.4g} (95 % interval {low:.4g} to {high:.4g})"
        return f"best so far: median {self.metric.text} {found} at {at}; 'flatdist best' ranks all"


class _Scheduled(Rounds):
    """Rounds that only record what Ray Tune's scheduler has been given."""

    strategy: Search

    def run(self, runner: Runner) -> int:
        return runner.under_scheduler(self.strategy, self.log)


def _plain(given: Any) -> Any:
    if isinstance(given, Expression):
        return {"expression": given.text}
    return [_plain(item) for item in given] if isinstance(given, tuple) else given
