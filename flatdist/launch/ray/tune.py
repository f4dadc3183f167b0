"""The Ray executor: one Tune trial for each pack of cells, or for each cell.

Tune places the trials, keeps the slots filled and restarts a trial whose process or node died. The store alone records
what is done: Tune's state lives in a scratch folder, is never restored, and is deleted when the sweep ends.
"""

from __future__ import annotations

import math
import shutil
import socket
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flatdist.errors import LaunchError, did_you_mean
from flatdist.launch.interrupt import Interrupts
from flatdist.launch.progress.display import Display
from flatdist.launch.progress.state import Event, Notice, Progress
from flatdist.launch.ray.cluster import ClusterSession, last_line, versions
from flatdist.launch.ray.trial import (
    IDENTITY,
    Monitor,
    PackedShards,
    Task,
    cell_trial,
    grid_space,
    named,
    shard_trial,
    trial_name,
)
from flatdist.machine.environment import import_ray, quiet_tune
from flatdist.planning.settings import Settings
from flatdist.planning.work import Shard, WorkItem

if TYPE_CHECKING:
    from ray.tune import Callback, Stopper

POLL_SECONDS = 0.2
ASK_SECONDS = 0.5
LEAVE_SECONDS = 6.0  # after an interrupt, workers have this long to store their rows
HEAD_SECONDS = 8.0  # without an answer of the cluster's head before a sweep gives up
LOG_FILES = ("progress.csv", "result.json", "events.out.tfevents*")  # of the loggers csv, json and tensorboard
# Tune's logger callbacks: module, class, its options, the package that it needs
LOGGERS: Mapping[str, tuple[str, str, dict[str, str], str | None]] = {
    "tensorboard": ("ray.tune.logger", "TBXLoggerCallback", {}, "tensorboardX"),
    "csv": ("ray.tune.logger", "CSVLoggerCallback", {}, None),
    "json": ("ray.tune.logger", "JsonLoggerCallback", {}, None),
    "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback", {"experiment_name": "flatdist"}, "mlflow"),
    "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback", {"project": "flatdist"}, "wandb"),
}


