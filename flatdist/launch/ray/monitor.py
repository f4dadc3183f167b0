"""Between the workers and the driver: what has happened, and whether to go on.

One small actor near the driver. Tune's own reports would do for the counts, but they reach only the process that runs
Tune, hold a trial up until they are read, and cannot tell a trial to store what it has and leave.
"""

from __future__ import annotations

import threading
from collections import Counter
from types import TracebackType
from typing import Any

from flatdist.launch.progress.events import Event
from flatdist.machine.environment import import_ray

TELL_SECONDS = 0.5  # between two calls of a worker
MOST_CALLS = 500.0  # a second, that all workers together make: one actor answers a few thousand
ANSWER_SECONDS = 20.0  # an actor that was killed comes back within this


class Monitor:
    """The actor. Its death costs only the view: the store knows what is done."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._starts: Counter[int] = Counter()
        self._stopping = False
        self._ended = False

    def begin(self, shard: int) -> tuple[int, bool]:
        """A worker takes up a shard; returns how often it was taken up before, and whether to leave at once."""
        before = self._starts[shard]
        self._starts[shard] += 1
        return before, self._stopping

    def tell(self, events: list[Event]) -> bool:
        """Take in a worker's events; returns whether the worker is to store its rows and leave."""
        self._events += events
        return self._stopping

    def drain(self, stopping: bool, ended: bool) -> list[Event]:
        """The driver fetches the events, and says whether workers are to leave and Tune is to end."""
        self._stopping, self._ended = stopping, ended
        events, self._events = self._events, []
        return events

    def ended(self) -> bool:
        """Whether Tune is to end its trials: asked when the workers have left or had their time."""
        return self._ended


class Link:
    """A worker's end: sends events from a thread of its own, and learns whether to stop.

    A worker goes on working when the monitor does not answer: its rows are in the store all the same.

    Args:
        monitor: handle of the actor.
        workers: how many links there may be at a time; many speak less often.
    """

    def __init__(self, monitor: Any, workers: int = 1) -> None:
        self._monitor = monitor
        self._seconds = max(TELL_SECONDS, workers / MOST_CALLS)
        self._events: list[Event] = []
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="flatdist-link", daemon=True)

    def __enter__(self) -> Link:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._closed.set()
        self._thread.join()
        self._tell()

    def report(self, event: Event) -> None:
        """Have an event sent soon."""
        with self._lock:
            self._events.append(event)

    def should_stop(self) -> bool:
        """What the driver last said."""
        return self._stopping

    def begin(self, shard: int) -> int:
        """Take up a shard; returns how often that happened before, 1 where the monitor does not say."""
        ray = import_ray(local=False)
        try:
            before, self._stopping = ray.get(self._monitor.begin.remote(shard), timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError):
            return 1
        return int(before)

    def _run(self) -> None:
        while not self._closed.wait(self._seconds):
            self._tell()

    def _tell(self) -> None:
        ray = import_ray(local=False)
        with self._lock:
            events, self._events = self._events, []
        try:
            self._stopping = ray.get(self._monitor.tell.remote(events), timeout=ANSWER_SECONDS) or self._stopping
        except (ray.exceptions.RayError, TimeoutError):
            with self._lock:
                self._events[:0] = events
