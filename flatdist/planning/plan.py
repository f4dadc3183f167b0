"""The plan: what a set of sweeps still has to run, in which shards, in how much time and memory."""

from __future__ import annotations

import dataclasses
import html
import random
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flatdist.cells.cell import Cell
from flatdist.engines import resolve_engine
from flatdist.errors import SweepError, counted, printable, size
from flatdist.planning.forecast import Forecast, Interval, Probe, duration, make_forecast
from flatdist.planning.memory import available_bytes, memory_bytes, pack_bytes, replicates_that_fit, require_room
from flatdist.planning.packs import company, make_packs, pack_device_bytes
from flatdist.planning.settings import Settings
from flatdist.planning.sharding import Sized, make_shards, makespan, shuffle, split_items
from flatdist.planning.work import Shard, WorkItem
from flatdist.trials.learning_rate import steps_to_leave

if TYPE_CHECKING:
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

START_SECONDS = {"ray": 10.0, "inline": 2.0}
LEAVING = 3.0  # times a cell's steps, which the estimate of how long leaving a small start takes must exceed to be told
SHARD_SECONDS = {"ray": 0.2, "inline": 0.0}  # a worker process is used again for the next shard
_UNITS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:s|min|m|h|d))+")


@dataclass(frozen=True)
class SweepCounts:
    """One sweep's share of a plan; replicates that sweeps share count in each."""

    name: str
    description: str
    cells: int
    left_out: int
    repeated: int
    replicates: int
    total: int
    done: int
    failed: int

    @property
    def missing(self) -> int:
        """Replicates without a result and without a failure."""
        return self.total - self.done - self.failed


@dataclass(frozen=True, repr=False)
class Plan:
    """The work to run; its counts are of replicates."""

    sweeps: tuple[SweepCounts, ...]
    cells: tuple[Cell, ...]  # the union of the sweeps' cells, unique by identity
    wanted: Mapping[str, Collection[int]]  # cell id -> numbers of the requested replicates
    done: int  # that the store has
    failed: int  # whose last attempt failed; they run only if asked to
    items: tuple[WorkItem, ...]  # what will run, cell by cell
    shards: tuple[Shard, ...]  # the same, as trials run it
    work: Interval  # predicted seconds on one slot
    time: Interval  # predicted seconds from start to end
    memory_bytes: int  # of the largest trial
    slots: int  # trials that run at a time
    forecast: Forecast  # the source of the prediction
    settings: Settings

    @property
    def total(self) -> int:
        """Replicates of all cells."""
        return sum(map(len, self.wanted.values()))

    @property
    def missing(self) -> int:
        """Replicates without a result and without a failure."""
        return self.total - self.done - self.failed

    @property
    def left_out(self) -> int:
        """Cells that the sweeps' conditions excluded."""
        return sum(sweep.left_out for sweep in self.sweeps)

    @property
    def engine(self) -> str:
        """The engine that takes the steps."""
        found = {self.forecast.engine_of(item.cell): None for item in self.items if item.cell.spec.takes_steps}
        return " and ".join(found) or self.settings.expected_engine

    @property
    def to_run(self) -> int:
        """Replicates that the shards hold."""
        return sum(shard.replicates for shard in self.shards)

    def lines(self) -> list[str]:
        """The plan as lines of text."""
        lines = []
        for sweep in self.sweeps:
            title = f"{sweep.name}: {printable(sweep.description)}" if sweep.description else sweep.name
            asides = [f"{sweep.left_out} left out by where"] if sweep.left_out else []
            asides += [f"{sweep.repeated} the same as others"] if sweep.repeated else []
            cells = counted(sweep.cells, "cell") + (f" ({', '.join(asides)})" if asides else "")
            counts = f"{sweep.done} done, {sweep.missing} missing, {sweep.failed} failed"
            each = f"{counted(sweep.replicates, 'replicate')} each"
            if sweep.total != sweep.cells * sweep.replicates:
                each = counted(sweep.total, "replicate")
            lines += [title, f"  {cells} with {each}: {counts}"]
        if not self.shards:
            retry = "; --retry-failed reruns the failed ones" if self.failed else ""
            return [*lines, f"nothing to run{retry}"]
        slots = "one slot" if self.slots == 1 else f"{self.slots} slots"
        work = f"{counted(self.to_run, 'replicate')} of {counted(len(self.items), 'cell')}"
        lines += [
            f"to run: {work} in {counted(len(self.shards), 'shard')}",
            f"time:   {self.time} on {slots} with the {self.engine} engine, from {self.forecast.basis}",
            f"memory: {size(self.memory_bytes)} per trial at most",
            *self._pack_lines(),
            *self.settings.device_notes(),
        ]
        free = available_bytes() if self.settings.local_memory else None
        if free is not None and self.memory_bytes * self.slots > free:
            lines.append(f"note:   this exceeds the {size(free)} available for {slots}; lower --max-concurrent")
        if stuck := [item.cell for item in self.items if steps_to_leave(item.cell) > LEAVING * item.cell.steps]:
            scale = max(cell.init_scale for cell in stuck)
            lines.append(
                f"note:   {counted(len(stuck), 'cell')} with init_scale up to {scale:g} will hardly train: gradients "
                f"vanish next to such small layers; growing takes about {min(map(steps_to_leave, stuck)):.0e} steps"
            )
        return lines

    def _pack_lines(self) -> list[str]:
        packs = [shard for shard in self.shards if shard.together]
        if not packs:
            return []
        sizes, card = [pack.replicates for pack in packs], self.settings.expected_card
        span = f"{max(sizes):,}" if min(sizes) == max(sizes) else f"{max(sizes):,} to {min(sizes):,}"
        text = f"packs:  {counted(len(packs), 'pack')} of {span} replicates"
        if card is not None:
            fill = sum(company(pack, card) for pack in packs) / len(packs)
            most = max(pack_device_bytes(pack, self.forecast.engine_of(pack.items[0].cell), card) for pack in packs)
            text += f" on {card}: {fill:.0%} full on average, {size(most)} of its {size(card.memory)} at most"
        return [text]

    def __repr__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(repr(self))}</pre>"


