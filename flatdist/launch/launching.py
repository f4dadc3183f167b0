"""From a plan to rows in the store."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flatdist.errors import StoreError, counted
from flatdist.launch.interrupt import WORK_SECONDS, Interrupts, StopNow
from flatdist.launch.progress.display import Display, make_display
from flatdist.launch.progress.state import SUCCESS_TOLERANCE, Event, Notice, Progress, Skipped
from flatdist.launch.ray.cluster import ClusterSession, check_nodes, is_connected
from flatdist.launch.ray.scheduled import Suggested
from flatdist.launch.ray.tune import Shards, Work, check_loggers, run_round, same_error, split
from flatdist.launch.worker import failure_rows, paused_keys, run_shard
from flatdist.machine import logs
from flatdist.planning.settings import Settings
from flatdist.planning.sharding import in_pieces
from flatdist.planning.work import Key, Shard, keys_in
from flatdist.store import drivers

if TYPE_CHECKING:
    from flatdist.launch.parts import Part
    from flatdist.planning import Plan
    from flatdist.store import Store
    from flatdist.sweeps.rounds import RoundLog
    from flatdist.sweeps.search import Search

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
TRIES = 3  # of work that two drivers leave to each other


def launch(
    plan: Plan,
    store_uri: str | os.PathLike[str],
    *,
    settings: Settings | None = None,
    display: Display | str = "auto",
    part: Part | None = None,
    wait: bool = False,
) -> LaunchResult:
    """Run every missing replicate of a plan and store its rows.

    Other launches may run the same work at the same time: each skips what another is running or has stored. A second
    launch begins at the other end of the work, and each part of a job array at its own place.

    Args:
        plan: its shards are run.
        store_uri: a folder or the URI of an object store.
        settings: how to run them; None for those that the plan was made with.
        display: the progress display, or its kind: auto, live, plain or none.
        part: which job of an array this is.
        wait: wait until all of the work has ended, whoever runs it, instead of leaving the last of it to others.

    Returns:
        Counts read from the store afterwards. SIGINT and SIGTERM end a launch within seconds; finished rows are stored,
        and the same call runs the rest.

    Raises:
        LaunchError: the executor, the cluster or a device is not available; nothing was started.
        StoreError: the store cannot be used.
    """
    from flatdist.trials.train import planned_steps

    settings, store, shown = _begun(settings or plan.settings, store_uri, display)
    shards = list(plan.shards)
    if settings.trials == "cells":
        shards = [Shard((item,), plan.forecast.item_seconds(item)) for item in plan.items]
    names = [sweep.name for sweep in plan.sweeps]
    with drivers.Driver(store, sweeps=names, tidies=True) as driver:
        cells = {cell.cell_id: cell for cell in plan.cells}
        beside = [one for one in driver.others() if one.sweeps & {*names} or any(key[0] in cells for key in one.keys)]
        if settings.executor == "inline":
            engine = plan.settings.expected_engine
            shards = in_pieces(shards, engine, settings.threads, part.count if part else 1 + len(beside))
        turned = part is None and sum(bool(one.sweeps) for one in beside) % 2 == 1
        if beside and shards and part is None:
            end = "starts from the other end of the work and " if turned else ""
            ago = f"another driver wrote to this sweep {min(one.age for one in beside):.0f} s ago"
            shown.message(f"{ago}; this one {end}skips what is done")
        if turned:
            shards = [dataclasses.replace(shard, items=shard.items[::-1]) for shard in reversed(shards)]
        elif part is not None:
            first = len(shards) * (part.number - 1) // part.count
            shards = shards[first:] + shards[:first]
        planned = planned_steps((item.cell, len(item.replicates)) for shard in shards for item in shard.items)
        settings = dataclasses.replace(settings, launch=driver.launch, planned_steps=planned)
        progress = Progress(cells, sum(shard.replicates for shard in plan.shards) + plan.done, plan.done)
        if plan.done:
            add_stored(progress, store)
        run = _Launch(shards, store, driver, settings, shown, progress, wait=wait)
        return run.inline() if settings.executor == "inline" else run.ray()


def launch_scheduled(
    search: Search, rounds: RoundLog, store: Store, settings: Settings, display: Display | str = "auto"
) -> LaunchResult:
    """Run the cells that a search chooses and ``rounds`` record through Ray Tune, whose scheduler stops trials early.

    Raises:
        LaunchError, StoreError: as for :func:`launch`.
    """
    work = Suggested(search, rounds, store, retry_failed=settings.retry_failed)
    settings, store, shown = _begun(dataclasses.replace(settings, trials="cells"), store.uri, display)
    cells = {item.cell.cell_id: item.cell for item in work.items()}
    progress = Progress(cells, search.budget * search.replicates, work.ended)
    with drivers.Driver(store, tidies=True) as driver:
        settings = dataclasses.replace(settings, launch=driver.launch)
        return _Launch([], store, driver, settings, shown, progress).scheduled(work)


def _begun(
    settings: Settings, store_uri: str | os.PathLike[str], display: Display | str
) -> tuple[Settings, Store, Display]:
    """What every launch begins with: settings as workers get them, a store that can be written, and the display."""
    from flatdist.store import Store

    if settings.executor == "ray":
        check_loggers(settings.loggers, settings.trials)
    settings = settings.for_workers()
    logs.configure(settings.log_level, settings.log_file)
    store = Store(store_uri)
    store.check_access()
    return settings, store, make_display(display) if isinstance(display, str) else display


def add_stored(progress: Progress, store: Store) -> int:
    """Fill the diagram with the rows that the store holds; returns the SGD steps behind them."""
    columns = ["cell_id", "replicate", "relative_error", "steps_run"]
    rows = store.trials(list(progress.cells), columns=columns)
    success = (rows["relative_error"] < SUCCESS_TOLERANCE).groupby(rows["cell_id"])
    for cell_id, successes, stored in zip(success.sum().index, success.sum(), success.size(), strict=True):
        progress.known(str(cell_id), int(successes), int(stored))
    return int(rows["steps_run"].sum())


@dataclass
class _Launch:
    """One launch: its shards, its store and what became of them."""

    shards: Sequence[Shard]
    store: Store
    driver: drivers.Driver
    settings: Settings
    display: Display
    progress: Progress
    wait: bool = False

    def __post_init__(self) -> None:
        self._start = time.monotonic()
        self._want(self.shards)
        done = self._done()  # another driver may have ended since the plan was made
        left = (shard.keeping(lambda key: key not in done) for shard in self.shards)
        self.shards = [shard for shard in left if shard.items]
        self._failed_before = self.store.failed(self._cell_ids)

    def _want(self, shards: Sequence[Shard]) -> None:
        """Note what this launch is to run."""
        self.shards = shards
        self._keys = {key for shard in shards for key in shard.keys}
        self._cell_ids = list({cell_id for cell_id, _ in self._keys})

    def inline(self) -> LaunchResult:
        """Run the shards one after another in this process, with the worker of the Tune trials."""
        progress, settings = self.progress, self.settings
        stopped: str | None = None
        lock = threading.Lock()  # rows that waited long are stored, and reported, by a thread

        def report(event: Event) -> None:
            nonlocal stopped
            with lock:
                progress.apply(event)
                if isinstance(event, Notice):
                    self.display.message(event.text)
                stopped = stopped or same_error(progress, settings)
                self.display.update(progress)

        def should_stop() -> bool:
            with lock:
                self.display.update(progress)
            return interrupts.requested or stopped is not None

        self.display.start(progress)
        try:
            with Interrupts(WORK_SECONDS) as interrupts, contextlib.suppress(StopNow):  # what was finished is stored
                for numbered in self._one_by_one():
                    if should_stop():
                        break
                    if numbered is not None:
                        run_shard(
                            numbered[1], self.store.uri, settings, report, number=numbered[0],
                            should_stop=should_stop, device=settings.expected_device, driver=self.driver,
                        )  # fmt: skip
        except StoreError as error:
            self.display.message(f"the store stopped accepting rows: {error}")
            raise
        finally:
            self.display.stop(progress)
        return self._result(interrupts.requested, stopped)

    def _one_by_one(self) -> Iterator[tuple[int, Shard] | None]:
        """All shards, then the parts that nobody has run; None while others are running them."""
        self.progress.expect(enumerate(self.shards))
        for number, shard in enumerate(self.shards):
            failed = self._failed() if self.driver.others() else set()  # others' failures are not tried again either
            left = shard.keeping(lambda key: key not in failed)  # noqa: B023 - called at once
            if skipped := shard.replicates - left.replicates:
                self.progress.apply(Skipped(number, skipped))
            if left.items:
                yield number, left
        number = len(self.shards)
        for free in self._left():
            self.progress.expect(enumerate(free, start=number))
            yield from enumerate(free, start=number)
            number += len(free)
            if not free:
                yield None

    def _left(self) -> Iterator[list[Shard]]:
        """The missing work that nobody is running, twice at most; empty while all of it is running elsewhere."""
        before: set[Key] = set()
        tries = 0
        waiting_since: float | None = None
        while missing := self._missing():
            free = missing - self.driver.elsewhere()
            tries = tries + 1 if free == before else 0
            if free and tries >= (TRIES if self.driver.shared else 1):
                return
            if free:
                before, waiting_since = free, None
                time.sleep(random.uniform(0.0, POLL_SECONDS * tries))  # noqa: S311 - so that two do not stay in step
                yield [part for shard in self.shards for part in split(shard.keeping(free.__contains__))]
                continue
            now = time.monotonic()
            if waiting_since is None:
                waiting_since = now
                self.display.message(f"waiting for {counted(len(missing), 'replicate')} that other drivers are running")
            if not self.wait and now - waiting_since > drivers.LEASE_SECONDS + 2 * drivers.BEAT_SECONDS:
                return
            time.sleep(POLL_SECONDS)
            yield []

    def ray(self) -> LaunchResult:
        """Run as Tune trials; shards whose processes died repeatedly run once more in parts."""
        return self._result(*(self._on_cluster(self._passes) if self.shards else (False, None)))

    def scheduled(self, work: Suggested) -> LaunchResult:
        """Run what a search suggests as Tune trials."""
        ended: tuple[bool, str | None] = (False, None)
        if work.count:
            ended = self._on_cluster(lambda session, interrupts: self._pass(work, session, interrupts)[1])
        self._want([Shard((item,), 0.0) for item in work.items()])
        return self._result(*ended)

    def _on_cluster(self, run: Callable[[ClusterSession, Interrupts], str | None]) -> tuple[bool, str | None]:
        """Connect to Ray, check its nodes, and run; whether it was interrupted, and why it stopped itself."""
        if not is_connected():
            alone = self.settings.cluster is None
            self.display.message("starting Ray (5 to 20 s)" if alone else "joining the Ray cluster")
        stopped = None
        with Interrupts(patience=0.0) as interrupts:  # until something runs there is nothing to wait for
            try:
                with ClusterSession(self.settings) as session:
                    interrupts.install()
                    if not session.own or self.settings.device == "cuda":
                        check_nodes(session, self.store.uri, self.settings)
                    note = session.check_resources()
                    if note is not None:
                        self.display.message(note)
                    slots = self.progress.slots = session.slots()
                    self.display.message(f"Ray is up after {time.monotonic() - self._start:.0f} s: {slots} slots")
                    self.display.start(self.progress)
                    interrupts.patience = None
                    self.store.shorten_waits_when(lambda: interrupts.requested)
                    try:
                        stopped = run(session, interrupts)
                    finally:
                        self.display.stop(self.progress)
            except StopNow:
                pass
            except KeyboardInterrupt:  # a signal that Ray had taken for its own
                interrupts.requested = True
        return interrupts.requested, stopped

    def _passes(self, session: ClusterSession, interrupts: Interrupts) -> str | None:
        number, stopped = 0, None
        errors: dict[int, str] = {}
        for shards in itertools.chain([self.shards], self._left()):
            if shards:
                if number:
                    self.display.message(f"retrying {len(shards)} unfinished shard parts")
                    log.warning("retrying %d unfinished shard parts", len(shards))
                    self.settings = dataclasses.replace(self.settings, trials="packs", loggers=())
                work = Shards(dict(enumerate(shards, start=number)), cells=self.settings.trials == "cells")
                errors, stopped = self._pass(work, session, interrupts)
                number += len(shards)
            if interrupts.requested or stopped is not None:
                return stopped
        return self._give_up(errors)

    def _pass(self, work: Work, session: ClusterSession, interrupts: Interrupts) -> tuple[dict[int, str], str | None]:
        return run_round(session, work, self.store.uri, self.settings, self.progress, self.display, interrupts)

    def _give_up(self, errors: Mapping[int, str]) -> str | None:
        """Record replicates whose processes died every time, or say why others are missing."""
        missing = self._missing() - self.driver.elsewhere()
        error = Counter(errors.values()).most_common(1)[0][0] if errors else "no reason is known"
        if not missing or "StoreError" in error or "LaunchError" in error:
            return error if missing else None
        tries = 2 * self.settings.max_deaths
        message = f"the process or node that ran it died {tries} times, perhaps out of memory: {error}"
        log.error("gave up on %d replicates whose processes died %d times: %s", len(missing), tries, error)
        self.store.write_failures(failure_rows(self.store, sorted(missing), "WorkerDied", message))
        return None

    def _done(self) -> set[Key]:
        """Stored replicates."""
        return self._keys & keys_in(self.store.done(self._cell_ids))

    def _failed(self) -> set[Key]:
        """Replicates with a failure recorded since this launch began."""
        before = self._failed_before
        return {
            (cell_id, replicate)
            for cell_id, failures in self.store.failed(self._cell_ids).items()
            for replicate, count in failures.items()
            if count > before.get(cell_id, {}).get(replicate, 0)
        }

    def _paused(self) -> set[Key]:
        """Replicates that have paused at their rung, according to the store."""
        return paused_keys(self.store, [item for shard in self.shards for item in shard.items])

    def _missing(self) -> set[Key]:
        """Replicates that the store has neither results nor failures of."""
        return self._keys - self._done() - self._failed() - self._paused()

    def _result(self, interrupted: bool, stopped: str | None) -> LaunchResult:
        stored = self._done()
        failed = (self._keys & self._failed()) - stored
        paused = self._paused() - stored - failed
        missing = self._keys - stored - failed - paused
        result = LaunchResult(
            ran=self.progress.stored,
            elsewhere=len(missing & self.driver.elsewhere()),
            wanted=len(self._keys),
            stored=len(stored),
            failed=len(failed),
            interrupted=interrupted,
            stopped=stopped,
            seconds=time.monotonic() - self._start,
            paused=len(paused),
        )
        self.display.message(result.summary())
        log.info("%s", result.summary())
        return result


@dataclass(frozen=True)
class LaunchResult:
    """Counts of replicates, read from the store after everything has ended."""

    wanted: int  # that this launch was to run
    stored: int  # those of them that are in the store now
    failed: int  # those that ended in a recorded failure
    interrupted: bool = False  # the user stopped the sweep
    stopped: str | None = None  # why the sweep stopped itself
    seconds: float = 0.0  # wall time
    paused: int = 0  # that wait at a rung of early stopping; they have a checkpoint and no row
    elsewhere: int = 0  # missing ones that other drivers are running
    ran: int = 0  # that this launch has run and stored

    @property
    def missing(self) -> int:
        """Replicates that neither finished nor failed; rerunning the command runs them."""
        return self.wanted - self.stored - self.failed - self.paused - self.elsewhere

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some replicates failed or are missing, 130 interrupted."""
        if self.interrupted:
            return 130
        return 0 if self.stored + self.paused + self.elsewhere == self.wanted else 1

    def summary(self) -> str:
        """How it ended and how to continue, in one or two lines."""
        counts = f"{self.stored} of {self.wanted} replicates are stored"
        if self.paused:
            counts += f", {self.paused} paused"
        if self.elsewhere:
            counts += f", {self.elsewhere} are running in other drivers"
        if self.failed:
            counts += f", {self.failed} failed"
        if self.interrupted:
            return f"interrupted: {counts}; rerun the command to continue with the other {self.missing}"
        if self.stopped is not None:
            return f"stopped: {self.stopped}\n{counts}; once that is fixed, rerun the command with --retry-failed"
        if self.missing:
            counts += f"; rerun the command for the {self.missing} that are missing"
        elif self.failed:
            counts += "; 'flatdist failures' shows why, --retry-failed reruns them"
        return counts
