"""Running sweeps: one plan for those that list their cells, then round after round of those that choose them.

The commands ``plan`` and ``sweep`` and the functions of the same names come here with the same
:class:`~flatdist.planning.Settings`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from flatdist.errors import LaunchError, SweepError, counted
from flatdist.launch.interrupt import sigterm_interrupts
from flatdist.launch.launching import LaunchResult, launch, launch_scheduled
from flatdist.launch.ray.tune import check_loggers
from flatdist.launch.rounds import INTERRUPTED, Driver
from flatdist.machine import logs
from flatdist.planning import WorkItem, keep_within, make_plan, make_probe, parse_duration, plan_items
from flatdist.planning.settings import Settings, local_gpus, unusable_gpus
from flatdist.sweeps import Changes, parse_sweep

if TYPE_CHECKING:
    from flatdist.launch.parts import Part
    from flatdist.planning import Plan
    from flatdist.planning.forecast import Forecast
    from flatdist.store import Store
    from flatdist.sweeps import Sweep
    from flatdist.sweeps.rounds import RoundLog
    from flatdist.sweeps.search import Search
    from flatdist.sweeps.sweep import Rounds

# Until the trials of a launch on a Ray that is up are at work; three times as long where it is not.
LAUNCH_SECONDS = 5.0
Tell = Callable[[str], None]


def plan_sweeps(sweeps: Sequence[Sweep], store: Store, settings: Settings, tell: Tell = lambda text: None) -> Plan:
    """The plan of several sweeps together, with stand-ins for what they have yet to choose.

    Args:
        sweeps: with the runs that the store has recorded.
        store: the results.
        settings: how much of them to run and how; the plan holds them with a device in place of ``auto``.
        tell: given a line before the first probe.

    Raises:
        SweepError: it does not fit the budget, or the budget cannot be read as a duration.
        LaunchError: the engine does not run on the device, or this machine lacks what was requested.
    """
    settings.check_here()
    settings = _with_offer(settings)
    seconds = None if settings.budget is None else parse_duration(settings.budget)
    if settings.fit and seconds is None:
        raise SweepError("--fit needs --budget: give the time that the plan is to fit")
    if settings.fit and any(sweep.outlook(store).may_ask for sweep in sweeps):
        raise SweepError("--fit cannot cut a search short, since its cells are not known yet; use --limit N")
    expected = [sweep.expected(store) for sweep in sweeps]

    def predicted(choice: Settings) -> float:
        try:
            return make_plan(expected, store, choice).time.mid
        except LaunchError:
            return math.inf

    if settings.device == "auto":
        problem = None if settings.joins_cluster else unusable_gpus()
        if problem is not None:
            tell(f"{problem}; the CPU is used")
        choice = settings.pinned("cpu" if problem is not None else None)
        if choice.device == "cuda" and settings.engine == "auto" and settings.gpus_per_trial is None:
            choice = min(choice, settings.pinned("cpu"), key=predicted)  # never the slower one by its own forecast
        settings = choice
    engine, device = settings.expected_engine, settings.expected_device
    can_probe = settings.probe and (device == "cpu" or (local_gpus() > 0 and not settings.joins_cluster))
    probe = make_probe(engine, device, settings.threads, tell) if can_probe else None
    with logs.waits.told_to(tell):
        plan = make_plan(expected, store, settings, probe=probe)
    return plan if seconds is None else keep_within(plan, seconds, fit=settings.fit)


def _with_offer(settings: Settings) -> Settings:
    """The settings with what the cluster that they join has now."""
    if not settings.joins_cluster:
        return settings
    from flatdist.launch.ray.cluster import ClusterSession

    with ClusterSession(settings) as session:
        return dataclasses.replace(settings, offer=session.offer())


def prepare(
    sweeps: Sequence[Sweep],
    store: Store,
    settings: Settings,
    changes: Changes,
    *,
    without_ray: str = "--executor inline",
    tell: Tell = lambda text: None,
) -> Plan:
    """Check that sweeps can run, plan them and record them under their names; nothing is written where they cannot.

    Args:
        sweeps, store, settings, tell: as of :func:`plan_sweeps`.
        changes: what the sweeps differ in from their files.
        without_ray: what asked for a run without Ray, in words.

    Raises:
        LaunchError: a package or a resource is missing, or a logger does not exist.
        SweepError: a search's scheduler is Ray Tune's, and the run has no Tune.
        StoreError: the store cannot be written.
    """
    settings.check_here()
    check_loggers(settings.loggers, settings.trials)
    for sweep in sweeps:
        sweep.check(None if settings.executor == "ray" else without_ray)
    store.check_access()
    plan = plan_sweeps(sweeps, store, settings, tell)
    for sweep in sweeps:
        whole = sweep
        if changes.conditions:  # all cells of the file stay recorded
            again = parse_sweep(sweep.source, path=sweep.path, name=sweep.name, changes=Changes(dict(sweep.changes)))
            whole = dataclasses.replace(again, name=sweep.name)
        if whole.record(store):
            keep_diff(store, sweep.name)
            if changes.fixed:
                tell(f"--set makes other cells; this sweep is called {sweep.name} in the store")
    return plan


def keep_diff(store: Store, name: str) -> None:
    """Store the uncommitted changes of a dirty checkout with a sweep's record."""
    from flatdist.machine.provenance import uncommitted_changes
    from flatdist.store.layout import diff_folder, digest
    from flatdist.store.location import redact

    changes = uncommitted_changes()
    if not changes:
        return
    data = redact(changes).encode()
    path = f"{diff_folder(name)}/{digest(data)}.patch"
    if not any(info.path == path for info in store.files.list(diff_folder(name))):
        store.files.write(path, data)


