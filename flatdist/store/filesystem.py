"""The storage of a store: whole files, written atomically and durably, created exclusively, listed, deleted.

Two kinds: a folder of this machine (here) and an object store (:mod:`flatdist.store.remote`). Code above them sees
relative paths with forward slashes, and only paths that a store may contain (:mod:`flatdist.store.layout`); every
command goes through this check. If a file's name states its digest, every read checks it here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flatdist.errors import StoreError
from flatdist.store import arrow as pa
from flatdist.store import layout

Answer = TypeVar("Answer")

_TEMPORARY = ".tmp-"
_DEPTH = 4  # folders below the listed one that a store can have
_NAMED = 20  # files named in one warning
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDERS = ("checkpoints", "drivers", "failures", "history", "index", "manifest", "sweeps", "tombstones", "trials")
_WRITTEN = ("trials/v1/part", "history/v1/part", "failures/v1/part", "checkpoints", "sweeps")


class StoreWarning(UserWarning):
    """Something in a store is damaged or foreign and was skipped; the message names it."""


class Damaged(StoreError):
    """A file that is not what it should be.

    Attributes:
        path: the file, relative to the store.
        reason: what is wrong with it.
        lost: (first, stop) of the rows of a segment that cannot be read; None where none can.
    """

    def __init__(self, path: str, reason: str, lost: Sequence[tuple[int, int]] | None = None) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason
        self.lost = lost


@dataclass(frozen=True)
class FileInfo:
    """One listed file."""

    path: str  # relative to the store
    size: int  # bytes
    token: str  # changes if the file is replaced; equal tokens mean equal bytes
    modified: float  # seconds by the storage's own clock, to be compared only with other files there

    @property
    def stem(self) -> str:
        """The file's name without folder and extension."""
        return layout.stem(self.path)


Listing = list[FileInfo]
Paths = list[str]
Ranges = Sequence[tuple[int, int]]


