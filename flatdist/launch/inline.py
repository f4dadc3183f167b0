"""The inline executor: shards one after another in this process, without Ray but with the same worker."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING

from flatdist.launch.interrupt import WORK_SECONDS, Interrupts, StopNow
from flatdist.launch.progress.display import Display
from flatdist.launch.progress.state import Event, Notice, Progress
from flatdist.launch.worker import run_shard
from flatdist.planning.settings import Settings

if TYPE_CHECKING:
    from flatdist.planning import Shard
    from flatdist.store.drivers import Driver


def run_inline(
    shards: Iterable[tuple[int, Shard] | None],
    store_uri: str,
    settings: Settings,
    progress: Progress,
    display: Display,
    driver: Driver,
) -> tuple[bool, str | None]:
    """Run shards in this process.

    Args:
        shards: run one after another, numbered as ``progress`` expects; None if there is nothing to run at the moment.
        store_uri: where the rows go.
        settings: how to run them.
        progress: told of what happens.
        display: shows it.
        driver: announces each shard before it runs.

    Returns:
        Whether the user interrupted, and why the sweep stopped itself, if it did.

    Raises:
        StoreError: the store stopped accepting rows.
    """
    stopped: str | None = None
    lock = threading.Lock()  # rows that waited long are stored, and reported, by a thread

    def report(event: Event) -> None:
        nonlocal stopped
        with lock:
            progress.apply(event)
            if isinstance(event, Notice):
                display.message(event.text)
            stopped = stopped or same_error(progress, settings)
            display.update(progress)

    def should_stop() -> bool:
        with lock:
            display.update(progress)
        return interrupts.requested or stopped is not None

    with Interrupts(WORK_SECONDS) as interrupts, contextlib.suppress(StopNow):  # what was finished then is stored
        for numbered in shards:
            if should_stop():
                break
            if numbered is None:
                continue
            number, shard = numbered
            run_shard(
                shard,
                store_uri,
                settings,
                report,
                number=number,
                should_stop=should_stop,
                device=settings.expected_device,
                driver=driver,
            )
    return interrupts.requested, stopped


def same_error(progress: Progress, settings: Settings) -> str | None:
    """The reason to give up a sweep whose first cells all fail with the same error, or None."""
    error = progress.common_error(settings.same_error_limit)
    if error is None:
        return None
    return f"the first {settings.same_error_limit} cells all failed with the same error: {error}"