def make_plan(
    sweeps: Sequence[Sweep], store: Store, settings: Settings | None = None, *, probe: Probe | None = None
) -> Plan:
    """Work out what is missing; nothing is started except short probes, on request.

    Args:
        sweeps: run as one: cells that several share are run once, with the largest number of replicates.
        store: what is done already; also the source of measured times.
        settings: how much of it is to be run, and how.
        probe: measures kinds of cells of which the store has no times; None leaves them to nominal costs.
    """
    settings = settings or Settings()
    cells: dict[str, Cell] = {}
    wanted: dict[str, Collection[int]] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            cells.setdefault(cell.cell_id, cell)
            mine = sweep.replicates_of(cell.cell_id)
            theirs = wanted.get(cell.cell_id, mine)
            wanted[cell.cell_id] = mine if theirs is mine or theirs == mine else sorted({*theirs, *mine})
    if settings.limit is not None:
        cells = dict(list(cells.items())[: settings.limit])
        wanted = {cell_id: wanted[cell_id] for cell_id in cells}
    done, failed = store.done(list(cells), thorough=True), store.failed(list(cells))
    items, n_done, n_failed = [], 0, 0
    for cell_id, cell in cells.items():
        left = {*wanted[cell_id]} - done.get(cell_id, set())
        broken = left & failed.get(cell_id, {}).keys()
        n_done += len(wanted[cell_id]) - len(left)
        n_failed += len(broken)
        if run := left if settings.retry_failed else left - broken:
            items.append(WorkItem(cell, tuple(sorted(run))))
    counts = [_count(sweep, cells, done, failed) for sweep in sweeps]
    forecast = make_forecast(items, store, settings, probe)
    return _assemble(counts, cells, wanted, (n_done, n_failed), items, forecast, settings)