class Filesystem:
    """The storage interface of a store. Missing files raise FileNotFoundError, everything else StoreError."""

    uri: str  # the store's normalised location
    threads = 4  # concurrent requests
    tokens_are_digests = False  # whether a file's token determines its content, which the storage itself protects

    _read: Callable[[str, Ranges | None], Sequence[Any]]
    _write: Callable[[str, bytes], None]
    _create: Callable[[str, bytes], bool]
    _list: Callable[[str], tuple[Listing, Paths]]  # the files, and what is no file
    _delete: Callable[[str], None]

    def __init__(self) -> None:
        self._exclusive: bool | None = None
        self._named: set[str] = set()

    def read(self, path: str, *, checked: bool = True) -> bytes:
        """Return a file's bytes; raises Damaged if the file's name states others, and they are to be ``checked``."""
        data: bytes = self._read(_known(path), None)[0]
        stated = layout.stated_digest(path) if checked else None
        if stated is not None and layout.digest(data) != stated:
            raise Damaged(path, f"its {len(data)} bytes are not those that were written")
        return data

    def read_ranges(self, path: str, ranges: Ranges) -> Sequence[bytes | memoryview]:
        """Return some (start, length) ranges of a file; the caller checks them."""
        return self._read(_known(path), ranges)

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file: once this returns it survives a power loss, and nobody ever sees part of it."""
        self._write(_known(path), data)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file that must not exist yet, atomically; False when it does."""
        return self._create(_known(path), data)

    def list(self, folder: str) -> Listing:
        """Return the store's files below a folder, sorted by path; foreign files are reported once."""
        found, foreign = self._list(folder)
        foreign += [info.path for info in found if not layout.is_known(info.path)]
        if new := sorted({*foreign} - self._named):
            self._named |= {*new}
            more = f" and {len(new) - _NAMED} more" if len(new) > _NAMED else ""
            names = ", ".join(map(repr, new[:_NAMED]))
            text = f"store {self.uri}: left alone, since flatdist did not write it: {names}{more}"
            warnings.warn(text, StoreWarning, stacklevel=2)
        clock = folder == "clock"
        mine = (info for info in found if layout.is_known(info.path) and layout.is_probe(info.path) == clock)
        return sorted(mine, key=lambda info: info.path)

    def delete(self, path: str) -> None:
        """Delete a file; a missing one is not an error."""
        self._delete(_known(path))

    def exclusive(self) -> bool:
        """Whether :meth:`create` really refuses an existing file; tested once on the storage itself."""
        if self._exclusive is None:
            probe = f"probe-{uuid.uuid4().hex}"
            self._exclusive = True
            if not self.create(probe, b"first") or self.create(probe, b"second"):
                self._exclusive = False
            self.delete(probe)
        return self._exclusive

    def check_access(self) -> None:
        """Write a file in every folder that rows are written to, read it back and delete it."""
        for folder in self._probed():
            path = f"{folder}/probe-{uuid.uuid4().hex}".lstrip("/")
            self.write(path, path.encode())
            try:
                found = self.read(path)
            except FileNotFoundError as error:
                text = f"store {self.uri}: a file just written cannot be found; use another store"
                raise StoreError(text) from error
            finally:
                self.delete(path)
            if found != path.encode():
                raise StoreError(f"store {self.uri}: a file just written reads back differently; use another store")

    def clock(self) -> float:
        """The time by the storage's own clock, from the time stamp of a file just written."""
        path = f"clock/probe-{uuid.uuid4().hex}"
        self.write(path, b"clock")
        now = max((info.modified for info in self.list("clock")), default=0.0)
        self.delete(path)
        return now

    def map(self, do: Callable[[Any], Answer], items: Sequence[Any]) -> Sequence[Answer]:
        """Apply a function that waits for the storage to many items, concurrently."""
        threads = min(self.threads, len(items))
        if threads <= 1:
            return [do(item) for item in items]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(do, items))

    def sift(self, do: Callable[[str], Answer], names: Sequence[str]) -> tuple[dict[str, Answer], dict[str, Damaged]]:
        """Apply a function to the names of many files; return its answers, and the damage that it found."""

        def attempt(name: str) -> Answer | Damaged:
            try:
                return do(name)
            except Damaged as damage:
                return damage

        found = dict(zip(names, self.map(attempt, names), strict=True))
        damaged = {name: answer for name, answer in found.items() if isinstance(answer, Damaged)}
        return {name: answer for name, answer in found.items() if not isinstance(answer, Damaged)}, damaged

    def shorten_waits_when(self, asked: Callable[[], bool]) -> None:
        """Wait out requests that fail, but only for seconds once ``asked`` says that the user wants to leave."""

    def delete_temporaries(self, older_than: float) -> int:
        """Delete files that dead writers left before a time by the storage's clock; return how many."""
        return 0

    def _probed(self) -> Paths:
        return [""]


def _known(path: str) -> str:
    if not layout.is_known(path):
        raise StoreError(f"{path!r} is not a file of a store; it is neither read, written nor deleted")
    return path


class SystemCalls:
    """The system calls that change a folder, in one place so that a test can fail each of them in turn."""

    open = staticmethod(os.open)
    write = staticmethod(os.write)
    close = staticmethod(os.close)
    fsync = staticmethod(os.fsync)
    replace = staticmethod(os.replace)
    link = staticmethod(os.link)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)


