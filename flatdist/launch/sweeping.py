"""Running sweeps: one plan for those that list their cells, then round after round of those that choose them.

The commands ``plan`` and ``sweep`` and the functions of the same names come here with the same
:class:`~flatdist.planning.Settings`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flatdist.errors import LaunchError, SweepError, counted, did_you_mean
from flatdist.launch.interrupt import sigterm_interrupts
from flatdist.launch.launching import LaunchResult, launch, launch_scheduled
from flatdist.launch.ray.tune import check_loggers
from flatdist.launch.rounds import INTERRUPTED, Driver
from flatdist.machine import logs
from flatdist.planning import WorkItem, keep_within, make_plan, make_probe, parse_duration, plan_items
from flatdist.planning.settings import Settings, local_gpus, unusable_gpus
from flatdist.sweeps import Changes, parse_sweep
from flatdist.sweeps.search import Search

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.launch.parts import Part
    from flatdist.planning import Plan
    from flatdist.planning.forecast import Forecast, Probe
    from flatdist.store import Store
    from flatdist.sweeps import Sweep
    from flatdist.sweeps.sweep import Rounds

# The settings that messages offer; all others can be given too.
USUAL = (
    *("executor", "address", "max_concurrent", "cpus_per_trial", "gpus_per_trial", "engine", "device", "pack"),
    *("checkpoint_seconds", "trials", "loggers", "log_folder", "log_level", "log_file"),
)
LAUNCH_SECONDS = (
    5.0  # until the trials of a launch on a Ray that is up are at work; three times as long where it is not
)
Tell = Callable[[str], None]
RunItems = Callable[[Sequence[WorkItem]], LaunchResult]


def _silent(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Amount:
    """How much of the sweeps is to run.

    Attributes:
        limit: only this many cells; None for all.
        budget: reject a plan predicted to take longer, such as ``30m``; None for no limit.
        fit: cut the plan down to the budget instead.
        retry_failed: also replicates whose last attempt failed.
        probe: time a few short runs of the kinds of cells that the store has no timings for.
    """

    limit: int | None = None
    budget: str | None = None
    fit: bool = False
    retry_failed: bool = False
    probe: bool = True


def plan_sweeps(
    sweeps: Sequence[Sweep], store: Store, settings: Settings, amount: Amount | None = None, tell: Tell = _silent
) -> Plan:
    """The plan of several sweeps together, with stand-ins for what they have yet to choose.

    Args:
        sweeps: with the runs that the store has recorded.
        store: the results.
        settings: how to run them; the plan holds them with a device in place of ``auto``.
        amount: how much of them.
        tell: given a line before the first probe.

    Raises:
        SweepError: it does not fit the budget, or the budget cannot be read as a duration.
        LaunchError: the engine does not run on the device, or this machine lacks what was requested.
    """
    amount = amount or Amount()
    settings.check_here()
    settings = _with_offer(settings)
    seconds = None if amount.budget is None else parse_duration(amount.budget)
    if amount.fit and seconds is None:
        raise SweepError("--fit needs --budget: give the time that the plan is to fit")
    if amount.fit and any(sweep.outlook(store).may_ask for sweep in sweeps):
        raise SweepError("--fit cannot cut a search short, since its cells are not known yet; use --limit N")
    expected = [sweep.expected(store) for sweep in sweeps]
    how: dict[str, Any] = {"retry_failed": amount.retry_failed, "limit": amount.limit}
    if settings.device == "auto" and not settings.joins_cluster and (problem := unusable_gpus()):
        tell(f"{problem}; the CPU is used")
        settings = settings.pinned("cpu")
    if settings.device == "auto":
        choices = [settings.pinned()]
        if choices[0].device == "cuda" and settings.engine == "auto" and settings.gpus_per_trial is None:
            choices.append(settings.pinned("cpu"))  # never the slower one by its own forecast
        settings = min(choices, key=lambda one: _predicted(expected, store, one, how) if choices[1:] else 0.0)
    engine, device = settings.expected_engine, settings.expected_device
    can_probe = amount.probe and (device == "cpu" or (local_gpus() > 0 and not settings.joins_cluster))
    probe = _announced(make_probe(engine, device, settings.threads), tell) if can_probe else None
    with logs.waits.told_to(tell):
        plan = make_plan(expected, store, settings, probe=probe, **how)
    return plan if seconds is None else keep_within(plan, seconds, fit=amount.fit)


def _predicted(sweeps: Sequence[Sweep], store: Store, settings: Settings, how: dict[str, Any]) -> float:
    """Seconds of a plan with some settings; infinite where they do not do."""
    try:
        return make_plan(sweeps, store, settings, **how).time.mid
    except LaunchError:
        return math.inf


def _with_offer(settings: Settings) -> Settings:
    """The settings with what the cluster that they join has now."""
    if not settings.joins_cluster:
        return settings
    from flatdist.launch.ray.cluster import ClusterSession

    with ClusterSession(settings) as session:
        return dataclasses.replace(settings, offer=session.offer())


def _announced(probe: Probe, tell: Tell) -> Probe:
    """A probe that announces its first run: compiling the engine may take half a minute on a new machine."""
    told = False

    def announced(cell: Cell) -> float:
        nonlocal told
        if not told:
            tell("timing a few cells (the store has no timings for them yet)")
            told = True
        return probe(cell)

    return announced


def prepare(
    sweeps: Sequence[Sweep],
    store: Store,
    settings: Settings,
    amount: Amount,
    changes: Changes,
    *,
    without_ray: str = "--executor inline",
    tell: Tell = _silent,
) -> Plan:
    """Check that sweeps can run, plan them and keep them under their names; nothing is written where they cannot.

    Args:
        sweeps, store, settings, amount, tell: as of :func:`plan_sweeps`.
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
    plan = plan_sweeps(sweeps, store, settings, amount, tell)
    record(sweeps, store, changes, tell)
    return plan