def plan_items(
    items: Sequence[WorkItem],
    store: Store,
    settings: Settings | None = None,
    *,
    probe: Probe | None = None,
    forecast: Forecast | None = None,
) -> Plan:
    """A plan of exactly these items, as a round of a sweep requests them.

    Args:
        items: what is to run.
        store: the source of measured times, where there is no ``forecast``.
        settings: how it is to be run.
        probe: as of :func:`make_plan`.
        forecast: what to predict with; None fits it to the store's times.
    """
    settings = settings or Settings()
    found: dict[str, WorkItem] = {}
    for item in items:
        known = found.get(item.cell.cell_id, item)
        found[item.cell.cell_id] = dataclasses.replace(
            item, replicates=tuple(sorted({*known.replicates, *item.replicates}))
        )
    cells = {cell_id: item.cell for cell_id, item in found.items()}
    wanted = {cell_id: item.replicates for cell_id, item in found.items()}
    items = list(found.values())
    forecast = forecast or make_forecast(items, store, settings, probe)
    return _assemble([], cells, wanted, (0, 0), items, forecast, settings)


def _count(
    sweep: Sweep, cells: Mapping[str, Cell], done: Mapping[str, set[int]], failed: Mapping[str, Mapping[int, int]]
) -> SweepCounts:
    wanted = {cell.cell_id: sweep.replicates_of(cell.cell_id) for cell in sweep.cells if cell.cell_id in cells}
    n_done, n_failed = (
        sum(number in numbers for cell_id, numbers in wanted.items() for number in found.get(cell_id, ()))
        for found in (done, failed)
    )
    return SweepCounts(
        name=sweep.name,
        description=sweep.description,
        cells=len(wanted),
        left_out=sweep.left_out,
        repeated=sweep.repeated,
        replicates=sweep.replicates,
        total=sum(map(len, wanted.values())),
        done=n_done,
        failed=n_failed,
    )


def _assemble(
    counts: Sequence[SweepCounts],
    cells: Mapping[str, Cell],
    wanted: Mapping[str, Collection[int]],
    done_and_failed: tuple[int, int],
    items: Sequence[WorkItem],
    forecast: Forecast,
    settings: Settings,
) -> Plan:
    """A plan of given items: split, ordered, sharded and timed.

    Raises:
        LaunchError: the engine cannot take the steps of one of the cells.
    """
    for item in items:
        if item.cell.spec.takes_steps:
            resolve_engine(settings.engine, settings.expected_device, item.cell)
    engine_of, executor, slots = forecast.engine_of, settings.executor, settings.expected_slots
    limit = settings.memory_limit
    if limit is None and settings.local_memory and (free := available_bytes()) is not None:
        require_room(((item.cell, engine_of(item.cell)) for item in items), free, executor)
        limit = int(0.8 * free / slots)
    most = None if limit is None else lambda item: replicates_that_fit(item.cell, limit, engine_of(item.cell), executor)
    shards: list[Shard] = []
    unpacked: Sequence[WorkItem] = items
    if settings.pack is not None or settings.expected_device != "cpu":
        card = settings.expected_card
        shards, unpacked = make_packs(items, engine_of, slots, forecast.pack_seconds, card, settings.pack)
    held = [0]
    for pack in shards:
        members = [(item.cell, len(item.replicates)) for item in pack.items]
        held.append(pack_bytes(members, engine_of(members[0][0]), executor))
    on_gpu = settings.expected_device != "cpu"
    for beside in (False, True):  # on GPU plans, work without steps has slots of its own
        at_once = settings.expected_cpu_slots if beside else settings.most_slots
        mine = [item for item in unpacked if beside == (on_gpu and not item.cell.spec.takes_steps)]
        parts = split_items([Sized(item, forecast.item_seconds(item)) for item in mine], at_once, most)
        shards += make_shards(shuffle(parts, at_once, settings.seed), at_once)
        held += [memory_bytes(p.item.cell, len(p.item.replicates), engine_of(p.item.cell), executor) for p in parts]
    work = forecast.interval(items)
    return Plan(
        sweeps=tuple(counts),
        cells=tuple(cells.values()),
        wanted=wanted,
        done=done_and_failed[0],
        failed=done_and_failed[1],
        items=tuple(items),
        shards=tuple(shards),
        work=work,
        time=_wall_time(shards, work, settings),
        memory_bytes=max(held),
        slots=slots,
        forecast=forecast,
        settings=settings,
    )


