"""Announcements of work in progress, so that the drivers of a store share its work instead of repeating it.

Every process that runs work announces it in a file of its own, replaced every few seconds and deleted at its end. A
process takes work by announcing it and then reading what the others have announced: if two processes announce the same
work at once, at least one sees the other and leaves it. This needs neither a lock nor exclusive creation, and ages come
from the storage's own time stamps. A process whose file has not been replaced for a while counts as dead, and its work
is free again; one that was merely suspended repeats some work, which is harmless.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatdist.errors import StoreError
from flatdist.store.documents import Key, read_json, to_json, whole
from flatdist.store.layout import DRIVERS, stem

if TYPE_CHECKING:
    from flatdist.store.store import Store

BEAT_SECONDS = 10.0  # between two signs of life
LEASE_SECONDS = 60.0  # a process without one for this long counts as dead
BUSY_LEASES = 10  # the same for a process that still exists on this machine
AT_THE_END = 16  # parts that are worth compacting when a driver ends


@dataclass(frozen=True)
class Announcement:
    """The announcement of another process."""

    sweeps: frozenset[str] = frozenset()  # that it drives; none for workers
    keys: frozenset[Key] = frozenset()  # that it is running
    host: str = ""
    pid: int = 0
    age: float = 0.0  # seconds since its last sign of life

    def is_alive(self) -> bool:
        """Whether the process counts as alive; one that exists on this machine may be silent for longer."""
        if self.host != socket.gethostname():
            return self.age <= LEASE_SECONDS
        return _runs(self.pid) and self.age <= BUSY_LEASES * LEASE_SECONDS


@dataclass
class Driver:
    """Announces, while entered, what this process is working on.

    Args:
        store: where the work is stored.
        launch: identifies the launch; processes of one launch share their work.
        sweeps: names of the sweeps that it drives.
        tidies: compact now and then, and at the end.
    """

    store: Store
    launch: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    sweeps: Collection[str] = ()
    tidies: bool = False

    def __post_init__(self) -> None:
        self._files = self.store.files
        self._path = f"{DRIVERS}/{self.launch}-{uuid.uuid4().hex[:12]}.json"
        self._running: set[Key] = set()
        self._read: dict[str, tuple[str, Announcement]] = {}  # path -> the version last read, and its content
        self._writing = threading.Lock()
        self.shared = False  # whether another launch has been seen
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="flatdist-driver", daemon=True)

    def __enter__(self) -> Driver:
        with contextlib.suppress(StoreError):  # whoever takes work waits for a store that fails for a while
            self._announce()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(StoreError):
            self._files.delete(self._path)
            if self.tidies:
                self.store.tidy(AT_THE_END)

    def take(self, keys: Collection[Key]) -> set[Key]:
        """Take work, replacing what was taken before; returns the part that no other launch is running."""
        self._running = {*keys}
        self._announce()
        if self._running & (held := self.elsewhere()):
            self._running = self._running - held
            self._announce()
        return set(self._running)

    def elsewhere(self) -> set[Key]:
        """What other launches are running."""
        return {key for other in self.others() for key in other.keys}

    def others(self) -> list[Announcement]:
        """The living processes of other launches."""
        listed = {info.path: info for info in self._files.list(DRIVERS)}
        if self._path not in listed:  # another driver considered this process dead
            with contextlib.suppress(StoreError):
                self._announce()
            listed = {info.path: info for info in self._files.list(DRIVERS)}
        now = max((info.modified for info in listed.values()), default=0.0)
        found = {}
        for path, info in listed.items():
            if stem(path).split("-")[0] == self.launch:
                continue
            version, said = self._read.get(path, ("", Announcement()))
            said = replace(said if version == info.token else self._content(path), age=now - info.modified)
            if said.is_alive():
                found[path] = (info.token, said)
            else:
                with contextlib.suppress(StoreError):  # another user's, say
                    self._files.delete(path)
        self._read = found
        self.shared = self.shared or bool(found)
        return [said for _, said in found.values()]

    def _content(self, path: str) -> Announcement:
        """The content of a file; empty if it cannot be read, so that its process counts as alive for a while."""

        def meaning(values: Any) -> Announcement:
            running = values["running"].items()
            keys = frozenset((str(cell_id), whole(number)) for cell_id, numbers in running for number in numbers)
            return Announcement(frozenset(map(str, values["sweeps"])), keys, str(values["host"]), int(values["pid"]))

        try:
            return read_json(self._files, path, meaning)
        except (StoreError, FileNotFoundError):
            return Announcement()

    def _announce(self) -> None:
        with self._writing:
            running: dict[str, list[int]] = {}
            for cell_id, replicate in sorted(self._running):
                running.setdefault(cell_id, []).append(replicate)
            content = {"host": socket.gethostname(), "pid": os.getpid(), "sweeps": sorted(self.sweeps)}
            self._files.write(self._path, to_json({**content, "running": running}))

    def _beat(self) -> None:
        beats = 0
        while not self._ended.wait(BEAT_SECONDS):
            beats += 1
            with contextlib.suppress(StoreError):  # the next one makes up for a missed one
                self._announce()
                if self.tidies and beats % 3 == 0:
                    self.store.tidy()


def _runs(pid: int) -> bool:
    """Whether a process exists on this machine; a zombie does not count."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):  # not Linux, or it has just ended
        return True
    return state not in "ZX"
