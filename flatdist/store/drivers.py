"""Who is running a sweep just now, so that two drivers of one sweep share its work instead of doing it twice.

A driver holds a slot of the sweep: a file that only one can create, replaced every few seconds, gone when it ends. The
second slot's driver begins at the other end of the work. Ages are read from the storage's own time stamps. While it
runs, a driver also compacts a store that has come to many parts, and at its end what it added.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING

from flatdist.errors import StoreError
from flatdist.store.documents import read_json, to_json
from flatdist.store.filesystem import FileInfo
from flatdist.store.layout import DRIVERS, digest

if TYPE_CHECKING:
    from flatdist.store.store import Store

BEAT_SECONDS = 10.0  # between two signs of life
LEASE_SECONDS = 60.0  # a driver that gives none for so long counts as dead
MOST_SLOTS = 1000
AT_THE_END = 16  # parts that are worth compacting then


def sharing_key(cell_ids: list[str]) -> str:
    """Return what drivers of the same cells have in common."""
    return digest("\n".join(sorted(cell_ids)).encode())


def is_shared(store: Store, key: str) -> bool:
    """Whether more than one driver holds a slot of these cells."""
    return bool(key) and len(store.files.list(f"{DRIVERS}/{key}")) > 1


class Driver:
    """Holds a slot while a driver runs.

    Attributes:
        slot: its number; 0 begins at the front of the work, odd ones at the back.
        since: seconds since another driver of the same sweeps showed that it is alive; None where there is none.
    """

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._files = store, store.files
        self._folder = f"{DRIVERS}/{key}"
        self._content = to_json({"host": socket.gethostname(), "pid": os.getpid()})
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="flatdist-driver", daemon=True)
        self.slot = 0
        self.since: float | None = None

    def __enter__(self) -> Driver:
        listed = self._files.list(self._folder)
        if listed:
            now = self._files.clock()
            alive = [info for info in listed if self._is_alive(info, now)]
            for info in listed:
                if info not in alive:
                    self._files.delete(info.path)
            self.since = max(0.0, now - max(info.modified for info in alive)) if alive else None
        while self.slot < MOST_SLOTS and not self._files.create(self._path, self._content):
            self.slot += 1
        if self.slot and self.since is None:
            self.since = 0.0  # it came in between
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreError):
            self._files.delete(self._path)
            self._store.tidy(AT_THE_END)

    @property
    def _path(self) -> str:
        return f"{self._folder}/{self.slot}.json"

    def _is_alive(self, info: FileInfo, now: float) -> bool:
        """Whether a slot's driver lives: it replaced its file lately, and is no process of this machine that ended."""
        if now - info.modified > LEASE_SECONDS:
            return False
        try:
            host, pid = read_json(self._files, info.path, lambda values: (str(values["host"]), int(values["pid"])))
        except (StoreError, FileNotFoundError):
            return True
        return host != socket.gethostname() or pid == os.getpid() or _runs(pid)

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(BEAT_SECONDS):
            beats += 1
            with contextlib.suppress(StoreError):  # one that is missed is made up for by the next
                self._files.write(self._path, self._content)
                if beats % 3 == 0:
                    self._store.tidy()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
