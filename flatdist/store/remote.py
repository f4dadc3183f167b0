"""Object stores through fsspec: s3, gs, and every other scheme it knows.

One PUT makes an object: it appears whole or not at all. Requests that fail for reasons that pass (500, 503, a lost
connection) are repeated here with growing pauses, in one place, until ``patience`` runs out; every request of the
protocol may be repeated, because files are immutable and exclusive creation compares what it finds.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from typing import Any, BinaryIO, TypeVar, cast

from flatdist.errors import StoreError
from flatdist.store.filesystem import FileInfo, Filesystem, LocalFilesystem
from flatdist.store.location import is_local, redact

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

PATIENCE = 120.0  # seconds of failing requests before giving up
HASTY = 10.0  # the same before anything has started
LEAVING = 3.0  # the same once the user has asked to stop
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_GLANCE = 0.2  # seconds between two looks at whether the user has asked to stop
_EXTRAS = {"s3": "flatdist[s3]", "s3a": "flatdist[s3]", "gs": "flatdist[gcs]", "gcs": "flatdist[gcs]"}
_CONDITIONAL_CREATE = {"s3", "s3a", "gs", "gcs", "memory"}  # whose mode="create" reaches the server
_HOPELESS = ("NoCredentials", "PartialCredentials", "ParamValidation", "ProfileNotFound", "InvalidRegion")
_EXISTS = {"PreconditionFailed", "412"}
_CONFLICT = {"ConditionalRequestConflict", "409"}


class RemoteFilesystem:
    """A store behind a URI such as ``s3://bucket/folder``; credentials and endpoint come from the environment."""

    def __init__(self, uri: str, patience: float = PATIENCE) -> None:
        self.uri = uri
        self._patience = patience
        self._scheme, _, self._root = uri.partition("://")
        self._files = _open(uri, self._scheme)
        self._exclusive: bool | None = None
        self._leaving: Callable[[], bool] = lambda: False

    def hurry_when(self, asked: Callable[[], bool]) -> None:
        """Have little patience with failing requests from the moment that ``asked`` says so."""
        self._leaving = asked

    def read(self, path: str) -> bytes:
        """Return an object's bytes."""
        return cast(bytes, self._insist("read", path, lambda: self._files.cat_file(self._full(path))))

    def open(self, path: str) -> BinaryIO:
        """Open an object for reading parts of it."""
        return cast(BinaryIO, self._insist("read", path, lambda: self._files.open(self._full(path), "rb")))

    def write(self, path: str, data: bytes) -> None:
        """Create or replace an object by one PUT."""
        self._insist("write", path, lambda: self._files.pipe_file(self._full(path), bytes(data)))

    def create(self, path: str, data: bytes) -> bool:
        """Write an object that must not exist yet by one conditional PUT."""
        retried = False

        def attempt() -> bool:
            nonlocal retried
            again, retried = retried, True
            try:
                self._files.pipe_file(self._full(path), bytes(data), mode="create")
            except FileExistsError:
                exists = True
            except Exception as error:
                if _error_code(error) in _CONFLICT:
                    raise ConnectionError("two conditional writes at once") from error  # ask again
                if _error_code(error) not in _EXISTS:
                    raise
                exists = True
            else:
                return True
            # an earlier attempt may have succeeded although its answer was lost: then what is there is ours
            return exists and again and self.read(path) == data

        return self._insist("write", path, attempt)

    def list(self, folder: str) -> list[FileInfo]:
        """Return all objects below a folder, sorted by path: one request for every 1,000."""

        def attempt() -> list[FileInfo]:
            self._files.invalidate_cache()
            try:
                found = self._files.find(self._full(folder), detail=True)
            except FileNotFoundError:
                return []
            prefix = self._root.strip("/") + "/"
            return sorted(
                (
                    _info(name.lstrip("/")[len(prefix) :], details)
                    for name, details in found.items()
                    if details.get("type") != "directory"
                ),
                key=lambda info: info.path,
            )

        return self._insist("list", folder, attempt)

    def delete(self, path: str) -> None:
        """Delete an object; a missing one is no error."""

        def attempt() -> None:
            try:
                self._files.rm_file(self._full(path))
            except FileNotFoundError:
                return

        self._insist("delete", path, attempt)

    def exclusive(self) -> bool:
        """Ask the store itself, once: some S3-like stores accept a conditional PUT and ignore the condition."""
        if self._exclusive is None:
            path = f"probe-{uuid.uuid4().hex}"
            self._exclusive = self._scheme in _CONDITIONAL_CREATE and (
                self.create(path, b"first") and not self.create(path, b"second")
            )
            self.delete(path)
        return self._exclusive

    def hasty(self) -> RemoteFilesystem:
        """Return the same store with the patience of somebody who waits for a command to start."""
        return RemoteFilesystem(self.uri, min(self._patience, HASTY))

    def delete_temporaries(self, older_than: float) -> int:
        """An object appears whole or not at all: there are none."""
        return 0

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}" if path else self._root

    def _insist(self, action: str, path: str, attempt: Callable[[], Answer]) -> Answer:
        """Repeat a request while it fails for reasons that pass."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                return attempt()
            except FileNotFoundError as error:
                if action == "read":
                    raise FileNotFoundError(f"{self.uri}/{path}") from error
                raise self._error(action, path, error, "the bucket does not exist; create it first") from error
            except StoreError:
                raise
            except Exception as error:
                advice = _hopeless(error)
                if advice:
                    raise self._error(action, path, error, advice) from error
                waited = time.monotonic() - began
                patience = min(self._patience, LEAVING) if self._leaving() else self._patience
                if waited + pause > patience:
                    advice = f"tried for {waited:.0f} s; nothing acknowledged is lost: run the same command again later"
                    raise self._error(action, path, error, advice) from error
                log.warning(
                    "store %s: cannot %s %s, retrying in %.1f s: %s", self.uri, action, path, pause, redact(str(error))
                )
                self._rest(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _rest(self, seconds: float) -> None:
        """Wait, but not past the moment that the user asks to stop."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(_GLANCE, left))
            if self._leaving():
                return

    def _error(self, action: str, path: str, error: Exception, advice: str) -> StoreError:
        reason = redact(str(error)) or type(error).__name__
        return StoreError(f"store {self.uri}: cannot {action} {path or '.'}: {reason}; {advice}")


