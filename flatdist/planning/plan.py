"""The plan: what a set of sweeps still has to run, in which shards, in how much time and memory."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from flatdist.cells.cell import Cell
from flatdist.engines import resolve_engine
from flatdist.errors import counted, printable, size
from flatdist.planning.forecast import Forecast, Interval, Probe, make_forecast
from flatdist.planning.memory import available_bytes, memory_bytes, pack_bytes, replicates_that_fit, require_room
from flatdist.planning.packs import company, make_packs, pack_device_bytes
from flatdist.planning.settings import Settings
from flatdist.planning.sharding import Sized, make_shards, makespan, shuffle, split_items
from flatdist.planning.work import Shard, WorkItem
from flatdist.trials.learning_rate import steps_to_leave

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.sweeps import Sweep

START_SECONDS = {"ray": 10.0, "inline": 2.0}
LEAVING = 3.0  # times a cell's steps, which the estimate of how long leaving a small start takes must exceed to be told
SHARD_SECONDS = {"ray": 0.2, "inline": 0.0}  # a worker process is used again for the next shard


class PlannedStore(Protocol):
    """The interface of a store that a plan needs."""

    def done(self, cell_ids: Collection[str] | None = None, *, thorough: bool = False) -> dict[str, set[int]]:
        """Acknowledged replicates of each cell; ``thorough`` looks at every byte of their files."""

    def failed(self, cell_ids: Collection[str] | None = None) -> dict[str, dict[int, int]]:
        """Failures of each replicate that is not done."""

    def trials(self, cell_ids: Any = None, where: Any = None, columns: Any = None) -> pd.DataFrame:
        """Rows of the trials table."""


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
    """The work to run.

    Attributes:
        sweeps: counts of each sweep.
        cells: the union of the sweeps' cells, unique by identity.
        wanted: cell id -> numbers of the requested replicates.
        done: replicates that the store has.
        failed: replicates whose last attempt failed; they run only if asked to.
        missing: replicates without a result and without a failure.
        items: what will run, cell by cell.
        shards: the same, as trials run it.
        work: predicted seconds on one slot.
        time: predicted seconds from start to end.
        basis: where the prediction comes from.
        memory_bytes: of the largest trial.
        slots: trials that run at a time.
        left_out: cells that the sweeps' conditions excluded.
        forecast: the source of the prediction.
    """

    sweeps: tuple[SweepCounts, ...]
    cells: tuple[Cell, ...]
    wanted: Mapping[str, Collection[int]]
    done: int
    failed: int
    missing: int
    items: tuple[WorkItem, ...]
    shards: tuple[Shard, ...]
    work: Interval
    time: Interval
    basis: str
    memory_bytes: int
    slots: int
    left_out: int
    forecast: Forecast = field(repr=False)
    settings: Settings = field(default_factory=Settings)

    @property
    def total(self) -> int:
        """Replicates of all cells."""
        return sum(map(len, self.wanted.values()))

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
        lines.append(
            f"to run: {counted(self.to_run, 'replicate')} of {counted(len(self.items), 'cell')} "
            f"in {counted(len(self.shards), 'shard')}"
        )
        slots = "one slot" if self.slots == 1 else f"{self.slots} slots"
        lines.append(f"time:   {self.time} on {slots} with the {self.engine} engine, from {self.forecast.basis}")
        lines.append(f"memory: {size(self.memory_bytes)} per trial at most")
        lines += [*self._pack_lines(), *self.settings.device_notes()]
        if (
            self.settings.local_memory
            and (free := available_bytes()) is not None
            and self.memory_bytes * self.slots > free
        ):
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
    sweeps: Sequence[Sweep],
    store: PlannedStore,
    settings: Settings | None = None,
    *,
    retry_failed: bool = False,
    limit: int | None = None,
    probe: Probe | None = None,
    forecast: Forecast | None = None,
) -> Plan:
    """Work out what is missing; nothing is started except short probes, on request.

    Args:
        sweeps: run as one: cells that several share are run once, with the largest number of replicates.
        store: what is done already; also the source of measured times.
        settings: how it is to be run.
        retry_failed: replicates that failed are to run again.
        limit: only the first so many cells; None for all.
        probe: measures kinds of cells of which the store has no times; None leaves them to nominal costs.
        forecast: what to predict with; None fits it to the store's times.
    """
    settings = settings or Settings()
    cells, wanted = _union(sweeps, limit)
    done, failed = store.done(list(cells), thorough=True), store.failed(list(cells))
    counts = [_count(sweep, cells, done, failed) for sweep in sweeps]
    items, n_done, n_failed = _items(cells, wanted, done, failed, retry=retry_failed)
    if forecast is None:
        card = settings.expected_card
        name = card.name if card is not None else ""
        forecast = make_forecast(items, store, settings.engine, settings.expected_device, probe, name)
    return assemble(counts, cells, wanted, (n_done, n_failed), items, forecast, settings)


def plan_items(
    items: Sequence[WorkItem],
    store: PlannedStore,
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
        probe: measures kinds of cells of which the store has no times; None leaves them to nominal costs.
        forecast: what to predict with; None fits it to the store's times.
    """
    settings = settings or Settings()
    cells = {item.cell.cell_id: item.cell for item in items}
    wanted: dict[str, Collection[int]] = {}
    for item in items:
        wanted[item.cell.cell_id] = sorted({*wanted.get(item.cell.cell_id, ()), *item.replicates})
    if forecast is None:
        card = settings.expected_card
        name = card.name if card is not None else ""
        forecast = make_forecast(items, store, settings.engine, settings.expected_device, probe, name)
    return assemble([], cells, wanted, (0, 0), items, forecast, settings)