class Work(Protocol):
    """What the trials of one pass run."""

    stopping: bool = False  # whether the user, or an error that all cells share, has stopped the sweep
    solving: frozenset[Any] = frozenset()  # trials, by cell id or position, of solvers alone, which need no GPU

    def shards(self) -> Mapping[int, Shard]:
        """The shards that are new since the last call, by number."""

    def events(self) -> Sequence[Event]:
        """Events that workers cannot report, since the last call."""
        return ()

    def tuner(self, task: Task, slots: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The trainable, its ``param_space`` and the arguments of Tune's configuration."""

    def number(self, config: Mapping[str, Any]) -> int:
        """Of the shard that a trial runs."""


class Shards(Work):
    """Shards that are known from the start: one trial per shard, or per cell with ``--trials cells``."""

    def __init__(self, shards: Mapping[int, Shard], *, cells: bool) -> None:
        self._all, self._cells, self._new = shards, cells, dict(shards)
        self._numbers = {item.cell.cell_id: number for number, shard in shards.items() for item in shard.items}
        keys = self._numbers if cells else range(len(shards))
        self.solving = frozenset(key for key, shard in zip(keys, shards.values(), strict=True) if not shard.takes_steps)

    def shards(self) -> Mapping[int, Shard]:
        """All shards, on the first call."""
        new, self._new = self._new, {}
        return new

    def tuner(self, task: Task, slots: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """A grid over the shards, or over the cells under their own fields."""
        from ray import tune

        if self._cells:
            cells = [item for shard in self._all.values() for item in shard.items]
            items = {item.cell.cell_id: (self._numbers[item.cell.cell_id], item) for item in cells}
            trainable = tune.with_parameters(cell_trial, items=items, task=task)
            return trainable, grid_space([item.cell for item in cells]), named(trial_name)
        numbers = list(self._all)
        packed = PackedShards(list(self._all.values()))
        trainable = tune.with_parameters(shard_trial, packed=packed, numbers=numbers, task=task)
        texts = [_contents(shard) for shard in self._all.values()]
        space: dict[str, Any] = {"position": tune.grid_search(list(range(len(numbers))))}
        space["cells"] = tune.sample_from(lambda config: texts[config["position"]])
        return trainable, space, named(lambda trial: f"pack-{trial.config['position']:05d}")

    def number(self, config: Mapping[str, Any]) -> int:
        """By the cell, or by the position among the shards."""
        return self._numbers[config[IDENTITY]] if IDENTITY in config else list(self._all)[config["position"]]


def _contents(shard: Shard) -> str:
    first = shard.items[0].cell
    more = f" and {len(shard.items) - 1} more cells" if len(shard.items) > 1 else ""
    return f"{first.method} rank={first.rank} n={first.n}{more}, {shard.replicates} replicates"


def run_round(
    session: ClusterSession,
    work: Work,
    store_uri: str,
    settings: Settings,
    progress: Progress,
    display: Display,
    interrupts: Interrupts,
) -> tuple[dict[int, str], str | None]:
    """Run work as Tune trials until all have ended, died ``max_deaths`` times, or the sweep is to stop.

    Returns:
        Shard's number -> last line of Tune's error, for shards that failed; and why the sweep stopped itself, or None.
    """
    ray = import_ray(local=False)
    progress.expect(work.shards().items())
    name = f"flatdist-{uuid.uuid4().hex[:12]}"
    near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    monitor = (
        ray.remote(Monitor)
        .options(name=name, num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=near)
        .remote()
    )
    scratch = tempfile.mkdtemp(prefix="flatdist-tune-")
    head = Head(ray.get_runtime_context().gcs_address if session.own else None)
    stopped: str | None = None
    stopping_since = math.inf
    with quiet_tune():
        trials = _in_thread(lambda: _fit(session, work, store_uri, settings, monitor, name, scratch))
        ended = False
        while not ended:
            ended = trials.done()
            stopping = work.stopping = interrupts.requested or stopped is not None
            progress.add(work.shards().items())
            if stopping:
                stopping_since = min(stopping_since, time.monotonic())
                waited = time.monotonic() - stopping_since
                ended |= waited > (LEAVE_SECONDS if progress.running else 2 * POLL_SECONDS)
            try:
                events = ray.get(monitor.drain.remote(stopping, ended), timeout=10 * POLL_SECONDS)
            except (ray.exceptions.RayError, TimeoutError):
                events = []
            for event in (*events, *work.events()):
                progress.apply(event)
                if isinstance(event, Notice):
                    display.message(event.text)
            if not stopping:
                stopped = same_error(progress, settings) or head.problem()
            display.update(progress)
            if not ended:
                wait([trials], POLL_SECONDS)
        wait([trials], 3.0 if stopping else None)
        if settings.loggers:
            keep_logs(Path(scratch) / name, Path(settings.log_folder) / name, display)
        if head.answers:  # else the call would wait for it
            ray.kill(monitor)
    shutil.rmtree(scratch, ignore_errors=True)
    failure = trials.exception() if trials.done() else None
    if failure is not None and not stopping:
        raise LaunchError(f"Ray Tune ended early: {failure}; rerun the command to resume") from failure
    return trials.result() if trials.done() and failure is None else {}, stopped


def _in_thread(call: Callable[[], dict[int, str]]) -> Future[dict[int, str]]:
    """Call a function in a thread that may outlive this process's work: the main one has the signals and display."""
    future: Future[dict[int, str]] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="flatdist-tune", daemon=True).start()
    return future


def same_error(progress: Progress, settings: Settings) -> str | None:
    """The reason to give up a sweep whose first cells all fail with the same error, or None."""
    error = progress.common_error(settings.same_error_limit)
    text = f"the first {settings.same_error_limit} cells all failed with the same error: {error}"
    return None if error is None else text


class Head:
    """Whether this machine's own Ray has its control service (GCS); without it Ray hangs, then ends the process."""

    def __init__(self, address: str | None) -> None:
        self._address, self._looked = address, time.monotonic()  # None: not this process's own cluster
        self._since: float | None = None  # when it was first found gone
        self.answers = True

    def problem(self) -> str | None:
        """Why the sweep should stop, once the service has been gone for a while; otherwise None."""
        now = time.monotonic()
        if self._address is not None and now - self._looked >= HEAD_SECONDS / 4:
            self._looked = now
            host, _, port = self._address.rpartition(":")
            try:
                socket.create_connection((host, int(port)), timeout=1.0).close()
            except ConnectionRefusedError:
                self._since = self._since or now
                self.answers = False
            except OSError:
                pass  # a machine that is very busy
            else:
                self._since, self.answers = None, True
        if self._since is None or now - self._since < HEAD_SECONDS:
            return None
        return f"Ray's control service at {self._address} has ended; what was finished is stored"


def _fit(
    session: ClusterSession, work: Work, store_uri: str, settings: Settings, monitor: Any, name: str, scratch: str
) -> dict[int, str]:
    """Run the trials; returns Tune's errors of those that failed."""
    from ray import tune

    gpus, slots = session.gpus_per_trial(), session.slots()
    trainable, space, config = work.tuner(Task(monitor, store_uri, settings, slots, versions()), slots)
    cpus, solving = settings.cpus_per_trial, work.solving  # all that Tune is to pickle with the function

    def resources(config: Mapping[str, Any]) -> Any:
        """A GPU only if an engine takes steps: solvers run on the CPU."""
        solves = config.get(IDENTITY, config.get("position")) in solving
        return tune.PlacementGroupFactory([{"CPU": cpus} | ({"GPU": gpus} if gpus and not solves else {})])

    config = {"max_concurrent_trials": settings.max_concurrent, "reuse_actors": settings.reuse_actors} | config
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        param_space=space,
        tune_config=tune.TuneConfig(**config),
        run_config=tune.RunConfig(
            name=name,
            storage_path=scratch,
            verbose=0,
            stop=_stopper(name),
            failure_config=tune.FailureConfig(max_failures=settings.max_deaths - 1),
            callbacks=tune_loggers(settings.loggers),
        ),
    )
    results = tuner.fit()
    ended = (results[i] for i in range(len(results)))
    return {
        work.number(result.config): last_line(result.error)
        for result in ended
        if result.error is not None and result.config is not None
    }


