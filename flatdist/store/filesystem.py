"""Where a store's bytes live: whole files, written atomically and durably, created exclusively, listed, deleted.

Two kinds: a folder of this machine (here) and an object store (:mod:`flatdist.store.remote`). Everything above them
sees relative paths with forward slashes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from flatdist.errors import StoreError

_TEMPORARY = ".tmp-"
PROBE = "probe-"  # files that are written to see whether a store can be
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}


@dataclass(frozen=True)
class FileInfo:
    """One listed file.

    Attributes:
        path: relative to the store.
        size: bytes.
        token: changes when the file is replaced; equal tokens mean the same bytes.
        modified: seconds by the clock of the storage itself, compared only with other files' there.
    """

    path: str
    size: int
    token: str
    modified: float


class Filesystem(Protocol):
    """What a store needs of its storage. Missing files raise FileNotFoundError, everything else StoreError."""

    uri: str

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        ...

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading parts of it."""
        ...

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file: after the return it survives a power loss, before it nobody sees a part of it."""
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a file that must not exist yet, atomically; False when it does."""
        ...

    def list(self, folder: str) -> list[FileInfo]:
        """Return all files below a folder, sorted by path; none when there is no such folder."""
        ...

    def delete(self, path: str) -> None:
        """Delete a file; a missing one is no error."""
        ...

    def exclusive(self) -> bool:
        """Whether :meth:`create` really refuses an existing file when two writers race."""
        ...

    def hasty(self) -> Filesystem:
        """Return the same storage without the patience for failing requests: for asking whether it works at all."""
        ...

    def hurry_when(self, asked: Callable[[], bool]) -> None:
        """Have little patience with failing requests from the moment that ``asked`` says so."""
        ...

    def delete_temporaries(self, older_than: float) -> int:
        """Delete what dead writers left behind before a time by the storage's clock; return how many files."""
        ...


class SystemCalls:
    """The system calls behind a durable write, in one place so that a test can fail each of them in turn."""

    open = staticmethod(os.open)
    write = staticmethod(os.write)
    close = staticmethod(os.close)
    fsync = staticmethod(os.fsync)
    replace = staticmethod(os.replace)
    link = staticmethod(os.link)
    unlink = staticmethod(os.unlink)
    mkdir = staticmethod(os.mkdir)


