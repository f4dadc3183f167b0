"""A search whose trials Ray Tune's own scheduler may stop, such as ASHA: trials start as slots become free, no rounds.

The store is authoritative: each suggestion is recorded before it runs, and each stopped cell with the step and the
value at which it was stopped. Tune's own state is not kept. When a search resumes, its searcher receives all results
again, while its scheduler starts with empty rungs.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from flatdist.errors import LaunchError
from flatdist.launch.progress.state import Event, TrialStopped
from flatdist.launch.ray.trial import IDENTITY, NUMBER, Task, named, suggested_trial, trial_name
from flatdist.launch.ray.tune import Work
from flatdist.planning.forecast import nominal_seconds
from flatdist.planning.work import Shard, WorkItem
from flatdist.sweepfile.choices import TUNE_NAMES
from flatdist.sweeps.metric import cell_value
from flatdist.sweeps.rounds import Request, Round, RoundLog, Rung
from flatdist.sweeps.searchers import Told

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.sweeps.search import Search

Place = tuple[int, int]  # number of the round, and of the request within it


class Suggested(Work):
    """The work of such a search, after the rounds so far; replicates that failed in earlier runs may be rerun, once."""

    def __init__(self, search: Search, log: RoundLog, store: Store, *, retry_failed: bool = False) -> None:
        self._search, self._log, self._store = search, log, store
        self._searcher = search.made_searcher(log.rounds, store)
        self._asked = {request.cell.cell_id for request in log.requests()}
        self._running: dict[str, Place] = {}
        self.reported: dict[str, Mapping[str, Any]] = {}  # trial -> its last report; Tune stops a paused one without it
        self._numbers: dict[Place, int] = {}
        self._new: deque[tuple[int, Shard]] = deque()  # Tune's thread appends, the driver's takes
        self._events: deque[Event] = deque()
        done, failed = store.done(list(self._asked)), {} if retry_failed else store.failed(list(self._asked))
        self._left = [
            place
            for place, item in self._requested()
            if not {*item.replicates} <= {*done.get(item.cell.cell_id, ())} | {*failed.get(item.cell.cell_id, ())}
        ]

    def _requested(self) -> Iterator[tuple[Place, WorkItem]]:
        """The requested work that was not stopped, with its places."""
        for number, one in enumerate(self._log.rounds):
            stopped = one.stopped()
            for index, request in enumerate(one.requests):
                if index not in stopped:
                    yield (number, index), WorkItem(request.cell, request.replicates)

    @property
    def count(self) -> int:
        """Number of trials left to run."""
        return len(self._left) + max(0, self._search.budget - len(self._asked))

    @property
    def ended(self) -> int:
        """Replicates that are stored, and those of cells that were stopped early."""
        stopped = sum(len(one.requests[index].replicates) for one in self._log.rounds for index in one.stopped())
        items = self.items()
        done = self._store.done([item.cell.cell_id for item in items])
        return stopped + sum(len(done.get(i.cell.cell_id, set()) & set(i.replicates)) for i in items)

    def items(self) -> list[WorkItem]:
        """The requested work that was not stopped."""
        return [item for _, item in self._requested()]

    def shards(self) -> Mapping[int, Shard]:
        """The shards suggested since the last call."""
        return dict(self._new.popleft() for _ in range(len(self._new)))

    def events(self) -> Sequence[Event]:
        """The trials stopped since the last call."""
        return [self._events.popleft() for _ in range(len(self._events))]

    def tuner(self, task: Task, slots: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """A trainable of one cell, with a searcher and a scheduler of Tune's."""
        from ray import tune

        trainable = tune.with_parameters(suggested_trial, replicates=tuple(range(self._search.replicates)), task=task)
        asked = {"search_alg": self._tune_searcher(), "scheduler": self._scheduler()}
        return trainable, {}, {**asked, "num_samples": self.count, "max_concurrent_trials": slots, **named(trial_name)}

    def number(self, config: Mapping[str, Any]) -> int:
        """Stands in the trial's configuration."""
        return int(config[NUMBER])

    def _scheduler(self) -> Any:
        """Tune's scheduler, by default with rungs that fit the trainings.

        ASHA and the median rule count steps. HyperBand counts evaluations: if it counted steps, its first bracket alone
        would need thousands of trials. A bracket's survivors train to the end, since a cell is stored only then.
        """
        from ray import tune

        choice = self._search.scheduler
        assert choice is not None
        steps, evaluations = self._search.longest
        defaults: dict[str, Any] = {
            "asha": {"time_attr": "step", "max_t": steps, "grace_period": max(1, steps // 9), "reduction_factor": 3},
            "median": {"time_attr": "step", "grace_period": max(1, steps // 9)},
        }.get(choice.name, {"time_attr": "training_iteration", "max_t": max(2, evaluations), "stop_last_trials": False})
        options = defaults | dict(choice.options)
        try:
            return tune.create_scheduler(
                TUNE_NAMES[choice.name], metric=self._search.metric.reported, mode=self._search.mode, **options
            )
        except (AssertionError, TypeError, ValueError) as error:
            raise LaunchError(f"search.scheduler: {choice.name} cannot be made with {options}: {error}") from error

    def _tune_searcher(self) -> Any:
        """The searcher that Tune calls for the next trial; Tune pickles it with its own state, which is never read."""
        from ray.tune.search import Searcher

        class FromStore(Searcher):  # type: ignore[misc]
            work: Suggested | None = None  # of the one that Tune asks; its pickled copies have none

            def suggest(self, trial_id: str) -> Any:
                return None if self.work is None else self.work.suggest(trial_id, Searcher.FINISHED)

            def on_trial_result(self, trial_id: str, result: Any) -> None:
                if self.work is not None:
                    self.work.reported[trial_id] = result

            def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
                if self.work is not None:
                    self.work.complete(trial_id, result or self.work.reported.get(trial_id, {}), error=error)

            def on_pause(self, trial_id: str) -> None:
                """Asked by HyperBandForBOHB."""

            on_unpause = on_pause

            def save(self, checkpoint_path: str) -> None:
                """The store has it all."""

            def __getstate__(self) -> dict[str, Any]:
                return {}

            def __deepcopy__(self, memo: Any) -> FromStore:
                return self

        searcher = FromStore(metric=self._search.metric.reported, mode=self._search.mode)
        searcher.work = self
        return searcher

    def suggest(self, trial_id: str, finished: str) -> dict[str, Any] | str | None:
        """The next trial's configuration: first what an earlier run left, then the searcher's suggestions."""
        if self.stopping:
            return None
        if self._left:
            place = self._left.pop(0)
        elif len(self._asked) >= self._search.budget:
            return finished
        else:
            new = self._search.next_request(self._searcher, self._asked)
            if new is None:  # a searcher that waits for results, or domains without new cells
                return None if self._running else finished
            place = self._record(new)
        request = self._log.rounds[place[0]].requests[place[1]]
        number = self._numbers.setdefault(place, len(self._numbers))
        seconds = len(request.replicates) * nominal_seconds(request.cell)
        self._new.append((number, Shard((WorkItem(request.cell, request.replicates),), seconds)))
        self._running[trial_id] = place
        words = {name: value for name, value in request.cell.words().items() if value is not None}
        return {**words, IDENTITY: request.cell.cell_id, NUMBER: number}

    def _record(self, request: Request) -> Place:
        """Record a suggestion before it runs, in rounds of the usual size, although nothing waits for them to end."""
        rounds = self._log.rounds
        if not rounds or len(rounds[-1].requests) >= self._search.round_size:
            self._log.add(Round((request,)))
        else:
            last = rounds[-1]
            self._log.replace_round(len(rounds) - 1, dataclasses.replace(last, requests=(*last.requests, request)))
        return len(rounds) - 1, len(rounds[-1].requests) - 1

    def complete(self, trial_id: str, result: Mapping[str, Any], *, error: bool) -> None:
        """Learn from a trial that has ended by itself or was stopped by the scheduler."""
        place = self._running.pop(trial_id, None)
        if place is None or self.stopping:
            return
        search, (number, index) = self._search, place
        request = self._log.rounds[number].requests[index]
        if error or "failed" in result:
            self._searcher.tell(Told(request.note, search.worst))
        elif "stored" in result:
            found = search.metric.values(self._store, [request.cell.cell_id], guide=True)
            value = cell_value(found.get(request.cell.cell_id, {}), request.replicates, search.worst)
            self._searcher.tell(Told(request.note, value))
        elif (reported := search.metric.reported) is not None and reported in result:
            step, value = int(result["step"]), float(result[reported])
            one = self._log.rounds[number]
            rung = Rung(step, {index: value}, (index,))
            self._log.replace_round(number, dataclasses.replace(one, rungs=(*one.rungs, rung)))
            self._searcher.tell(search.told_stopped(request, {step: value}))
            self._events.append(TrialStopped(self._numbers[place]))
