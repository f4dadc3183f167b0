"""The Ray executor: one Tune trial for each shard.

Tune places the trials, keeps the slots filled and starts a trial again whose process or node died. What is done is the
store's to say: Tune's state lives in a scratch folder, is never restored, and goes when the sweep ends.
"""

from __future__ import annotations

import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.errors import LaunchError
from flatdist.launch.inline import same_error
from flatdist.launch.interrupt import Interrupts
from flatdist.launch.packing import PackedShards
from flatdist.launch.preflight import versions
from flatdist.launch.progress.display import Display
from flatdist.launch.progress.events import Notice
from flatdist.launch.progress.state import Progress
from flatdist.launch.ray.cluster import ClusterSession
from flatdist.launch.ray.loggers import tune_loggers
from flatdist.launch.ray.monitor import Monitor
from flatdist.launch.ray.trial import shard_trial
from flatdist.launch.settings import LaunchSettings
from flatdist.machine.environment import import_ray, quiet_tune

if TYPE_CHECKING:
    from flatdist.planning import Shard

POLL_SECONDS = 0.2
LEAVE_SECONDS = 6.0  # after an interrupt, workers have this long to store their rows
ERROR_LENGTH = 300
LOG_FILES = ("progress.csv", "result.json", "events.out.tfevents*")  # of the loggers csv, json and tensorboard


@dataclass
class Round:
    """How one pass over a set of shards ended.

    Attributes:
        errors: shard's number -> last line of what Tune says of its end, for those that did not end well.
        stopped: why the sweep stopped itself, or None.
    """

    errors: dict[int, str] = field(default_factory=dict)
    stopped: str | None = None


def run_round(
    session: ClusterSession,
    shards: Mapping[int, Shard],
    store_uri: str,
    settings: LaunchSettings,
    progress: Progress,
    display: Display,
    interrupts: Interrupts,
) -> Round:
    """Run shards as Tune trials until all have ended, died ``max_deaths`` times, or the sweep is to stop.

    Args:
        session: the cluster.
        shards: number -> shard.
        store_uri: the store; an absolute path or a URI.
        settings: how to run them.
        progress: fed with the workers' events.
        display: shows it.
        interrupts: the user's wish to stop.
    """
    ray = import_ray(local=False)
    progress.expect(shards.items())
    name = f"flatdist-{uuid.uuid4().hex[:12]}"
    near = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=True
    )
    monitor = (
        ray.remote(Monitor)
        .options(name=name, num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=near)
        .remote()
    )
    tune = _TuneThread(session, shards, store_uri, settings, monitor, name)
    result = Round()
    stopping_since: float | None = None
    with quiet_tune():
        tune.start()
        ended = False
        while True:
            alive = tune.is_alive()
            stopping = interrupts.requested or result.stopped is not None
            if stopping and stopping_since is None:
                stopping_since = time.monotonic()
            waited = time.monotonic() - stopping_since if stopping_since is not None else 0.0
            left = not progress.running and waited > 2 * POLL_SECONDS
            ended = not alive or (stopping and (left or waited > LEAVE_SECONDS))
            try:
                events = ray.get(monitor.drain.remote(stopping, ended), timeout=10 * POLL_SECONDS)
            except (ray.exceptions.RayError, TimeoutError):
                events = []
            for event in events:
                progress.apply(event)
                if isinstance(event, Notice):
                    display.message(event.text)
            if not stopping:
                result.stopped = same_error(progress, settings)
            display.update(progress)
            if ended:
                break
            tune.join(POLL_SECONDS)
        tune.join(3.0 if stopping else None)
        if settings.loggers and keep_logs(Path(tune.scratch) / name, Path(settings.log_folder) / name):
            display.message(f"the loggers' files are in {Path(settings.log_folder) / name}")
        ray.kill(monitor)
    shutil.rmtree(tune.scratch, ignore_errors=True)
    if tune.failure is not None and not stopping:
        raise LaunchError(f"Ray Tune ended early: {tune.failure}; the same command goes on") from tune.failure
    result.errors = tune.errors
    return result


class _TuneThread(threading.Thread):
    """``Tuner.fit`` in a thread, since the main thread has the signals and the display."""

    def __init__(
        self,
        session: ClusterSession,
        shards: Mapping[int, Shard],
        store_uri: str,
        settings: LaunchSettings,
        monitor: Any,
        name: str,
    ) -> None:
        super().__init__(name="flatdist-tune", daemon=True)
        self.scratch = tempfile.mkdtemp(prefix="flatdist-tune-")
        self.failure: BaseException | None = None
        self.errors: dict[int, str] = {}
        self._arguments = (session, shards, store_uri, settings, monitor, name)

    def run(self) -> None:
        try:
            self._fit(*self._arguments)
        except BaseException as error:
            self.failure = error

    def _fit(
        self,
        session: ClusterSession,
        shards: Mapping[int, Shard],
        store_uri: str,
        settings: LaunchSettings,
        monitor: Any,
        name: str,
    ) -> None:
        from ray import tune

        from flatdist.launch.ray.stopper import StopWhenEnded

        numbers = list(shards)
        gpus = session.gpus_per_trial()
        trainable = tune.with_parameters(
            shard_trial,
            packed=PackedShards([shards[number] for number in numbers]),
            numbers=numbers,
            monitor=monitor,
            store_uri=store_uri,
            settings=settings,
            gpus=gpus,
            slots=session.slots(),
            expected=versions(),
        )
        resources = {"cpu": settings.cpus_per_trial, "gpu": gpus}
        tuner = tune.Tuner(
            tune.with_resources(trainable, resources),
            param_space={"position": tune.grid_search(list(range(len(numbers))))},
            tune_config=tune.TuneConfig(
                max_concurrent_trials=settings.max_concurrent,
                reuse_actors=settings.reuse_actors,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name=name,
                storage_path=self.scratch,
                verbose=0,
                stop=StopWhenEnded(name),
                failure_config=tune.FailureConfig(max_failures=settings.max_deaths - 1),
                callbacks=tune_loggers(settings.loggers),
            ),
        )
        results = tuner.fit()
        for result in (results[i] for i in range(len(results))):
            if result.error is not None and result.config is not None:
                self.errors[numbers[result.config["position"]]] = _last_line(result.error)


def keep_logs(scratch: Path, folder: Path) -> int:
    """Copy what Tune's file loggers wrote out of its scratch folder, nothing of its own state; returns how many files.

    Args:
        scratch: Tune's folder of one round, a folder each trial.
        folder: where to.
    """
    files = [path for pattern in LOG_FILES for path in scratch.glob(f"*/{pattern}")]
    for path in files:
        kept = folder / path.relative_to(scratch)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, kept)
    return len(files)


def split(shard: Shard) -> list[Shard]:
    """A shard whose process died repeatedly, in parts: every cell alone, and its replicates in halves."""
    from flatdist.planning import Shard

    replicates = sum(len(item.replicates) for item in shard.items)
    parts = []
    for item in shard.items:
        half = (len(item.replicates) + 1) // 2
        for some in (item.replicates[:half], item.replicates[half:]):
            if some:
                share = shard.predicted_seconds * len(some) / replicates
                parts.append(Shard((replace(item, replicates=some),), share))
    return parts


def _trial_name(trial: Any) -> str:
    return f"shard-{trial.config['position']}"


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:ERROR_LENGTH]
