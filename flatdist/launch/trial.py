"""What runs inside a Tune trial, and what Tune is given beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from flatdist.errors import LaunchError
from flatdist.launch.environment import import_ray
from flatdist.launch.events import Event, Notice, RowStored
from flatdist.launch.monitor import Link
from flatdist.launch.packing import PackedShards
from flatdist.launch.settings import LaunchSettings
from flatdist.launch.worker import run_shard
from flatdist.suggestions import did_you_mean

if TYPE_CHECKING:
    from ray.tune import Callback

LOGGERS = {
    "tensorboard": ("ray.tune.logger", "TBXLoggerCallback"),
    "csv": ("ray.tune.logger", "CSVLoggerCallback"),
    "json": ("ray.tune.logger", "JsonLoggerCallback"),
    "mlflow": ("ray.air.integrations.mlflow", "MLflowLoggerCallback"),
    "wandb": ("ray.air.integrations.wandb", "WandbLoggerCallback"),
}


def shard_trial(
    config: dict[str, Any],
    *,
    packed: PackedShards,
    numbers: Sequence[int],
    monitor: Any,
    store_uri: str,
    settings: LaunchSettings,
    gpus: float,
    slots: int,
) -> None:
    """Run one shard inside a Tune trial."""
    from ray import tune

    number = numbers[config["position"]]
    with Link(monitor, slots) as link:
        before = link.begin(number)
        if link.should_stop():
            return
        rows: list[RowStored] = []

        def report(event: Event) -> None:
            if settings.loggers and isinstance(event, RowStored):
                rows.append(event)
            link.report(event)

        try:
            counts = run_shard(
                packed[config["position"]],
                store_uri,
                settings,
                report,
                number=number,
                should_stop=link.should_stop,
                again=before > 0,
                device=trial_device(settings, gpus),
            )
        except Exception as error:
            link.report(Notice(f"shard {number} was left: {type(error).__name__}: {error}"))
            raise
    for row in rows:
        tune.report({"cell_id": row.cell_id, "replicate": row.replicate, "relative_error": row.relative_error})
    tune.report({"stored": counts.stored, "failed": counts.failed})


def trial_device(settings: LaunchSettings, gpus: float) -> str:
    """Where a trial computes: on a GPU if it was given one and torch sees it."""
    if settings.device != "auto":
        return settings.device
    if not gpus:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def tune_loggers(names: Sequence[str]) -> list[Callback]:
    """Tune's logger callbacks by name.

    Raises:
        LaunchError: no such logger, or its package is not installed.
    """
    import_ray(local=False)
    from importlib import import_module

    callbacks = []
    for name in names:
        if name not in LOGGERS:
            hint = did_you_mean(name, LOGGERS)
            raise LaunchError(f"logger {name!r} does not exist{hint}; allowed: {', '.join(LOGGERS)}")
        module, attribute = LOGGERS[name]
        try:
            callbacks.append(getattr(import_module(module), attribute)())
        except (ImportError, RuntimeError) as error:
            raise LaunchError(f"logger {name!r} cannot be used: {error}; install its package") from error
    return callbacks
