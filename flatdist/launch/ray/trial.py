"""What runs inside a Tune trial: a pack of cells, or one cell whose every evaluation is a ``tune.report``."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import pickle
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from flatdist.cells.cell import FIELDS, Cell
from flatdist.cells.plugins import use_plugins
from flatdist.errors import CellError, LaunchError, did_you_mean
from flatdist.launch.progress.state import Event, Notice
from flatdist.launch.ray.cluster import require_versions
from flatdist.launch.worker import run_shard
from flatdist.machine.environment import import_ray
from flatdist.planning.settings import Settings
from flatdist.planning.work import Shard, WorkItem

if TYPE_CHECKING:
    from flatdist.store import Store

Row = dict[str, Any]
TELL_SECONDS = 0.5  # between two calls of a worker
MOST_CALLS = 500.0  # a second, that all workers together make: one actor answers a few thousand
ANSWER_SECONDS = 20.0  # an actor that was killed comes back within this
CURVES = (
    *("train_loss", "train_loss_max", "population_loss", "nuclear_norm", "hessian_trace"),
    *("learning_rate", "label_noise_std", "flow_time"),
)
FINAL = ("relative_error", "certificate", "effective_rank", "frobenius_norm", "spectral_norm", "wall_seconds")
POINTER = "flatdist.json"
IDENTITY = "cell_id"  # may stand in a config beside the fields, which must then have it
NUMBER = "suggestion"  # stands beside the fields of a cell that was suggested


@dataclass(frozen=True)
class Task:
    """What every trial of a round receives."""

    monitor: Any  # handle of the actor between workers and driver
    store_uri: str  # an absolute path or a URI
    settings: Settings
    slots: int  # trials that run at a time
    expected: Mapping[str, Any]  # versions where the sweep was started

    @contextlib.contextmanager
    def taken_up(self, number: int) -> Iterator[dict[str, Any] | None]:
        """Start a shard; yields what its worker shares with the driver, or None if it should be left at once."""
        with Link(self.monitor, self.slots) as link:
            if link.stopping:
                yield None
                return
            try:
                use_plugins(self.settings.plugins)
                require_versions(self.expected)
                yield {"report": link.report, "number": number, "should_stop": lambda: link.stopping}
            except Exception as error:
                link.report(Notice(f"shard {number} failed: {type(error).__name__}: {error}"))
                raise


def shard_trial(config: dict[str, Any], *, packed: PackedShards, numbers: Sequence[int], task: Task) -> None:
    """Run one shard, a pack of cells, inside a Tune trial."""
    from ray import tune

    shard = packed[config["position"]]
    with task.taken_up(numbers[config["position"]]) as shared:
        if shared is not None:
            counts = run_shard(shard, task.store_uri, task.settings, device=_device(task.settings), **shared)
            tune.report({"stored": counts.stored, "failed": counts.failed})


def cell_trial(config: dict[str, Any], *, items: Mapping[str, tuple[int, WorkItem]], task: Task) -> None:
    """Run one cell, under its own fields, inside a Tune trial."""
    number, item = items[config[IDENTITY]]
    with task.taken_up(number) as shared:
        if shared is not None:
            run_trial(item, task.store_uri, task.settings, checkpoints=False, strict=False, **shared)


def suggested_trial(config: dict[str, Any], *, replicates: Sequence[int], task: Task) -> None:
    """Run a suggested cell inside a Tune trial that a scheduler may stop."""
    from ray import tune

    config = dict(config)
    number = config.pop(NUMBER)
    item = WorkItem(cell_of({}, config), tuple(replicates))
    with task.taken_up(number) as shared:
        if shared is not None and (failed := run_trial(item, task.store_uri, task.settings, strict=False, **shared)):
            worst = dict.fromkeys(("relative_error", *CURVES), math.inf)
            tune.report({"step": item.cell.steps, "failed": failed, **worst})


def _given() -> Mapping[str, float]:
    """The resources of this trial."""
    from ray import tune

    resources = tune.get_context().get_trial_resources()
    return resources.required_resources if resources is not None else {}


def _device(settings: Settings) -> str:
    """Where this trial computes: on a GPU if it was given one and torch sees it."""
    if settings.device != "auto":
        return settings.device
    if not _given().get("GPU"):
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class PackedShards:
    """All shards of a round in one array, so that workers need not unpack 100,000 cells each.

    The bytes come from the driver and live in Ray's object store, never in a results store.
    """

    def __init__(self, shards: Sequence[Shard]) -> None:
        parts = [pickle.dumps(shard, protocol=pickle.HIGHEST_PROTOCOL) for shard in shards]
        self._bytes: npt.NDArray[Any] = np.frombuffer(b"".join(parts), dtype=np.uint8)  # (bytes,)
        self._ends: npt.NDArray[Any] = np.cumsum([0, *map(len, parts)])  # (shards + 1,)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> Shard:
        start, end = self._ends[number : number + 2]
        shard: Shard = pickle.loads(self._bytes[start:end].tobytes())  # noqa: S301
        return shard


class Monitor:
    """The actor. If it dies only the view is lost: the store knows what is done."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stopping = self._ended = False

    def tell(self, events: list[Event]) -> bool:
        """Receive a worker's events; returns whether the worker should store its rows and leave."""
        self._events += events
        return self._stopping

    def drain(self, stopping: bool, ended: bool) -> list[Event]:
        """Return the events to the driver, which says whether workers should leave and Tune should end."""
        self._stopping, self._ended = stopping, ended
        events, self._events = self._events, []
        return events

    def ended(self) -> bool:
        """Whether Tune should end its trials, once the workers have left or had time to."""
        return self._ended