def _union(sweeps: Sequence[Sweep], limit: int | None) -> tuple[dict[str, Cell], dict[str, Collection[int]]]:
    cells: dict[str, Cell] = {}
    wanted: dict[str, Collection[int]] = {}
    for sweep in sweeps:
        for cell in sweep.cells:
            cells.setdefault(cell.cell_id, cell)
            mine = sweep.replicates_of(cell.cell_id)
            theirs = wanted.get(cell.cell_id, mine)
            wanted[cell.cell_id] = mine if theirs is mine or theirs == mine else sorted({*theirs, *mine})
    if limit is not None:
        cells = dict(list(cells.items())[:limit])
        wanted = {cell_id: wanted[cell_id] for cell_id in cells}
    return cells, wanted


def _count(
    sweep: Sweep, cells: Mapping[str, Cell], done: Mapping[str, set[int]], failed: Mapping[str, Mapping[int, int]]
) -> SweepCounts:
    ids = [cell.cell_id for cell in sweep.cells if cell.cell_id in cells]
    return SweepCounts(
        name=sweep.name,
        description=sweep.description,
        cells=len(ids),
        left_out=sweep.left_out,
        repeated=sweep.repeated,
        replicates=sweep.replicates,
        total=sum(len(sweep.replicates_of(cell_id)) for cell_id in ids),
        done=sum(_among(done.get(cell_id, ()), sweep.replicates_of(cell_id)) for cell_id in ids),
        failed=sum(_among(failed.get(cell_id, ()), sweep.replicates_of(cell_id)) for cell_id in ids),
    )


def _among(numbers: Collection[int], wanted: Collection[int]) -> int:
    return sum(number in wanted for number in numbers)


def _items(
    cells: Mapping[str, Cell],
    wanted: Mapping[str, Collection[int]],
    done: Mapping[str, set[int]],
    failed: Mapping[str, Mapping[int, int]],
    *,
    retry: bool,
) -> tuple[list[WorkItem], int, int]:
    """What is to be run, and how many replicates are done and failed."""
    items = []
    n_done = n_failed = 0
    for cell_id, cell in cells.items():
        all_replicates = set(wanted[cell_id])
        here = all_replicates & done.get(cell_id, set())
        broken = all_replicates & failed.get(cell_id, {}).keys() - here
        n_done += len(here)
        n_failed += len(broken)
        run = all_replicates - here - (set() if retry else broken)
        if run:
            items.append(WorkItem(cell, tuple(sorted(run))))
    return items, n_done, n_failed


def assemble(
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
    slots = settings.expected_slots
    limit = settings.memory_limit
    engine_of, executor = forecast.engine_of, settings.executor
    if limit is None and settings.local_memory and (free := available_bytes()) is not None:
        require_room(((item.cell, engine_of(item.cell)) for item in items), free, executor)
        limit = int(0.8 * free / slots)
    most = None if limit is None else lambda item: replicates_that_fit(item.cell, limit, engine_of(item.cell), executor)
    packs: list[Shard] = []
    unpacked: Sequence[WorkItem] = items
    if settings.packs_cells:
        card = settings.expected_card
        packs, unpacked = make_packs(items, engine_of, slots, forecast.pack_seconds, card, settings.pack)
    sized: list[Sized] = []
    beside: list[Shard] = []
    for on_cpu in (False, True):  # on GPU plans, work without steps has slots of its own
        at_once = settings.expected_cpu_slots if on_cpu else settings.most_slots
        mine = [
            item
            for item in unpacked
            if on_cpu == (settings.expected_device != "cpu" and not item.cell.spec.takes_steps)
        ]
        parts = split_items([Sized(item, forecast.item_seconds(item)) for item in mine], at_once, most)
        sized += parts
        beside += make_shards(shuffle(parts, at_once, settings.seed), at_once)
    shards = [*packs, *beside]
    alone = [(part.item.cell, len(part.item.replicates)) for part in sized]
    held = [memory_bytes(cell, count, engine_of(cell), executor) for cell, count in alone]
    for pack in packs:
        members = [(item.cell, len(item.replicates)) for item in pack.items]
        held.append(pack_bytes(members, engine_of(members[0][0]), executor))
    work = forecast.interval(items)
    done, failed = done_and_failed
    return Plan(
        sweeps=tuple(counts),
        cells=tuple(cells.values()),
        wanted=wanted,
        done=done,
        failed=failed,
        missing=sum(map(len, wanted.values())) - done - failed,
        items=tuple(items),
        shards=tuple(shards),
        work=work,
        time=_wall_time(shards, work, settings),
        basis=forecast.basis,
        memory_bytes=max(held, default=0),
        slots=slots,
        left_out=sum(count.left_out for count in counts),
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