class LocalFilesystem:
    """A store in a folder of this machine, or of a file system shared between machines."""

    def __init__(self, root: str, calls: SystemCalls | None = None) -> None:
        self.uri = root
        self._root = Path(root)
        self._calls = calls or SystemCalls()
        self._durable_folders: set[Path] = set()
        self._exclusive: bool | None = None

    def read(self, path: str) -> bytes:
        """Return a file's bytes."""
        with self._explained("read", path):
            return (self._root / path).read_bytes()

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading parts of it."""
        with self._explained("read", path):
            return (self._root / path).open("rb")

    def write(self, path: str, data: bytes) -> None:
        """Create or replace a file: temporary file beside it, fsync, rename, fsync of the folder."""
        target = self._root / path
        with self._explained("write", path), self._temporary(target, data) as temporary:
            self._calls.replace(temporary, target)
            self._sync_folder(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        """Write a file that must not exist yet: like write, with a hard link in place of the rename."""
        target = self._root / path
        with self._explained("write", path), self._temporary(target, data) as temporary:
            try:
                self._calls.link(temporary, target)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._exclusive = False  # the best that can be done here; compaction refuses such a store
                if target.exists():
                    return False
                self._calls.replace(temporary, target)
            self._sync_folder(target.parent)
            return True

    def list(self, folder: str) -> list[FileInfo]:
        """Return all files below a folder, sorted by path."""
        with self._explained("list", folder):
            return sorted(self._walk(self._root / folder, folder), key=lambda info: info.path)

    def delete(self, path: str) -> None:
        """Delete a file; a missing one is no error."""
        with self._explained("delete", path), contextlib.suppress(FileNotFoundError):
            self._calls.unlink(self._root / path)

    def exclusive(self) -> bool:
        """Hard links refuse an existing name, on local file systems and on NFS; asked of this folder once."""
        if self._exclusive is None:
            probe = f"{PROBE}{uuid.uuid4().hex}"
            self._exclusive = True
            if not self.create(probe, b"first") or self.create(probe, b"second"):
                self._exclusive = False
            self.delete(probe)
        return self._exclusive

    def hasty(self) -> LocalFilesystem:
        """A folder answers at once, always."""
        return self

    def hurry_when(self, asked: Callable[[], bool]) -> None:
        """A folder answers at once, always."""

    def delete_temporaries(self, older_than: float) -> int:
        """Delete temporary files that dead writers left, last modified before a time by this storage's clock."""
        deleted = 0
        with self._explained("list", ""):
            for folder, _, names in os.walk(self._root):
                for path in (Path(folder) / name for name in names if name.startswith(_TEMPORARY)):
                    with contextlib.suppress(FileNotFoundError):
                        if path.stat().st_mtime < older_than:
                            self._calls.unlink(path)
                            deleted += 1
        return deleted

    def _walk(self, folder: Path, relative: str) -> Iterator[FileInfo]:
        try:
            entries = list(os.scandir(folder))
        except FileNotFoundError:
            return
        for entry in entries:
            if entry.name.startswith("."):  # temporary files of writers at work, or that died
                continue
            path = f"{relative}/{entry.name}" if relative else entry.name
            if entry.is_dir():
                yield from self._walk(Path(entry.path), path)
                continue
            with contextlib.suppress(FileNotFoundError):  # deleted since the folder was listed
                status = entry.stat()
                yield FileInfo(path, status.st_size, f"{status.st_ino}-{status.st_mtime_ns}", status.st_mtime)

    @contextlib.contextmanager
    def _temporary(self, target: Path, data: bytes) -> Iterator[Path]:
        """A durable temporary file beside the target, gone afterwards."""
        temporary = target.parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
        self._make_durable_folder(target.parent)
        try:
            self._write_durably(temporary, data)
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                self._calls.unlink(temporary)

    def _write_durably(self, path: Path, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            handle = self._calls.open(path, flags, 0o666)
        except FileNotFoundError:  # somebody removed the folder since this object made it
            self._durable_folders.clear()
            self._make_durable_folder(path.parent)
            handle = self._calls.open(path, flags, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._calls.write(handle, rest) :]
            self._calls.fsync(handle)
        finally:
            self._calls.close(handle)

    def _make_durable_folder(self, folder: Path) -> None:
        """Make a folder that survives a power loss; synced even if it exists, since its maker may have died before."""
        if folder in self._durable_folders:
            return
        if folder != self._root:
            self._make_durable_folder(folder.parent)
            with contextlib.suppress(FileExistsError):
                self._calls.mkdir(folder)
            self._sync_folder(folder.parent)
        elif not folder.is_dir():
            missing = [folder, *(parent for parent in folder.parents if not parent.exists())]
            for path in reversed(missing):
                with contextlib.suppress(FileExistsError):
                    self._calls.mkdir(path)
                self._sync_folder(path.parent)
            if not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        self._durable_folders.add(folder)

    def _sync_folder(self, folder: Path) -> None:
        handle = self._calls.open(folder, os.O_RDONLY)
        try:
            self._calls.fsync(handle)
        finally:
            self._calls.close(handle)

    @contextlib.contextmanager
    def _explained(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except StoreError:
            raise
        except OSError as error:
            if isinstance(error, FileNotFoundError) and action == "read":
                raise
            what = "a test file" if path.startswith(PROBE) else path or "."
            raise StoreError(f"store {self.uri}: cannot {action} {what}: {_reason(error)}") from error


_ADVICE = {
    errno.ENOSPC: "the disk is full; nothing acknowledged is lost: free space, or give another --store, and run again",
    errno.EDQUOT: "the quota is used up; nothing acknowledged is lost: free space and run the same command again",
    errno.EROFS: "the file system is read-only; give a --store that can be written",
    errno.EACCES: "permission denied; give a --store that this user can write, or change its permissions",
    errno.EPERM: "not permitted; give a --store that this user can write, or change its permissions",
    errno.ENOTDIR: "a file is where a folder is needed; give a --store that is a folder",
    errno.ENAMETOOLONG: "the path is too long; give a --store with a shorter one",
    errno.ENOENT: "a folder of its path does not exist and cannot be made; give another --store",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n) or run fewer workers",
}


def _reason(error: OSError) -> str:
    return _ADVICE.get(error.errno or 0, f"{error.strerror or error}; check the disk and run the same command again")