def _open(uri: str, scheme: str) -> Any:
    import fsspec

    options: dict[str, Any] = {"use_listings_cache": False}
    if scheme in ("s3", "s3a"):
        # repeated requests are ours to make, so that patience is one number and not a product of three
        options["config_kwargs"] = {"retries": {"total_max_attempts": 1}, "connect_timeout": 10, "read_timeout": 60}
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if endpoint:  # known to s3fs too, which shares its clients between equal options
            options["endpoint_url"] = endpoint
    try:
        files = fsspec.filesystem(scheme, **options)
    except ImportError as error:
        extra = _EXTRAS.get(scheme)
        remedy = f"pip install '{extra}'" if extra else redact(str(error))
        raise StoreError(f"store {uri}: {scheme}:// needs a library that is not installed; {remedy}") from error
    except ValueError as error:
        allowed = "a folder, s3://, gs://, or another scheme that fsspec knows"
        raise StoreError(f"store {uri}: no file system is known for {scheme}://; allowed: {allowed}") from error
    if scheme in ("s3", "s3a"):
        files.retries = 1
    return files


def _info(path: str, details: dict[str, Any]) -> FileInfo:
    size = int(details.get("size") or 0)
    stamp = next((details[name] for name in ("LastModified", "mtime", "updated", "created") if details.get(name)), 0.0)
    modified = stamp.timestamp() if isinstance(stamp, datetime) else _seconds(stamp)
    token = next((str(details[name]) for name in ("ETag", "etag", "generation") if details.get(name)), "")
    return FileInfo(path, size, token or f"{size}-{stamp}", modified)


def _seconds(stamp: Any) -> float:
    if isinstance(stamp, str):
        return datetime.fromisoformat(stamp.replace("Z", "+00:00")).timestamp()
    return float(stamp)


def _error_code(error: BaseException | None) -> str:
    """The error code of an S3 answer, on the exception or on the one it was made from."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
        error = error.__cause__
    return ""


def _hopeless(error: Exception) -> str:
    """Advice for an error that no repetition mends, else an empty string."""
    if isinstance(error, PermissionError):
        return "the credentials in the environment do not allow it"
    if type(error).__name__.startswith(_HOPELESS):
        return "put credentials into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
    if isinstance(error, (TypeError, ValueError, NotImplementedError)):
        return "this file system cannot do it"
    return ""


def open_filesystem(uri: str) -> Filesystem:
    """Return the storage behind a normalised store URI."""
    return LocalFilesystem(uri) if is_local(uri) else RemoteFilesystem(uri)
