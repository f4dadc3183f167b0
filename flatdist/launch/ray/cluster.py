"""The Ray cluster that a sweep runs on: one of its own on this machine, or one to join."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from types import TracebackType
from typing import Any

from flatdist.errors import LaunchError
from flatdist.launch.settings import LaunchSettings
from flatdist.machine.environment import import_ray

OBJECT_STORE_BYTES = 256 * 2**20  # a sweep keeps only its plan there; Ray would reserve a third of the memory


def is_connected() -> bool:
    """Whether this process is connected to Ray already."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def with_address(settings: LaunchSettings) -> LaunchSettings:
    """The settings with the cluster that Ray's variable RAY_ADDRESS names, where they name none: as in a Ray job."""
    named = os.environ.get("RAY_ADDRESS") or "local"
    if settings.address is not None or named == "local":
        return settings
    return dataclasses.replace(settings, address=named)


class ClusterSession:
    """A connection to Ray, opened on entry and closed on exit if it was opened here.

    A process that is already connected to Ray keeps its connection, and the session uses it: rounds of an adaptive
    sweep, or several sweeps of one program, share one.
    """

    _alone = False  # whether this process has started a Ray of its own, for all sessions that use it

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = with_address(settings)
        self._opened = False

    def __enter__(self) -> ClusterSession:
        settings = self._settings
        ray = import_ray(local=settings.address is None)
        if ray.is_initialized():
            return self
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "flatdist"}
        try:
            if settings.address is None:
                ray.init(
                    address="local",  # else Ray joins any cluster that happens to run on this machine
                    num_cpus=settings.slots or os.cpu_count(),
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    **quiet,
                )
            else:
                ray.init(address=settings.address, **quiet)
        except SystemExit as stop:  # Ray's own answer to a SIGTERM that comes while it connects
            ray.shutdown()
            raise KeyboardInterrupt from stop
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            where = "on this machine" if settings.address is None else f"at {settings.address!r}"
            raise LaunchError(
                f"Ray could not be reached {where}: {error}; allowed for --address: auto (a cluster that this machine "
                f"belongs to), HOST:PORT, ray://HOST:10001; or leave it out to start one here, or use --executor inline"
            ) from error
        self._opened = True
        ClusterSession._alone = settings.address is None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._opened:
            ClusterSession._alone = False
            import_ray(local=False).shutdown()

    @property
    def own(self) -> bool:
        """Whether the cluster is this machine alone, started by this process."""
        return ClusterSession._alone

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as Ray describes them."""
        return [node for node in import_ray(local=False).nodes() if node["Alive"]]

    def gpus_per_trial(self) -> float:
        """GPUs of one trial: as asked for, else one where the cluster has any."""
        if self._settings.gpus_per_trial is not None:
            return self._settings.gpus_per_trial
        if self._settings.device == "cpu":
            return 0.0
        return 1.0 if self._total("GPU") else 0.0

    def slots(self) -> int:
        """Trials that fit on the cluster at a time."""
        settings = self._settings
        slots = int(self._total("CPU") / settings.cpus_per_trial)
        gpus = self.gpus_per_trial()
        if gpus:
            slots = min(slots, int(self._total("GPU") / gpus))
        if settings.max_concurrent is not None:
            slots = min(slots, settings.max_concurrent)
        return max(slots, 1)

    def check_resources(self) -> str | None:
        """A note for a cluster that is yet to grow a node that fits a trial, or None.

        Raises:
            LaunchError: this machine alone runs the sweep, and no trial fits on it.
        """
        settings, gpus = self._settings, self.gpus_per_trial()
        for node in self.nodes():
            has = node["Resources"]
            if has.get("CPU", 0.0) >= settings.cpus_per_trial and has.get("GPU", 0.0) >= gpus:
                return None
        needs = f"a trial asks for {settings.cpus_per_trial:g} CPUs and {gpus:g} GPUs, and no node has them"
        if self.own:
            has = f"{self._total('CPU'):g} CPUs and {self._total('GPU'):g} GPUs"
            raise LaunchError(f"{needs}: this machine offers {has}; lower --cpus-per-trial or --gpus-per-trial")
        return f"{needs} yet: waiting for the autoscaler; without one, lower --cpus-per-trial or --gpus-per-trial"

    def _total(self, resource: str) -> float:
        return sum(float(node["Resources"].get(resource, 0.0)) for node in self.nodes())
