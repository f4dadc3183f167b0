"""What runs inside a Tune trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flatdist.launch.packing import PackedShards
from flatdist.launch.preflight import require_versions
from flatdist.launch.progress.events import Event, Notice, RowStored
from flatdist.launch.ray.monitor import Link
from flatdist.launch.ray.worker import run_shard
from flatdist.launch.settings import LaunchSettings


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
    expected: Mapping[str, Any],
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
            require_versions(expected)
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
