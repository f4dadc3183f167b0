"""Logging for whoever looks after a cluster: Python's loggers under ``flatdist``.

They are silent until :func:`configure` is called, which a launch does for ``--log-level`` and ``--log-file``, in the
driver and in every worker. A worker writes a file of its own beside the driver's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")
_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(process)d] %(message)s"


class _Place:
    """Where this process's records go."""

    pid = 0  # of the process that was configured: a forked child is configured anew
    path: str | None = None


def configure(level: str | None, file: str | None = None, *, worker: bool = False) -> None:
    """Send the records of flatdist's loggers to a file, or to standard error.

    Only the first call in a process has an effect. If the file cannot be written, for example on a node without that
    folder, records go to standard error, which Ray keeps in the worker's own log.

    Args:
        level: of :data:`LEVELS`; None means ``info`` if a file is given, and otherwise silence.
        file: the driver's log; a worker writes ``FILE.HOST-PID`` beside it.
        worker: this process is a worker.
    """
    if (level is None and file is None) or _Place.pid == os.getpid():
        return
    path = None if file is None else str(Path(file).absolute())
    if path is not None and worker:
        path = f"{path}.{socket.gethostname()}-{os.getpid()}"
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        try:
            handler = logging.FileHandler(path, encoding="utf-8", delay=False)
        except OSError:
            path = None
    handler.setFormatter(logging.Formatter(_FORMAT))
    logger = logging.getLogger("flatdist")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel((level or "info").upper())
    logger.propagate = False
    _Place.pid, _Place.path = os.getpid(), path


def log_path() -> str | None:
    """The file with this process's output: its log, or the file that receives its standard error; otherwise None."""
    if _Place.pid == os.getpid() and _Place.path is not None:
        return _Place.path
    try:
        kept = os.readlink("/proc/self/fd/2")  # Ray redirects a worker's to a file
    except OSError:
        return None
    return kept if Path(kept).is_file() else None


class Waits:
    """Says what this process is waiting for, once that has lasted some seconds, to whoever listens."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._listener: Callable[[str], None] | None = None
        self._timers: dict[str, threading.Timer] = {}

    @contextlib.contextmanager
    def told_to(self, listener: Callable[[str], None]) -> Iterator[None]:
        """While entered, waits are told to ``listener``, from a thread of their own."""
        before, self._listener = self._listener, listener
        try:
            yield
        finally:
            self._listener = before

    def begin(self, what: str) -> None:
        """Start to wait."""
        if self._listener is not None:
            timer = self._timers[what] = threading.Timer(self._seconds, self._listener, [what])
            timer.daemon = True
            timer.start()

    def end(self, what: str) -> None:
        """It is over."""
        if (timer := self._timers.pop(what, None)) is not None:
            timer.cancel()


waits = Waits(3.0)