def _wall_time(shards: Sequence[Shard], work: Interval, settings: Settings) -> Interval:
    """From start to end: starting the launcher, then the shards, each slot taking the next one when it is free."""
    if not shards:
        return Interval(0.0, 0.0, 0.0)
    slots, executor = settings.expected_slots, settings.executor
    start, overhead = START_SECONDS[executor], SHARD_SECONDS[executor] * len(shards) / slots
    if settings.expected_device == "cpu" or executor == "inline":
        mid = makespan(shards, slots)
    else:  # GPUs and processors work in parallel
        ends = [(True, slots), (False, settings.expected_cpu_slots)]
        mid = max(makespan([one for one in shards if one.takes_steps is gpu], count) for gpu, count in ends)
    scale = mid / work.mid if work.mid else 0.0
    low, high = (start * factor + overhead + scale * limit for factor, limit in ((0.6, work.low), (1.5, work.high)))
    return Interval(low, start + overhead + mid, high)


def parse_duration(text: str) -> float:
    """Seconds of ``90s``, ``30m``, ``1.5h``, ``1h30m`` or ``2d``.

    Raises:
        SweepError: it cannot be read.
    """
    compact = text.replace(" ", "")
    if not _DURATION.fullmatch(compact):
        raise SweepError(f"cannot read {text!r} as a duration; allowed: 90s, 30m, 1.5h, 1h30m, 2d")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(r"([\d.]+)([a-z]+)", compact))
    if seconds <= 0:
        raise SweepError(f"a budget must be longer than 0 (got {text!r}); allowed: 90s, 30m, 1.5h, 1h30m, 2d")
    return seconds


def keep_within(plan: Plan, seconds: float, *, fit: bool) -> Plan:
    """The plan itself where it fits the budget, else the part of it that does, whole cells first.

    Args:
        plan: everything that is to be run.
        seconds: wall time that may be spent.
        fit: cut the plan down; otherwise one that does not fit is refused.

    Raises:
        SweepError: it does not fit, with the prediction and what to do; or not even one replicate would.
    """
    if plan.time.mid <= seconds:
        return plan
    if not fit:
        raise SweepError(
            f"the budget is {duration(seconds)} and this would take {plan.time} on {plan.slots} slots; "
            "raise --budget, add --fit to run the part that fits, or take fewer cells with --where or --limit"
        )
    executor, forecast = plan.settings.executor, plan.forecast
    left = (seconds - START_SECONDS[executor]) * plan.slots
    order = list(plan.items)
    random.Random(plan.settings.seed).shuffle(order)  # noqa: S311 - an order, not a secret
    chosen: dict[str, WorkItem] = {}
    for item in order:
        needed = forecast.item_seconds(item) + SHARD_SECONDS[executor]
        if needed <= left:
            chosen[item.cell.cell_id] = item
            left -= needed
    for item in order:  # what is left of the time goes to single replicates of further cells
        count = int(left // (forecast.item_seconds(item) / len(item.replicates)))
        if count > 0 and item.cell.cell_id not in chosen:
            part = chosen[item.cell.cell_id] = dataclasses.replace(item, replicates=item.replicates[:count])
            left -= forecast.item_seconds(part)
    if not chosen:
        raise SweepError(
            f"a single replicate already exceeds the {duration(seconds)} budget; everything takes {plan.time}"
        )
    cells = {cell.cell_id: cell for cell in plan.cells}
    kept = [chosen[cell_id] for cell_id in cells if cell_id in chosen]
    counts = (plan.done, plan.failed)
    return _assemble(plan.sweeps, cells, plan.wanted, counts, kept, forecast, plan.settings)