class Outcome(NamedTuple):
    """How the sweeps of a run ended."""

    status: int  # 0 all done, 1 some replicates failed or are missing, 130 interrupted
    missing: int  # replicates that were to run and have no result


@dataclass(frozen=True)
class Running:
    """What sweeps are run with."""

    store: Store  # results and rounds
    plan: Plan  # of all the sweeps
    display: str = "auto"  # kind of progress display
    tell: Tell = lambda text: None  # given a line about each round, and how it ended
    warn: Tell = lambda text: None  # given what the user should know before it begins
    part: Part | None = None  # which job of an array this is; each drives the same rounds and runs some of their work

    def run(self, sweeps: Sequence[Sweep]) -> Outcome:
        """Run the missing work of sweeps: those that list their cells together, then the others one after another."""
        plan, status, missing = self.plan, 0, 0
        chosen = {sweep.name: sweep.rounds(self.store, plan.settings.limit) for sweep in sweeps}
        listed = [sweep for sweep in sweeps if chosen[sweep.name] is None]
        if listed:
            if len(listed) < len(sweeps):
                plan = plan_sweeps(listed, self.store, dataclasses.replace(plan.settings, probe=False))
            missing += plan.failed
            if plan.shards:
                result = launch(plan, self.store.uri, display=self.display, part=self.part)
                status, missing = result.exit_code, missing + result.wanted - result.stored
                if self.part is not None:
                    self.warn(f"{self.part}: computed {counted(result.ran, 'replicate')}")
        for rounds in filter(None, chosen.values()):
            if status != INTERRUPTED:
                status = max(status, self._choose(rounds))
        return Outcome(status, missing)

    def _choose(self, rounds: Rounds) -> int:
        if rounds.note:
            self.warn(rounds.note)
        rounds.log.save()
        status = rounds.run(self)
        if text := rounds.outcome():
            self.tell(text)
        return status

    def under_scheduler(self, search: Search, log: RoundLog) -> int:
        """Run a search whose cells Ray Tune's scheduler stops; returns the exit status."""
        return launch_scheduled(search, log, self.store, self.plan.settings, self.display).exit_code

    def in_rounds(self, rounds: Rounds) -> int:
        """Run a sweep round by round until it requests nothing more; returns the exit status."""
        with contextlib.ExitStack() as stack:  # ends the Ray that the first round which needs one has started
            stack.enter_context(sigterm_interrupts())
            return Driver(
                rounds.strategy, rounds.log, self.store, self._launcher(stack), halving=rounds.halving,
                retry_failed=self.plan.settings.retry_failed, tell=self.tell, describe=rounds.describe,
                limit=rounds.limit,
            ).finish()  # fmt: skip

    def _launcher(self, stack: contextlib.ExitStack) -> Callable[[Sequence[WorkItem]], LaunchResult]:
        """What launches the items of a round and returns when they have ended."""
        from flatdist.launch.ray.cluster import ClusterSession

        offered, rounds, connected = self.plan.settings, 0, False
        forecast: Forecast | None = None

        def run(items: Sequence[WorkItem]) -> LaunchResult:
            nonlocal offered, forecast, rounds, connected
            rounds += 1
            if rounds & (rounds - 1) == 0:  # reading all times is worth it while they are few: rounds 1, 2, 4, 8, ...
                offered, forecast = _with_offer(self.plan.settings), None
            plan = plan_items(items, self.store, offered, forecast=forecast)
            forecast = plan.forecast
            settings = plan.settings
            if _is_short(plan, LAUNCH_SECONDS * (1 if connected else 3)):
                settings = dataclasses.replace(settings, executor="inline")
            if settings.executor == "ray" and not connected:
                connected = True
                if not settings.joins_cluster:
                    self.tell("starting Ray (5 to 20 s)")
                stack.enter_context(ClusterSession(settings))
                stack.enter_context(sigterm_interrupts())  # Ray has set a handler of its own
            return launch(plan, self.store.uri, settings=settings, display=self.display, part=self.part, wait=True)

        return run


def _is_short(plan: Plan, launching: float) -> bool:
    """Whether this process ends a round on this machine sooner than Ray's trials, which need some seconds to start."""
    settings = plan.settings
    if settings.joins_cluster or settings.trials == "cells" or settings.expected_device != "cpu":
        return False
    return plan.work.mid < launching + plan.work.mid / plan.slots