class Link:
    """A worker's end: sends events from a thread of its own, and learns whether to stop.

    A worker continues if the monitor does not answer: its rows reach the store all the same. Where there are many
    workers, each reports less often.
    """

    def __init__(self, monitor: Any, workers: int) -> None:
        self._monitor = monitor
        self._seconds = max(TELL_SECONDS, workers / MOST_CALLS)
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="flatdist-link", daemon=True)
        self.stopping = False  # what the driver last said

    def __enter__(self) -> Link:
        self._tell()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()
        self._tell()

    def report(self, event: Event) -> None:
        """Queue an event to be sent soon."""
        with self._lock:
            self._events.append(event)

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            self._tell()

    def _tell(self) -> None:
        ray = import_ray(local=False)
        with self._lock:
            events, self._events = self._events, []
        try:
            self.stopping = ray.get(self._monitor.tell.remote(events), timeout=ANSWER_SECONDS) or self.stopping
        except (ray.exceptions.RayError, TimeoutError):
            with self._lock:
                self._events[:0] = events


def run_trial(
    item: WorkItem,
    store_uri: str,
    settings: Settings,
    *,
    checkpoints: bool = True,
    strict: bool = True,
    **shard: Any,
) -> int:
    """Run one cell inside a Tune trial and report its evaluations; returns how many replicates failed.

    Args:
        item, store_uri, settings, shard: as of :func:`flatdist.launch.worker.run_shard`.
        checkpoints: hand Tune pointers to the store's checkpoints.
        strict: raise if replicates failed, so that the trial counts as failed too.

    Raises:
        LaunchError: replicates failed (the store has their tracebacks), or the trial was told to continue from another
            cell's checkpoint, as population-based training does.
    """
    from flatdist.store import Store

    cell = item.cell
    settings = dataclasses.replace(settings, cpus_per_trial=_given().get("CPU") or settings.cpus_per_trial)
    store = Store(store_uri)
    done = store.done([cell.cell_id]).get(cell.cell_id, set())
    missing = tuple(r for r in item.replicates if r not in done)
    reports = _Reports(cell, item.replicates, _resumed_step(cell), store_uri if checkpoints else None)
    reports.take_stored(store, done.intersection(item.replicates))
    if missing:
        work = Shard((dataclasses.replace(item, replicates=missing),), 0.0)
        counts = run_shard(work, store_uri, settings, device=_device(settings), watch=reports, **shard)
        if counts.failed and strict:
            failures = store.failures([cell.cell_id]).sort_values("at").to_dict("records")
            last = failures[-1] if failures else None
            why = f"{last['error_type']}: {last['message']}" if last is not None else "no reason stored"
            raise LaunchError(
                f"{counts.failed} of {len(item.replicates)} replicates of cell {cell.cell_id} failed: {why}; "
                "'flatdist failures' shows the tracebacks"
            )
        if counts.failed or counts.stopped or item.until is not None:
            return counts.failed
    reports.finish(store)
    return 0


