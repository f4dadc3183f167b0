"""Everything a user may choose that does not change the results: one object, from the command line to a worker."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flatdist.cells.plugins import Plugin, loaded_plugins
from flatdist.engines import ENGINE_NAMES, ENGINES, resolve_engine, why_absent
from flatdist.errors import LaunchError, did_you_mean
from flatdist.planning.packs import Card

DEVICES = ("auto", "cpu", "cuda")
EXECUTORS = ("ray", "inline")
DEFAULT_RUNNER = "flatdist.trials.run:run_replicates"
CLUSTER_SLOTS = 64  # a cluster may grow while it works: shards are cut small enough for that many
# The settings that messages offer; all others can be given too.
USUAL = (
    *("limit", "budget", "fit", "retry_failed", "probe"),
    *("executor", "address", "max_concurrent", "cpus_per_trial", "gpus_per_trial", "engine", "device", "pack"),
    *("checkpoint_seconds", "trials", "loggers", "log_folder", "log_level", "log_file"),
)


@dataclass(frozen=True)
class Offer:
    """What the nodes of a cluster have together for trials, asked before the work is planned."""

    cpus: float
    gpus: float
    card: Card | None = None  # the GPU with the least free memory


@dataclass(frozen=True)
class Settings:
    """How much of a sweep is run and how, on this machine or on a cluster; plain data, sent to every worker.

    Attributes:
        limit: only this many cells; None for all.
        budget: reject a plan predicted to take longer, such as ``30m``; None for no limit.
        fit: cut the plan down to the budget instead.
        retry_failed: also run replicates whose last attempt failed.
        probe: time a few short runs of the kinds of cells that the store has no timings for.
        executor: ``ray`` (a Tune trial for each shard) or ``inline`` (this process, one shard after the other).
        address: Ray cluster to join (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``); None takes the one that Ray's
            variable RAY_ADDRESS names, as in a Ray job, else starts one on this machine, reachable from there only.
        offer: what that cluster has, once it was asked; None plans for one of ``CLUSTER_SLOTS`` processors.
        slots: CPUs that a local Ray offers; None takes all of this machine's.
        max_concurrent: trials at a time, at most; None leaves it to the resources.
        cpus_per_trial: CPUs of one trial, and the size of every thread pool in it.
        gpus_per_trial: GPUs of one trial, fractions allowed; None takes one where the cluster has any, else none.
        engine: how SGD steps are executed; ``auto`` takes the fastest one that runs the cell.
        device: ``cpu`` or ``cuda``; ``auto`` follows the trial's GPUs.
        pack: replicates of different cells that are trained together at most; None fills a GPU, and packs no cells on
            the CPU.
        cpu_slots: trials without steps that run at a time beside GPUs, at most; None leaves it to the processors.
        seed: shuffles the order of the work.
        memory_limit: bytes that one trial may use; None for 80 % of this machine's free memory over the slots.
        card: the GPU that packs are cut for; None asks this machine's.
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
        runner: ``module:function`` that runs one cell's replicates.
        planned_steps: of :class:`~flatdist.trials.settings.RunSettings`; set by the launch.
        plugins: methods and ensembles of one's own, for the workers; those of the driver if none are given.
        provenance: columns of the trials table that describe this checkout, resolved once by the driver.

    Raises:
        LaunchError: lists every value that is not allowed, with the nearest name.
    """

    executor: str = "ray"
    address: str | None = None
    offer: Offer | None = None
    slots: int | None = None
    max_concurrent: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    engine: str = "auto"
    device: str = "auto"
    pack: int | None = None
    cpu_slots: int | None = None
    seed: int = 0
    memory_limit: int | None = None
    card: Card | None = None
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
    runner: str = DEFAULT_RUNNER
    planned_steps: Mapping[str, int] = field(default_factory=dict)
    plugins: tuple[Plugin, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    limit: int | None = None
    budget: str | None = None
    fit: bool = False
    retry_failed: bool = False
    probe: bool = True

    def __post_init__(self) -> None:
        words = {"executor": EXECUTORS, "engine": ENGINE_NAMES, "device": DEVICES, "trials": ("packs", "cells")}
        problems = [
            f"{name} {value!r} does not exist{did_you_mean(str(value), known)}; allowed: {', '.join(known)}"
            for name, known in words.items()
            if (value := getattr(self, name)) not in known
        ]
        wholes = ("slots", "max_concurrent", "max_deaths", "pack")
        above = ("cpus_per_trial", "checkpoint_seconds", "flush_seconds")
        checks = [(name, getattr(self, name) is None or getattr(self, name) >= 1, "1 or more") for name in wholes]
        checks += [(name, 0 < getattr(self, name) < math.inf, "a number greater than 0") for name in above]
        gpus = self.gpus_per_trial
        whole_or_share = gpus is None or 0 <= gpus < 1 or (gpus >= 1 and float(gpus).is_integer())
        checks.append(("gpus_per_trial", whole_or_share, "0, a fraction below 1, or a whole number"))
        checks.append(("runner", self.runner.count(":") == 1, "module:function"))
        problems += [
            f"{name}: {getattr(self, name)!r} cannot be used; allowed: {allowed}"
            for name, fine, allowed in checks
            if not fine
        ]
        if problems:
            raise LaunchError("\n".join(problems))

    def for_workers(self) -> Settings:
        """The settings with the plugins and the provenance of this process, where they have none."""
        from flatdist.machine.provenance import run_provenance

        provenance = self.provenance or run_provenance()
        return dataclasses.replace(self, plugins=self.plugins or loaded_plugins(), provenance=provenance)

    @property
    def threads(self) -> int:
        """Size of every thread pool in a trial; a trial with a fraction of a CPU has one thread."""
        return max(1, int(self.cpus_per_trial))

    @property
    def cluster(self) -> str | None:
        """The Ray cluster to join, that of Ray's variable RAY_ADDRESS if the settings name none; None starts one."""
        named = self.address or os.environ.get("RAY_ADDRESS") or "local"
        return None if named == "local" else named

    @property
    def joins_cluster(self) -> bool:
        """Whether trials run on a cluster that is there already."""
        return self.executor == "ray" and self.cluster is not None

    @property
    def expected_device(self) -> str:
        """Where trials are expected to run; this process itself uses a GPU only where it is told to."""
        if self.device != "auto":
            return self.device
        if self.executor == "inline" or self.gpus_per_trial is not None:
            return "cuda" if self.gpus_per_trial else "cpu"
        return "cuda" if self._resources.gpus else "cpu"

    @property
    def expected_engine(self) -> str:
        """What is expected to take the steps of an ordinary cell.

        Raises:
            LaunchError: the engine does not run on the device.
        """
        return resolve_engine(self.engine, self.expected_device)

    @property
    def expected_slots(self) -> int:
        """Trials that are expected to run at a time."""
        if self.executor == "inline":
            return 1
        has = self._resources
        slots = int(has.cpus / self.cpus_per_trial)
        if self.expected_device == "cuda" and has.gpus:
            slots = min(slots, int(has.gpus / (self.gpus_per_trial or 1.0)))
        if slots < 1 and self.joins_cluster:  # a head alone, which is yet to grow nodes
            slots = CLUSTER_SLOTS
        return min(max(1, slots), self.max_concurrent or max(1, slots))

    @property
    def most_slots(self) -> int:
        """Trials that may run at a time once a cluster has grown."""
        most = max(self.expected_slots, CLUSTER_SLOTS if self.joins_cluster else 1)
        return min(most, self.max_concurrent or most)

    @property
    def _resources(self) -> Offer:
        """What there is for trials: the cluster's, as far as it is known, or this machine's."""
        if self.joins_cluster:
            return self.offer or Offer(CLUSTER_SLOTS * self.cpus_per_trial, 0.0)
        return Offer(self.slots or processors(), local_gpus())

    @property
    def expected_cpu_slots(self) -> int:
        """Trials without steps that run at a time beside the GPUs."""
        return self.cpu_slots or dataclasses.replace(self, device="cpu").expected_slots

    @property
    def local_memory(self) -> bool:
        """Whether this machine's memory limits the trials."""
        return not self.joins_cluster and self.expected_device == "cpu"

    @property
    def expected_card(self) -> Card | None:
        """The GPU that packs are cut for, None on the CPU."""
        if self.expected_device == "cpu":
            return None
        return self.card or ((self.offer and self.offer.card) or Card() if self.joins_cluster else Card.here())

    def device_notes(self) -> list[str]:
        """Lines on what a fraction of a GPU for each trial means, and on fast engines that are not installed."""
        if self.expected_device == "cpu":
            return []
        notes: list[str] = []
        share = self.gpus_per_trial or 1.0
        if share < 1:
            pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")  # noqa: S108  NVIDIA's default
            if (pipe / "control").exists() and not self.joins_cluster:
                how = "at the same time, through NVIDIA's MPS, which runs here"
            else:
                how = "in turns, unless NVIDIA's MPS runs there; one pack on a whole GPU fills it better"
            notes.append(f"note:   {int(1 / share)} trials use a GPU {how}")
        if self.engine == "auto" and self.expected_engine == "batched":
            absent = (f"{name} ({why_absent(name)})" for name, entry in ENGINES.items() if entry.on_chip)
            notes.append(f"note:   the batched engine is used, since faster ones are missing: {', '.join(absent)}")
        return notes

    def pinned(self, device: str | None = None) -> Settings:
        """The settings with a device in place of ``auto``; None for the one that trials are expected to use."""
        device = device or self.expected_device
        return dataclasses.replace(
            self, device=device, gpus_per_trial=0.0 if device == "cpu" else self.gpus_per_trial or 1.0
        )

    def check_here(self) -> None:
        """Reject resources this machine lacks, before anything is probed or started; a cluster is checked later.

        Raises:
            LaunchError: no such device, no GPU, or a trial wider than this machine.
        """
        if self.joins_cluster:
            return
        if self.executor == "ray" and self.cpus_per_trial > (has := os.cpu_count() or 1):
            asked = f"--cpus-per-trial {self.cpus_per_trial:g}"
            raise LaunchError(f"{asked}: this machine has {has} CPUs; allowed: at most {has}, or a cluster's --address")
        asked = "--device cuda" if self.device == "cuda" else f"--gpus-per-trial {self.gpus_per_trial or 0:g}"
        if (self.device == "cuda" or (self.device == "auto" and self.gpus_per_trial)) and not cuda_devices():
            raise LaunchError(
                f"{asked}: {unusable_gpus() or 'torch sees no CUDA device on this machine'}; use --device cpu, or a "
                "cluster's --address"
            )


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_gpus() -> int:
    """GPUs of this machine, counted without loading torch."""
    return sum(path.name[6:].isdigit() for path in Path("/dev").glob("nvidia*"))


def cuda_devices() -> tuple[str, ...]:
    """Names of the CUDA devices that torch sees in this process."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(torch.cuda.get_device_name(index) for index in range(count))


def unusable_gpus() -> str | None:
    """What is wrong with this machine's GPUs where torch can use none of them; None where there are none."""
    if not local_gpus() or cuda_devices():
        return None
    return "there is a GPU but torch does not see it: torch is a CPU build, or the driver is too old"


def read_settings(options: Mapping[str, Any]) -> Settings:
    """Settings from options by name.

    Raises:
        LaunchError: an option does not exist, with the nearest name, or a value is not allowed.
    """
    known = [one.name for one in dataclasses.fields(Settings)]
    for name in options:
        if name not in known:
            raise LaunchError(f"there is no option {name!r}{did_you_mean(name, USUAL)}; allowed: {', '.join(USUAL)}")
    given: dict[str, Any] = {n: tuple(v) if n in ("loggers", "plugins") else v for n, v in options.items()}
    return Settings(**given)
