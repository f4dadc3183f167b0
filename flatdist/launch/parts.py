"""Parts: processes without Ray, as of a job array, that share a sweep's work through its store alone.

Every part cuts the sweep's work into the same units, whatever is done already, and owns an equal share of their
predicted cost. It runs its own units front to back, and then helps the others from the back of theirs. A unit is
claimed before it is run, by a file that only one part can create. A part shows that it is alive by a file that it keeps
replacing: once that has not changed for a while, others run what it had claimed. No clocks are compared.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flatdist.cells.cell import FIELDS, Cell
from flatdist.errors import FlatdistError, LaunchError, StoreError
from flatdist.launch.inline import run_inline
from flatdist.launch.launching import LaunchResult
from flatdist.launch.progress.display import Display
from flatdist.launch.progress.state import Progress
from flatdist.launch.settings import LaunchSettings
from flatdist.planning.forecast import nominal_seconds
from flatdist.planning.memory import available_bytes, replicates_that_fit
from flatdist.planning.work import Shard, WorkItem
from flatdist.store.layout import CLAIMS, PULSES, claim_path, order_path, pulse_path, stem

if TYPE_CHECKING:
    from flatdist.store import Store

BEAT_SECONDS = 5.0  # between two signs of life
LEASE_SECONDS = 30.0  # a part that gives none for so long counts as dead
POLL_SECONDS = 1.0
UNITS_PER_PART = 16
LONGEST_UNIT = 300.0  # nominal seconds, unless a single replicate takes longer
DIRECT = re.compile(r"(\d+)/(\d+)")
# Where a job array tells a job its number: (number, count, smallest number, step between numbers)
ARRAYS = {
    "Slurm": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", "", ""),
    "SkyPilot": ("SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS", "", ""),
}


@dataclass(frozen=True)
class Part:
    """One of several processes that share a sweep: ``number`` of ``count``, counted from 1."""

    number: int
    count: int

    def __str__(self) -> str:
        return f"part {self.number} of {self.count}"


def read_part(text: str, environment: Mapping[str, str] | None = None) -> Part:
    """Read ``K/N`` or ``auto``, which asks the job array that this process runs in.

    Arrays that count from 0 may write 0/N for N/N.

    Raises:
        LaunchError: it is neither, or there is no job array.

    Example:
        >>> read_part("3/8")
        Part(number=3, count=8)
        >>> read_part("auto", {"SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "4"})
        Part(number=1, count=4)
    """
    allowed = "allowed: K/N with K from 1 to N, such as 3/8, or auto in a job array"
    if text == "auto":
        return _part_of_array(os.environ if environment is None else environment, allowed)
    match = DIRECT.fullmatch(text.strip())
    number, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not match or not 0 <= number <= count or count < 1:
        raise LaunchError(f"--part {text} is not a part; {allowed}")
    return Part(number or count, count)


def _part_of_array(environment: Mapping[str, str], allowed: str) -> Part:
    for name, (index, total, first, step) in ARRAYS.items():
        if index not in environment:
            continue
        try:
            offset = int(environment[index]) - int(environment.get(first, 0))
            count = int(environment[total])
            number = offset // int(environment.get(step, 1))
        except KeyError:
            raise LaunchError(
                f"--part auto: {name} sets {index} and not {total}; set {total} to the number of jobs, or give "
                f"--part ${index}/N"
            ) from None
        except (ValueError, ZeroDivisionError):
            raise LaunchError(f"--part auto: {index}={environment[index]!r} is not a number; {allowed}") from None
        if not 0 <= number < count:
            raise LaunchError(f"--part auto: {index}={environment[index]} is outside of {total}={count}; {allowed}")
        return Part(number + 1, count)
    looked = ", ".join(variables[0] for variables in ARRAYS.values())
    raise LaunchError(f"--part auto: this process is in no job array (none of {looked} is set); {allowed}")


@dataclass(frozen=True)
class Unit:
    """Work that one part claims at a time.

    Attributes:
        name: hash of its keys; the same in every part.
        items: cells and replicates.
        seconds: predicted, on a nominal core.
        owner: number of the part whose share it belongs to.
    """

    name: str
    items: tuple[WorkItem, ...]
    seconds: float
    owner: int = 1


def make_units(items: Sequence[WorkItem], count: int, engine: str) -> list[Unit]:
    """Cut work into units, the same ones in the same order for every part.

    Args:
        items: all the work, whether it is done or not.
        count: number of parts.
        engine: what takes the steps.
    """
    ordered = sorted(items, key=lambda item: item.cell.cell_id)  # a hash: a fair shuffle that all agree on
    each = {item.cell.cell_id: nominal_seconds(item.cell, engine) for item in ordered}
    total = sum(each[item.cell.cell_id] * len(item.replicates) for item in ordered)
    target = min(LONGEST_UNIT, total / (UNITS_PER_PART * count))
    units: list[Unit] = []
    group: list[WorkItem] = []
    seconds = before = 0.0

    def close() -> None:
        nonlocal group, seconds, before
        owner = min(count, 1 + int(count * (before + seconds / 2) / total)) if total else 1
        units.append(Unit(_name(group), tuple(group), seconds, owner))
        before += seconds
        group, seconds = [], 0.0

    for item in ordered:
        left = list(item.replicates)
        while left:
            cost = each[item.cell.cell_id]
            room = max(1, round((target - seconds) / cost)) if cost else len(left)
            group.append(dataclasses.replace(item, replicates=tuple(left[:room])))
            seconds += cost * len(left[:room])
            del left[:room]
            if seconds >= target:
                close()
    if group:
        close()
    return units


def _name(items: Sequence[WorkItem]) -> str:
    keys = [[item.cell.cell_id, list(item.replicates), item.until] for item in items]
    return hashlib.sha256(json.dumps(keys).encode()).hexdigest()[:24]


class Claims:
    """Who runs what: claims of units, and the signs of life of those who made them.

    Args:
        store: where they are kept.
        part: this process.
    """

    def __init__(self, store: Store, part: Part) -> None:
        self._files = store.files
        self.me = f"{part.number}-of-{part.count}-{uuid.uuid4().hex[:12]}"
        self._pulses: dict[str, tuple[str, float]] = {}  # owner -> the pulse last seen, and when it was new to us
        self._owners: dict[str, str] = {}  # path of a claim -> who made it
        self._looked = -math.inf
        self._held: set[str] = set()  # paths
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="flatdist-pulse", daemon=True)

    def __enter__(self) -> Claims:
        self._pulse()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreError):
            for path in [*self._held, pulse_path(self.me)]:
                self._files.delete(path)
            left = self._files.list(CLAIMS)  # before the pulses: a part shows that it is alive before it claims
            if not self._files.list(PULSES):
                for info in left:
                    self._files.delete(info.path)

    def _pulse(self) -> None:
        content = {"host": socket.gethostname(), "pid": os.getpid(), "at": time.time()}
        self._files.write(pulse_path(self.me), json.dumps(content).encode())

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(StoreError):  # one that is missed is made up for by the next
                self._pulse()

    def claimed(self) -> dict[str, str]:
        """Unit -> path of the latest claim to it."""
        latest: dict[str, str] = {}
        for info in self._files.list(CLAIMS):  # sorted, so that the latest claim to a unit comes last
            latest[stem(info.path)] = info.path
        return latest

    def take(self, unit: str, claimed: Mapping[str, str] | None = None) -> bool:
        """Claim a unit; False where a part that is alive has it.

        Args:
            unit: its name.
            claimed: what :meth:`claimed` said lately; None tries without looking.
        """
        last = (claimed or {}).get(unit)
        attempt = 0 if last is None else int(last.split(".")[-2]) + 1
        if last is not None and not self.is_free(last):
            return False
        path = claim_path(unit, attempt)
        if not self._files.create(path, self.me.encode()):
            return False
        self._held.add(path)
        return True

    def release(self, unit: str) -> None:
        """Give a unit back: it is done, or left."""
        for path in [info.path for info in self._files.list(CLAIMS) if stem(info.path) == unit]:
            self._files.delete(path)
            self._held.discard(path)

    def is_free(self, path: str) -> bool:
        """Whether the part that made a claim is dead; one of which nothing has been seen yet is not."""
        if path not in self._owners:
            try:
                self._owners[path] = self._files.read(path).decode()
            except FileNotFoundError:  # given back just now
                return False
        owner = self._owners[path]
        if owner == self.me:
            return False
        if owner not in self._pulses or time.monotonic() - self._looked > POLL_SECONDS:
            self.look()  # after its claim was seen: it shows that it is alive before it claims
        return owner not in self._pulses or time.monotonic() - self._pulses[owner][1] > LEASE_SECONDS

    def look(self) -> None:
        """Note who is alive."""
        now = self._looked = time.monotonic()
        seen = {stem(info.path): info.token for info in self._files.list(PULSES)}
        before = self._pulses
        self._pulses = {
            owner: before[owner] if owner in before and before[owner][0] == token else (token, now)
            for owner, token in seen.items()
        }
        for owner, (_, since) in list(self._pulses.items()):
            if now - since > LEASE_SECONDS:  # so that others need not wait to see it
                self._files.delete(pulse_path(owner))


@dataclass
class PartRun:
    """This process's work on a sweep.

    Args:
        part: which one it is.
        claims: entered.
        store: where results and claims are.
        settings: how cells are run.
        engine: what takes the steps, resolved.
        display: shows progress.
    """

    part: Part
    claims: Claims
    store: Store
    settings: LaunchSettings
    engine: str
    display: Display
    computed: int = 0
    interrupted: bool = False
    stopped: str | None = None

    def run(
        self, items: Sequence[WorkItem], *, wait: bool = False, retried: Mapping[str, set[int]] | None = None
    ) -> LaunchResult:
        """Run this part's share of some work, then help until nothing is left that no other part has claimed.

        Args:
            items: all the work, done or not.
            wait: stay until all of it has ended, whoever runs it.
            retried: replicates whose failures so far do not count: they are tried once more.
        """
        from flatdist.trials.train import planned_steps

        start = time.monotonic()
        work = _Work(self, items, retried or {})
        cells = {item.cell.cell_id: item.cell for item in items}
        planned = planned_steps((i.cell, len(i.replicates)) for u in work.own for i in u.items)
        settings = dataclasses.replace(self.settings, planned_steps=planned)
        progress = Progress(cells, sum(len(i.replicates) for u in work.own for i in u.items), 0)
        self.display.start(progress)
        try:
            with contextlib.closing(work.shards(progress, wait=wait)) as shards:  # gives back what it has claimed
                self.interrupted, self.stopped = run_inline(shards, self.store.uri, settings, progress, self.display)
        finally:
            self.display.stop(progress)
        self.computed += progress.stored
        return work.result(time.monotonic() - start)


class _Work:
    """Units of some work, and which of them are left."""

    def __init__(self, run: PartRun, items: Sequence[WorkItem], retried: Mapping[str, set[int]]) -> None:
        self.run, self.claims, self.store, self.part = run, run.claims, run.store, run.part
        self.items = list(items)
        self.units = make_units(items, run.part.count, run.engine)
        self.own = [unit for unit in self.units if unit.owner == self.part.number]
        self.elsewhere = 0  # replicates that parts which are alive have claimed when this one ends
        self._ids = [item.cell.cell_id for item in items]
        self._before = {
            cell_id: {r: n for r, n in counts.items() if r in retried.get(cell_id, ())}
            for cell_id, counts in self.store.failed(self._ids).items()
        }

    def _missing(self, units: Sequence[Unit]) -> dict[str, tuple[WorkItem, ...]]:
        """Unit -> what is neither stored nor failed nor paused at its rung; units with nothing left are out."""
        ids = list({item.cell.cell_id for unit in units for item in unit.items})
        done, failed = self.store.done(ids), self.store.failed(ids)
        missing = {}
        for unit in units:
            items = []
            for item in unit.items:
                cell_id = item.cell.cell_id
                left = set(item.replicates) - done.get(cell_id, set()) - self._broken(cell_id, failed)
                left -= {r for r in left if self._is_paused(item, r)}
                if left:
                    items.append(dataclasses.replace(item, replicates=tuple(sorted(left))))
            if items:
                missing[unit.name] = tuple(items)
        return missing

    def _broken(self, cell_id: str, failed: Mapping[str, Mapping[int, int]]) -> set[int]:
        before = self._before.get(cell_id, {})
        return {r for r, count in failed.get(cell_id, {}).items() if count > before.get(r, 0)}

    def _is_paused(self, item: WorkItem, replicate: int) -> bool:
        if item.until is None:
            return False
        from flatdist.sweeps.early_stopping import is_paused

        return is_paused(self.store, item.cell, replicate, item.until)

    def shards(self, progress: Progress, *, wait: bool) -> Generator[Shard | None]:
        """One unit after the other, claimed; what comes back after each is that it has been run."""
        missing = self._missing(self.own)
        for own in [unit for unit in self.own if unit.name in missing]:
            if self.claims.take(own.name):
                yield from self._claimed(own)
        self.claims.look()
        waiting_since: float | None = None
        while missing := self._missing(self.units):
            claimed = self.claims.claimed()
            unit = self._choose([unit for unit in self.units if unit.name in missing], claimed)
            if unit is not None:
                waiting_since = None
                if unit.owner != self.part.number:
                    progress.wanted += sum(len(item.replicates) for item in missing[unit.name])
                yield from self._claimed(unit)
                continue
            now = time.monotonic()
            waiting_since = waiting_since or now
            if not wait and now - waiting_since > LEASE_SECONDS + 2 * BEAT_SECONDS:
                self.elsewhere = sum(len(item.replicates) for items in missing.values() for item in items)
                return
            time.sleep(POLL_SECONDS * max(1.0, self.part.count / 20))  # many parts ask less often each
            yield None  # lets whoever runs the shards look for an interrupt

    def _choose(self, units: Sequence[Unit], claimed: Mapping[str, str]) -> Unit | None:
        """Claim a unit that nobody alive has: the last of the part with most left to do."""
        left: dict[int, float] = {}
        for unit in units:
            if unit.name not in claimed:
                left[unit.owner] = left.get(unit.owner, 0.0) + unit.seconds
        places = range(len(units))
        order = sorted(places, key=lambda i: (units[i].name in claimed, -left.get(units[i].owner, 0.0), -i))
        return next((units[i] for i in order if self.claims.take(units[i].name, claimed)), None)

    def _claimed(self, unit: Unit) -> Iterator[Shard]:
        """What is missing of a unit by now: its last holder gave the claim back only after its rows were stored."""
        try:
            items = self._missing([unit]).get(unit.name)
            if items:
                yield Shard(tuple(self._in_memory(items)), unit.seconds)
        finally:
            self.claims.release(unit.name)

    def _in_memory(self, items: Sequence[WorkItem]) -> Iterator[WorkItem]:
        """Items in pieces that fit into this machine's memory."""
        free = available_bytes()
        for item in items:
            count = len(item.replicates)
            fits = count if free is None else replicates_that_fit(item.cell, int(0.8 * free), self.run.engine, "inline")
            for start in range(0, count, fits):
                yield dataclasses.replace(item, replicates=item.replicates[start : start + fits])

    def result(self, seconds: float) -> LaunchResult:
        """Counts asked of the store, of all parts together."""
        done, failed = self.store.done(self._ids), self.store.failed(self._ids)
        wanted = sum(len(item.replicates) for item in self.items)
        stored = sum(len(set(item.replicates) & done.get(item.cell.cell_id, set())) for item in self.items)
        broken = sum(len(set(item.replicates) & self._broken(item.cell.cell_id, failed)) for item in self.items)
        missing = sum(len(item.replicates) for items in self._missing(self.units).values() for item in items)
        return LaunchResult(
            wanted=wanted,
            stored=stored,
            failed=broken,
            interrupted=self.run.interrupted,
            stopped=self.run.stopped,
            seconds=seconds,
            paused=wanted - stored - broken - missing,
            elsewhere=min(self.elsewhere, missing),
        )


def drive_together(
    run: PartRun, name: str, drive: Callable[[Callable[[Sequence[WorkItem]], LaunchResult]], int]
) -> int:
    """An adaptive sweep in parts: one part drives its rounds, the others compute what the driver publishes.

    Whoever claims the sweep drives it; if that part dies, another one takes over. Each part ends by driving a sweep
    that has nothing left to ask.

    Args:
        run: this process's work.
        name: of the sweep.
        drive: drives all rounds, given what runs the items of one, and returns the exit status.
    """
    path, role = order_path(name), f"drive-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    files = run.store.files

    def publish(items: Sequence[WorkItem]) -> LaunchResult:
        order = [{"fields": _fields(i.cell), "replicates": i.replicates, "until": i.until} for i in items]
        files.write(path, json.dumps(order).encode())
        return run.run(items, wait=True)

    while True:
        run.claims.look()
        if run.claims.take(role, run.claims.claimed()):
            try:
                return drive(publish)
            finally:
                files.delete(path)
                run.claims.release(role)
        with contextlib.suppress(FileNotFoundError):
            items = _read_order(files.read(path), path)
            result = run.run(items)
            if result.interrupted:
                return result.exit_code
        time.sleep(POLL_SECONDS)


def _read_order(data: bytes, path: str) -> list[WorkItem]:
    try:
        return [WorkItem(Cell(**o["fields"]), tuple(map(int, o["replicates"])), o["until"]) for o in json.loads(data)]
    except (ValueError, TypeError, LookupError, FlatdistError) as error:
        raise StoreError(f"{path} is damaged: {error}; delete it and start the parts again") from error


def _fields(cell: Cell) -> dict[str, Any]:
    return {name: list(v) if isinstance(v := getattr(cell, name), tuple) else v for name in FIELDS}