def _stopper(name: str) -> Stopper:
    """Ends all trials when the driver tells the monitor to; finds the monitor by name, so that it can be copied."""
    import ray
    from ray.tune import Stopper

    class StopWhenEnded(Stopper):  # type: ignore[misc]
        asked, is_ended = 0.0, False

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            """A trial ends by itself."""
            return False

        def stop_all(self) -> bool:
            """Whether to end all trials; called many times a second."""
            now = time.monotonic()
            if not self.is_ended and now - self.asked >= ASK_SECONDS:
                self.asked = now
                try:
                    self.is_ended = bool(ray.get(ray.get_actor(name).ended.remote(), timeout=2.0))
                except (ValueError, ray.exceptions.RayError, TimeoutError):
                    return False
            return self.is_ended

    return StopWhenEnded()


def split(shard: Shard) -> list[Shard]:
    """The parts of a shard whose process died repeatedly: a pack in two, otherwise each cell alone, in halves."""
    if shard.together and len(shard.items) > 1:
        half = len(shard.items) // 2
        parts = [shard.items[:half], shard.items[half:]]
        return [replace(shard, items=part, predicted_seconds=shard.predicted_seconds / 2) for part in parts]
    halves: list[WorkItem] = []
    for item in shard.items:
        half = (len(item.replicates) + 1) // 2
        halves += [replace(item, replicates=part) for part in (item.replicates[:half], item.replicates[half:]) if part]
    each = shard.predicted_seconds / max(shard.replicates, 1)
    return [Shard((item,), each * len(item.replicates)) for item in halves]


def check_loggers(names: Sequence[str], trials: str) -> None:
    """Reject loggers that do not exist, have nothing to show or lack packages, before anything is started.

    Raises:
        LaunchError: names the nearest logger, or the package to install.
    """
    for name in names:
        if name not in LOGGERS:
            hint = did_you_mean(name, LOGGERS)
            raise LaunchError(f"logger {name!r} does not exist{hint}; allowed: {', '.join(LOGGERS)}")
        package = LOGGERS[name][3]
        if package is not None and find_spec(package) is None:
            raise LaunchError(f"logger {name!r} needs the package {package}; pip install {package}")
    if names and trials == "packs":
        raise LaunchError(
            "--logger shows a trial's curves, and a trial of --trials packs is many cells, none of which has any; add "
            "--trials cells, or publish the stored results afterwards with 'flatdist export SWEEP --to tensorboard'"
        )


def tune_loggers(names: Sequence[str]) -> list[Callback]:
    """Tune's logger callbacks by name.

    Raises:
        LaunchError: its package cannot be used.
    """
    callbacks = []
    for name in names:
        module, attribute, options, _ = LOGGERS[name]
        try:
            callbacks.append(getattr(import_module(module), attribute)(**options))
        except (ImportError, RuntimeError) as error:
            raise LaunchError(f"logger {name!r} cannot be used: {error}; install its package") from error
    return callbacks


def keep_logs(scratch: Path, folder: Path, display: Display) -> None:
    """Copy what Tune's file loggers wrote out of its scratch folder, a folder each trial; nothing of its own state."""
    files = [path for pattern in LOG_FILES for path in scratch.glob(f"*/{pattern}")]
    for path in files:
        kept = folder / path.relative_to(scratch)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
    if files:
        display.message(f"the loggers' files are in {folder}")