def _resumed_step(cell: Cell) -> int:
    """The step up to which this trial has reported already; -1 for a new trial.

    Raises:
        LaunchError: the trial was given the checkpoint of another cell.
    """
    from ray import tune

    checkpoint = tune.get_checkpoint()
    if checkpoint is None:
        return -1
    with checkpoint.as_directory() as folder:
        pointer = json.loads((Path(folder) / POINTER).read_text())
    if pointer["cell_id"] != cell.cell_id:
        raise LaunchError(
            f"this trial is cell {cell.cell_id} and was told to go on from cell {pointer['cell_id']}: population-based "
            "training (pbt, pb2) changes fields during a run, and such a run is no cell's result; use a scheduler that "
            "stops trials, such as ASHAScheduler(time_attr='step')"
        )
    return int(pointer["step"])


class _Reports:
    """Collects the rows of all replicates of a cell and reports a step once all have got there."""

    def __init__(self, cell: Cell, replicates: Sequence[int], after: int, store_uri: str | None) -> None:
        from flatdist.factorization.evaluation import evaluation_steps

        self._cell, self._replicates, self._after, self._uri = cell, set(replicates), after, store_uri
        self._last = int(evaluation_steps(cell.steps, cell.evaluations)[-1])
        self._rows: dict[int, dict[int, Row]] = {}  # step -> replicate -> row
        self._diverged: set[int] = set()
        self._truth: dict[int, float] = {}  # ||M*||_F^2

    def on_history(self, replicate: int, rows: list[Row]) -> None:
        for row in rows:
            self._rows.setdefault(int(row["step"]), {})[replicate] = row
        self._report_complete()

    def on_diverged(self, replicate: int) -> None:
        self._diverged.add(replicate)
        self._report_complete()

    def take_stored(self, store: Store, replicates: set[int]) -> None:
        if replicates:
            for row in store.history([self._cell.cell_id]).to_dict("records"):
                if row["replicate"] in replicates:
                    named = {str(name): value for name, value in row.items()}
                    self._rows.setdefault(int(row["step"]), {})[int(row["replicate"])] = named
            self._diverged |= store.diverged([self._cell.cell_id]).get(self._cell.cell_id, set()) & replicates
            self._report_complete()

    def _report_complete(self) -> None:
        ready = [
            step
            for step in sorted(self._rows)
            if self._after < step < self._last and self._rows[step].keys() | self._diverged >= self._replicates
        ]
        for step in ready:
            self._after = step
            self._report(self._curves(step), news=step == ready[-1])

    def finish(self, store: Store) -> None:
        trials = store.trials([self._cell.cell_id])
        trials = trials[trials["replicate"].isin(self._replicates)]
        self._diverged |= set(trials.loc[trials["status"] == "diverged", "replicate"].astype(int))
        self._report_complete()
        step = max(self._rows, default=0)
        metrics = self._curves(step) if self._rows else {"step": step, "cell_id": self._cell.cell_id}
        for name in (*FINAL, *(() if self._rows else CURVES)):
            if name in trials and trials[name].notna().any():
                metrics[name] = float(trials[name].fillna(math.inf).median())
        metrics["stored"] = len(trials)
        metrics["converged"] = int((trials["status"] == "converged").sum())
        metrics["diverged"] = len(self._diverged)
        self._report(metrics, news=True)

    def _curves(self, step: int) -> Row:
        """Medians over the replicates at a step; one that has diverged counts as infinite."""
        from flatdist.sweeps.early_stopping import squared_truth

        rows = self._rows[step]
        gone = [math.inf] * len(self._replicates - rows.keys())
        metrics: Row = {"step": step, "cell_id": self._cell.cell_id, "diverged": len(self._diverged)}
        for name in CURVES:
            values = [float(row[name]) for row in rows.values() if row.get(name) is not None]
            values = [value for value in values if not math.isnan(value)]
            if values:
                metrics[name] = median([*values, *gone])
        errors = []
        for replicate, row in rows.items():
            if replicate not in self._truth:
                self._truth[replicate] = squared_truth(self._cell, replicate)
            loss = row.get("population_loss")
            errors.append(math.inf if loss is None else float(loss) / self._truth[replicate])
        metrics["relative_error"] = median([*errors, *gone])
        return metrics

    def _report(self, metrics: Row, *, news: bool) -> None:
        from ray import tune

        if self._uri is None or not news:
            tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as folder:
            pointer = {"store": self._uri, "cell_id": self._cell.cell_id, "step": metrics["step"]}
            (Path(folder) / POINTER).write_text(json.dumps(pointer))
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder))