class LocalFilesystem(Filesystem):
    """A store in a folder of this machine, or of a file system shared between machines.

    The root may be a symbolic link. Below it no link is followed: every folder is opened by name inside its parent.
    """

    def __init__(self, root: str, calls: SystemCalls | None = None) -> None:
        super().__init__()
        self.uri = root
        self._calls = calls or SystemCalls()
        self._durable: set[str] = set()  # folders known to survive a power loss

    def delete_temporaries(self, older_than: float) -> int:
        """Delete temporary files that dead writers left, last modified before a time by this storage's clock."""
        doomed = [
            path
            for top in _FOLDERS
            for path, status in self._walk(top)
            if path.rpartition("/")[2].startswith(_TEMPORARY)
            and stat.S_ISREG(status.st_mode)
            and status.st_mtime < older_than
        ]
        for path in doomed:
            self._delete(path)
        return len(doomed)

    def _read(self, path: str, ranges: Ranges | None) -> Sequence[Any]:
        with self._explained("read", path), self._folder(path) as (folder, name):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            with open(handle, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode):
                    raise Damaged(path, "is not a regular file")
                if ranges is None:
                    return [file.read()]
                # the pool of pyarrow keeps memory that was used, which costs less than reading into new one

                size = os.fstat(handle).st_size
                lengths = [max(0, min(length, size - start)) for start, length in ranges]
                rest, pieces = memoryview(pa.allocate_buffer(sum(lengths))), []
                for (start, _), length in zip(ranges, lengths, strict=True):
                    pieces.append(rest[: os.preadv(handle, [rest[:length]], start)])
                    rest = rest[length:]
                return pieces

    def _write(self, path: str, data: bytes) -> None:
        with self._explained("write", path), self._temporary(path, data) as (folder, temporary, name):
            self._calls.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            self._calls.fsync(folder)

    def _create(self, path: str, data: bytes) -> bool:
        with self._explained("write", path), self._temporary(path, data) as (folder, temporary, name):
            try:
                self._calls.link(temporary, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._exclusive = False  # the best that can be done here; compaction refuses such a store
                if name in os.listdir(folder):
                    return False
                self._calls.replace(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            self._calls.fsync(folder)
            return True

    def _list(self, folder: str) -> tuple[Listing, Paths]:
        found, foreign = [], []
        for path, status in self._walk(folder):
            if path.rpartition("/")[2].startswith("."):  # temporary files of writers at work, or that died
                continue
            if stat.S_ISREG(status.st_mode):
                token = f"{status.st_ino}-{status.st_mtime_ns}"
                found.append(FileInfo(path, status.st_size, token, status.st_mtime))
            else:
                foreign.append(path)
        return found, foreign

    def _delete(self, path: str) -> None:
        missing = contextlib.suppress(FileNotFoundError)
        with missing, self._explained("delete", path), self._folder(path) as (folder, name):
            self._calls.unlink(name, dir_fd=folder)

    def _probed(self) -> Paths:
        """Folders that rows are written to, and a look at those inside, which another user may have made."""
        closed = [
            path
            for top in _WRITTEN
            for path, status in self._walk(top, folders=True)
            if stat.S_ISDIR(status.st_mode) and not os.access(Path(self.uri, path), os.W_OK | os.X_OK)
        ]
        if closed:
            raise StoreError(
                f"store {self.uri}: {len(closed)} folders cannot be written by this user, as {closed[0]}; let their "
                f"owner share the store: chmod -R g+rwXs {self.uri}"
            )
        return ["", *_WRITTEN[:3]]

    def _walk(self, folder: str, *, folders: bool = False) -> Iterator[tuple[str, os.stat_result]]:
        """Everything below a folder that is not itself a folder, unless asked for, without following links."""
        with self._explained("list", folder):
            try:
                with self._folder(f"{folder}/x" if folder else "x") as (handle, _):
                    yield from self._entries(handle, folder, _DEPTH, folders)
            except FileNotFoundError:
                return

    def _entries(self, handle: int, folder: str, depth: int, folders: bool) -> Iterator[tuple[str, os.stat_result]]:
        for entry in sorted(os.scandir(handle), key=lambda entry: entry.name):
            path = f"{folder}/{entry.name}" if folder else entry.name
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was listed
                if not entry.is_dir(follow_symlinks=False):
                    yield path, entry.stat(follow_symlinks=False)
                    continue
                if folders or depth == 0:
                    yield path, entry.stat(follow_symlinks=False)
                if depth > 0:
                    below = os.open(entry.name, _FOLDER, dir_fd=handle)
                    try:
                        yield from self._entries(below, path, depth - 1, folders)
                    finally:
                        os.close(below)

    @contextlib.contextmanager
    def _folder(self, path: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """A handle of the folder that a path is in, and the file's name there."""
        *names, name = path.split("/")
        handle = self._open_root(make)
        try:
            root = os.fstat(handle)
            for count, below in enumerate(names, start=1):
                if make:
                    self._make_folder(handle, below, "/".join(names[:count]), root)
                inside = os.open(below, _FOLDER, dir_fd=handle)
                os.close(handle)
                handle = inside
            yield handle, name
        finally:
            os.close(handle)

    def _open_root(self, make: bool) -> int:
        if make and "" not in self._durable:
            root = Path(self.uri)
            for path in reversed([root, *(parent for parent in root.parents if not parent.exists())]):
                if not path.is_dir():
                    with contextlib.suppress(FileExistsError):
                        self._calls.mkdir(path)
                    handle = self._calls.open(path.parent, os.O_RDONLY)
                    try:
                        self._calls.fsync(handle)
                    finally:
                        self._calls.close(handle)
            self._durable.add("")
        return os.open(self.uri, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _make_folder(self, handle: int, name: str, path: str, root: os.stat_result) -> None:
        """Make a folder that survives a power loss; synced even if it exists, since its maker may have died before."""
        if path in self._durable:
            return
        with contextlib.suppress(FileExistsError):
            self._calls.mkdir(name, dir_fd=handle)
            if root.st_mode & stat.S_IWGRP:  # a shared store: whoever writes first makes the folder for all
                below = os.open(name, _FOLDER, dir_fd=handle)
                try:
                    os.fchmod(below, stat.S_IMODE(root.st_mode))
                finally:
                    os.close(below)
        self._calls.fsync(handle)
        self._durable.add(path)

    @contextlib.contextmanager
    def _temporary(self, path: str, data: bytes) -> Iterator[tuple[int, str, str]]:
        """A durable temporary file beside the target, gone afterwards."""
        temporary = f"{_TEMPORARY}{uuid.uuid4().hex}"
        with contextlib.ExitStack() as stack:
            try:
                folder, name = stack.enter_context(self._folder(path, make=True))
            except FileNotFoundError:  # somebody removed the folder since this object made it
                self._durable.clear()
                folder, name = stack.enter_context(self._folder(path, make=True))
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
                handle = self._calls.open(temporary, flags, 0o666, dir_fd=folder)
                try:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[self._calls.write(handle, rest) :]
                    mode = os.fstat(folder).st_mode
                    if mode & stat.S_IWGRP:  # readable for all who can read the folder, whatever this user's umask
                        os.fchmod(handle, mode & 0o666)
                    self._calls.fsync(handle)
                finally:
                    self._calls.close(handle)
                yield folder, temporary, name
            finally:
                with contextlib.suppress(OSError):
                    self._calls.unlink(temporary, dir_fd=folder)

    @contextlib.contextmanager
    def _explained(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            if isinstance(error, FileNotFoundError) and action in ("read", "delete"):
                raise
            what = "a test file" if layout.is_probe(path) else path or "."
            reason = f"{error.strerror or error}; check the disk and run the same command again"
            reason = _ADVICE.get(error.errno or 0, reason)
            raise StoreError(f"store {self.uri}: cannot {action} {what}: {reason}") from error


_ADVICE = {
    errno.ENOSPC: "the disk is full; nothing acknowledged is lost: free space, or give another --store, and run again",
    errno.EDQUOT: "the quota is used up; nothing acknowledged is lost: free space and run the same command again",
    errno.EROFS: "the file system is read-only; give a --store that can be written",
    errno.EACCES: "permission denied; give a --store that this user can write, or change its permissions",
    errno.EPERM: "not permitted; give a --store that this user can write, or change its permissions",
    errno.ENOTDIR: "a file or a link is where a folder is needed; links inside a store are not followed",
    errno.ELOOP: "it is a symbolic link; links inside a store are not followed",
    errno.ENAMETOOLONG: "the path is too long; give a --store with a shorter one",
    errno.ENOENT: "a folder of its path does not exist and cannot be made; give another --store",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n) or run fewer workers",
}


def warn_damaged(uri: str, problems: Sequence[Damaged], outcome: str) -> None:
    """Report damaged files in one warning."""
    if not problems:
        return
    named = "; ".join(f"{problem.path} ({problem.reason})" for problem in problems[:_NAMED])
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    files = "1 file is" if len(problems) == 1 else f"{len(problems)} files are"
    warnings.warn(f"store {uri}: {files} damaged and {outcome}: {named}{more}", StoreWarning, stacklevel=2)
