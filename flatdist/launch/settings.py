"""How a plan is executed: everything a user may choose that does not change the results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flatdist.cells.plugins import Plugin, loaded_plugins
from flatdist.engines import ENGINE_NAMES as ENGINES
from flatdist.errors import LaunchError, did_you_mean

DEVICES = ("auto", "cpu", "cuda")
DEFAULT_RUNNER = "flatdist.trials.run:run_replicates"


@dataclass(frozen=True)
class LaunchSettings:
    """How a plan is executed, on this machine or on a cluster; plain data, sent to every worker.

    Attributes:
        address: Ray cluster to join (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``); None takes the one that Ray's
            variable RAY_ADDRESS names, as in a Ray job, else starts one on this machine, reachable from there only.
        slots: CPUs that a local Ray offers; None takes all of this machine's.
        max_concurrent: trials at a time, at most; None leaves it to the resources.
        cpus_per_trial: CPUs of one trial, and the size of every thread pool in it.
        gpus_per_trial: GPUs of one trial, fractions allowed; None takes one where the cluster has any, else none.
        engine: how SGD steps are executed; ``auto`` takes the fastest one that runs the cell.
        device: ``cpu`` or ``cuda``; ``auto`` follows the trial's GPUs.
        checkpoint_seconds: a trial saves its state to the store this often, in seconds.
        launch: names the launch to its workers, so that they share the work with those of others; set by the launch.
        flush_seconds: finished rows wait in a worker's memory for at most this long, in seconds.
        store_patience: seconds for which a worker goes on trying to write to a store that answers with errors.
        max_deaths: a shard whose process or node died this often is split, and its parts get as many tries again.
        same_error_limit: the sweep stops when its first so many distinct cells all failed with the same error.
        reuse_actors: one worker process runs many trials after each other, which saves seconds for each.
        trials: a Tune trial is one of ``cells``, which reports its history as it trains, or of ``packs`` of cells.
        loggers: Tune's logger callbacks to switch on, for ``cells``: tensorboard, csv, json, mlflow, wandb.
        log_folder: where the files of loggers that write any (tensorboard, csv, json) are kept, a folder each round.
        log_level: of flatdist's own loggers, in the driver and every worker: debug, info, warning or error.
        log_file: where they write; a worker's file has its host and process number appended.
        planned_steps: of :class:`~flatdist.trials.settings.RunSettings`; set by the launch.
        runner: ``module:function`` that runs one cell's replicates.
        plugins: methods and ensembles of one's own, for the workers; those of the driver if none are given.
        provenance: columns of the trials table that describe this checkout, resolved once by the driver.
    """

    address: str | None = None
    slots: int | None = None
    max_concurrent: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    engine: str = "auto"
    device: str = "auto"
    checkpoint_seconds: float = 60.0
    launch: str = ""
    flush_seconds: float = 10.0
    store_patience: float = 120.0
    max_deaths: int = 2
    same_error_limit: int = 5
    reuse_actors: bool = True
    trials: str = "packs"
    loggers: tuple[str, ...] = ()
    log_folder: str = "tune-logs"
    log_level: str | None = None
    log_file: str | None = None
    planned_steps: Mapping[str, int] = field(default_factory=dict)
    runner: str = DEFAULT_RUNNER
    plugins: tuple[Plugin, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [
            f"{name}: {getattr(self, name)!r} is not allowed; allowed: {allowed}"
            for name, fine, allowed in (
                ("slots", self.slots is None or self.slots >= 1, "a whole number of at least 1"),
                ("max_concurrent", self.max_concurrent is None or self.max_concurrent >= 1, "at least 1"),
                ("cpus_per_trial", 0 < self.cpus_per_trial < math.inf, "a number greater than 0"),
                ("gpus_per_trial", _is_gpu_share(self.gpus_per_trial), "0, a fraction below 1, or a whole number"),
                ("engine", self.engine in ENGINES, ", ".join(ENGINES) + did_you_mean(self.engine, ENGINES)),
                ("device", self.device in DEVICES, ", ".join(DEVICES) + did_you_mean(self.device, DEVICES)),
                ("checkpoint_seconds", self.checkpoint_seconds > 0, "a number of seconds greater than 0"),
                ("flush_seconds", self.flush_seconds > 0, "a number of seconds greater than 0"),
                ("max_deaths", self.max_deaths >= 1, "a whole number of at least 1"),
                ("trials", self.trials in ("packs", "cells"), "packs, cells"),
                ("runner", self.runner.count(":") == 1, "module:function"),
            )
            if not fine
        ]
        if problems:
            raise LaunchError("these launch settings cannot be used:\n" + "\n".join(f"  {line}" for line in problems))

    def for_workers(self) -> LaunchSettings:
        """The settings with the plugins and the provenance of this process, where they have none."""
        from flatdist.machine.provenance import run_provenance

        provenance = self.provenance or run_provenance()
        return dataclasses.replace(self, plugins=self.plugins or loaded_plugins(), provenance=provenance)

    @property
    def threads(self) -> int:
        """Size of every thread pool in a trial; a trial with a fraction of a CPU has one thread."""
        return max(1, int(self.cpus_per_trial))


def _is_gpu_share(gpus: float | None) -> bool:
    return gpus is None or 0 <= gpus < 1 or (gpus >= 1 and float(gpus).is_integer())