def cell_of(base: Mapping[str, Any], config: Mapping[str, Any]) -> Cell:
    """The cell of a trial's config, whose values may be expressions over the other fields.

    Raises:
        CellError: every field that is unknown, missing or wrong.

    Example:
        >>> cell_of({"d_out": 6, "d_in": 6, "rank": 1}, {"n": "2*dof"}).n
        22
    """
    from flatdist.sweepfile.words import resolved_values

    given = {name: _plain(value) for name, value in {**base, **config}.items() if name != IDENTITY}
    if IDENTITY in config:  # of a grid over cells: fields that do not matter to this one are null
        given = {name: value for name, value in given.items() if value is not None}
    check_names(given)
    cell = Cell(**resolved_values(given))
    if config.get(IDENTITY, cell.cell_id) != cell.cell_id:
        raise CellError(
            f"cell_id {config[IDENTITY]} of a trial's config is not that of its fields, {cell.cell_id}: base changes "
            "the cells of param_space(), or another version of flatdist made them; drop cell_id from the config"
        )
    return cell


def grid_space(cells: Sequence[Cell]) -> dict[str, Any]:
    """A ``param_space`` with one trial per cell, under the cell's own fields."""
    from ray import tune

    words = {cell.cell_id: {name: v for name, v in cell.words().items() if v is not None} for cell in cells}
    space: dict[str, Any] = {IDENTITY: tune.grid_search(list(words))}
    for name in {name: None for row in words.values() for name in row}:
        column = {cell_id: row.get(name) for cell_id, row in words.items()}
        first = next(iter(column.values()))
        varies = any(value is None or value != first for value in column.values())
        space[name] = tune.sample_from(_looked_up(column)) if varies else first
    return space


def _looked_up(column: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
    """One field's value for the cell that the grid has chosen."""
    return lambda config: column[config[IDENTITY]]


def trial_name(trial: Any) -> str:
    """A name for Tune's tools, for ``TuneConfig(trial_name_creator=trial_name, trial_dirname_creator=trial_name)``.

    It contains the most informative fields, and enough digits of the cell's identity to keep names distinct.

    Example:
        >>> from types import SimpleNamespace
        >>> trial_name(SimpleNamespace(config={"rank": 2, "n": 40}, trial_id="0_1"))
        'label_noise_sgd-r2-n40-0_1'
    """
    config = trial.config
    words = [str(config.get("method", "label_noise_sgd"))]
    words += [f"{short}{config[name]}" for name, short in (("rank", "r"), ("n", "n"), ("depth", "L")) if name in config]
    tail = str(config[IDENTITY])[:10] if IDENTITY in config else trial.trial_id
    return "-".join([*("".join(c if c.isalnum() or c in "._+" else "_" for c in word) for word in words), tail])


def named(name: Callable[[Any], str]) -> dict[str, Any]:
    """The arguments of ``TuneConfig`` that name trials and their folders."""
    return {"trial_name_creator": name, "trial_dirname_creator": name}


def check_names(given: Mapping[str, Any]) -> None:
    """Reject a config with keys that are not cell fields; the CellError names the nearest field."""
    unknown = [name for name in given if name not in FIELDS]
    if unknown:
        lines = [f"  {name}: is not a cell field{did_you_mean(name, FIELDS)}" for name in unknown]
        raise CellError("\n".join(["a trial's config is a cell's fields:", *lines, f"  allowed: {', '.join(FIELDS)}"]))


def _plain(value: Any) -> Any:
    """A value as a sweep file would give it: numpy's scalars as Python's, tuples as lists."""
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        return value.item()
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value