def record(sweeps: Sequence[Sweep], store: Store, changes: Changes, tell: Tell = _silent) -> None:
    """Record sweeps under their names, with all cells of their files and any uncommitted changes of the checkout."""
    for sweep in sweeps:
        whole = sweep
        if changes.conditions:
            again = parse_sweep(sweep.source, path=sweep.path, name=sweep.name, changes=Changes(dict(sweep.changes)))
            whole = dataclasses.replace(again, name=sweep.name)
        if whole.record(store):
            keep_diff(store, sweep.name)
            if changes.fixed:
                tell(f"--set makes other cells; this sweep is called {sweep.name} in the store")


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


@dataclass
class Outcome:
    """How the sweeps of a run ended.

    Attributes:
        status: 0 all done, 1 some replicates failed or are missing, 130 interrupted.
        missing: replicates that were to run and have no result.
    """

    status: int = 0
    missing: int = 0

    def add(self, status: int, missing: int = 0) -> None:
        """Count one more sweep."""
        self.status, self.missing = max(self.status, status), self.missing + missing


@dataclass(frozen=True)
class Running:
    """What sweeps are run with.

    Attributes:
        store: results and rounds.
        settings: how cells are run.
        display: kind of progress display.
        amount: how much of the sweeps is to run.
        tell: given a line about each round, and how it ended.
        warn: given what the user should know before it begins.
        part: which job of an array this is; each drives the same rounds and runs some of their work.
    """

    store: Store
    settings: Settings
    display: str = "auto"
    amount: Amount = Amount()
    tell: Tell = _silent
    warn: Tell = _silent
    part: Part | None = None

    def run(self, sweeps: Sequence[Sweep], plan: Plan) -> Outcome:
        """Run the missing work of sweeps: those that list their cells together, then the others one after another.

        Args:
            sweeps: with the runs that the store has recorded.
            plan: of all of them.
        """
        outcome = Outcome()
        rounds = [(sweep, sweep.rounds(self.store, self.amount.limit)) for sweep in sweeps]
        listed = [sweep for sweep, one in rounds if one is None]
        if listed:
            if len(listed) < len(sweeps):
                plan = plan_sweeps(listed, self.store, plan.settings, dataclasses.replace(self.amount, probe=False))
            outcome.add(0, plan.failed)
            if plan.shards:
                result = launch(plan, self.store.uri, display=self.display, part=self.part)
                outcome.add(result.exit_code, result.wanted - result.stored)
                if self.part is not None:
                    self.warn(f"{self.part}: computed {counted(result.ran, 'replicate')}")
        for one in (one for _, one in rounds if one is not None):
            if outcome.status != INTERRUPTED:
                outcome.add(self.run_rounds(one))
        return outcome

    def run_rounds(self, rounds: Rounds) -> int:
        """Run a sweep round by round until it requests nothing more; returns the exit status."""
        if rounds.note:
            self.warn(rounds.note)
        rounds.log.save()
        if rounds.scheduled:
            status = self._schedule(rounds)
        else:
            with contextlib.ExitStack() as stack:
                stack.enter_context(sigterm_interrupts())
                status = Driver(
                    rounds.strategy, rounds.log, self.store, self._launcher(stack), halving=rounds.halving,
                    retry_failed=self.amount.retry_failed, tell=self.tell, describe=rounds.describe, limit=rounds.limit,
                ).finish()  # fmt: skip
        if text := rounds.outcome():
            self.tell(text)
        return status

    def _schedule(self, rounds: Rounds) -> int:
        from flatdist.launch.ray.scheduled import Suggested

        search = rounds.strategy
        assert isinstance(search, Search)
        work = Suggested(search, rounds.log, self.store, retry_failed=self.amount.retry_failed)
        wanted = search.budget * search.replicates
        return launch_scheduled(
            work, self.store.uri, wanted=wanted, settings=self.settings, display=self.display
        ).exit_code

    def _launcher(self, stack: contextlib.ExitStack) -> RunItems:
        """What launches the items of a round and returns when they have ended.

        Args:
            stack: ends the Ray that the first round which needs one has started for all of them.
        """
        from flatdist.launch.ray.cluster import ClusterSession

        offered = self.settings
        forecast: Forecast | None = None
        rounds = 0
        connected = False

        def run(items: Sequence[WorkItem]) -> LaunchResult:
            nonlocal offered, forecast, rounds, connected
            rounds += 1
            if rounds & (rounds - 1) == 0:  # reading all times is worth it while they are few: rounds 1, 2, 4, 8, ...
                offered, forecast = _with_offer(self.settings), None
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


def read_options(options: Mapping[str, Any]) -> tuple[Settings, Amount]:
    """The settings and the amount of work from options by name; unknown options are rejected.

    Raises:
        LaunchError: an option does not exist, with the nearest name, or a value is not allowed.
    """
    how, much = ([one.name for one in dataclasses.fields(kind)] for kind in (Settings, Amount))
    for name in options:
        if name not in (*how, *much):
            allowed = [*much, *USUAL]
            hint = did_you_mean(name, allowed)
            raise LaunchError(f"there is no option {name!r}{hint}; allowed: {', '.join(allowed)}")
    given: dict[str, Any] = {
        name: tuple(value) if name in ("loggers", "plugins") else value for name, value in options.items()
    }
    settings = Settings(**{name: value for name, value in given.items() if name in how})
    return settings, Amount(**{name: value for name, value in given.items() if name in much})
