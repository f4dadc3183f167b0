"""SIGINT and SIGTERM: finish what can be finished in seconds, then leave."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

WORK_SECONDS = 5.0  # work in this process has this long to come to the end of its segment


class StopNow(BaseException):
    """Raised in the main thread when work in this process did not end in time after an interrupt."""


class Interrupts:
    """While entered, SIGINT and SIGTERM set a flag instead of ending the process.

    Handlers can be set in the main thread only; elsewhere (a notebook's worker thread, a server) signals stay as they
    are and the flag can be set.

    Args:
        patience: :class:`StopNow` is raised in the main thread this long after the first signal, in seconds: for work
            that runs there and may not ask the flag soon. None for never; it may be changed while entered.

    Attributes:
        requested: whether the sweep is to stop, the flag.
    """

    def __init__(self, patience: float | None = None) -> None:
        self.patience = patience
        self.requested = False
        self._previous: dict[int, Any] = {}
        self._alarm: tuple[float, float] | None = None  # the process's own alarm, which ours took the place of

    def __enter__(self) -> Interrupts:
        self.install()
        return self

    def install(self) -> None:
        """Set the handlers, also after a library (Ray, on connecting) has replaced them."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._take(number, self._handle)

    def _take(self, number: int, handler: Any) -> None:
        self._previous.setdefault(number, signal.getsignal(number))
        signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._alarm is not None:
            signal.setitimer(signal.ITIMER_REAL, *self._alarm)

    def _handle(self, number: int, frame: object) -> None:
        if self.requested:
            return
        self.requested = True
        if self.patience is not None:
            self._take(signal.SIGALRM, self._break)
            self._alarm = signal.setitimer(signal.ITIMER_REAL, max(self.patience, 1e-3))

    def _break(self, number: int, frame: object) -> None:
        raise StopNow


@contextlib.contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Between two launches, which handle signals themselves, SIGTERM ends a search as SIGINT does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
