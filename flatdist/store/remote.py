"""Object stores through obstore: S3, Google Cloud Storage and Azure Blob Storage, the same code for all three.

obstore creates objects conditionally on each of them, lists with ETags and time stamps, can leave retries to its
caller, and imports in 30 ms. One PUT makes an object: it appears whole or not at all. Requests that fail for transient
reasons (500, 503, a lost connection) are repeated here, in one place, with growing pauses, until ``patience`` runs out.
Every request may be repeated, because files are immutable and exclusive creation compares an existing file with its
own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

from flatdist.errors import StoreError
from flatdist.machine.extras import remedy
from flatdist.store.filesystem import FileInfo, Filesystem, LocalFilesystem, StoreWarning
from flatdist.store.location import SCHEMES, is_local, redact

Answer = TypeVar("Answer")

log = logging.getLogger(__name__)

PATIENCE = 120.0  # seconds of failing requests before giving up
HASTY = 10.0  # the same before the storage has answered at all
LEAVING = 3.0  # the same once the user has asked to stop
_SAID_AFTER = 1.0  # seconds of failing requests before it is reported
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0
_GLANCE = 0.2  # seconds between two checks whether the user wants to stop
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "The specified bucket does not exist")
_CONFLICT = ("ConditionalRequestConflict", "409 Conflict")
_DENIED = ("PermissionDenied", "Unauthenticated", "403 Forbidden", "401 Unauthorized", "InvalidAccessKeyId")


class RemoteFilesystem(Filesystem):
    """A store behind a URI such as ``s3://bucket/folder``; credentials and endpoint come from the environment."""

    threads = 32
    tokens_are_digests = True

    def __init__(self, uri: str, patience: float | None = None) -> None:
        super().__init__()
        self.uri = uri
        self._patience = patience
        self._answered = self._said = False
        self._leaving: Callable[[], bool] = lambda: False
        scheme, _, rest = uri.partition("://")
        bucket, _, self._root = rest.partition("/")
        self._bucket = _open(uri, SCHEMES[scheme], bucket)

    def shorten_waits_when(self, asked: Callable[[], bool]) -> None:
        """As for :class:`Filesystem`; whoever can be asked to leave has also reached the storage before."""
        self._leaving, self._answered = asked, True

    def _read(self, path: str, ranges: Sequence[tuple[int, int]] | None) -> list[bytes]:
        if ranges is None:
            return [self._insist("read", path, lambda full: self._bucket.get(full).bytes().to_bytes())]
        places = {"starts": [start for start, _ in ranges], "lengths": [length for _, length in ranges]}
        found = self._insist("read", path, lambda full: self._bucket.get_ranges(full, **places))
        return [bytes(part) for part in found]

    def _write(self, path: str, data: bytes) -> None:
        self._insist("write", path, lambda full: self._bucket.put(full, data, use_multipart=False))

    def _create(self, path: str, data: bytes) -> bool:
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        attempts = 0

        def attempt(full: str) -> bool:
            nonlocal attempts
            attempts += 1
            try:
                self._bucket.put(full, data, mode="create", use_multipart=False)
            except (AlreadyExistsError, PreconditionError) as error:
                if any(code in str(error) for code in _CONFLICT) and "BlobAlreadyExists" not in str(error):
                    raise ConnectionError("two conditional writes at once") from error  # ask again
                # an earlier attempt may have succeeded although its answer was lost: then the existing file is ours
                return attempts > 1 and self._read(path, None)[0] == data
            return True

        return self._insist("write", path, attempt)

    def _list(self, folder: str) -> tuple[list[FileInfo], list[str]]:
        found, foreign = self._insist("list", folder, self._listed)
        cut = len(self._root) + 1 if self._root else 0
        return [
            FileInfo(
                details["path"][cut:],
                details["size"],
                details["e_tag"] or f"{details['size']}-{details['last_modified']}",
                details["last_modified"].timestamp(),
            )
            for details in found
        ], [path[cut:] for path in foreign]

    def _listed(self, folder: str) -> tuple[list[Any], list[str]]:
        """All objects below a folder: one request for every 1,000.

        Keys with a segment such as ``..`` end obstore's listing. They sort before every name that a store may contain,
        so if there are any, the listing starts after them, one folder of parts at a time.
        """
        from obstore.exceptions import InvalidPathError

        def objects(prefix: str, offset: str | None = None) -> list[Any]:
            return [item for page in self._bucket.list(prefix, offset=offset) for item in page]

        try:
            return objects(folder), []
        except InvalidPathError as error:
            key = re.search(r'parsing Path "(.*?)":', str(error))
            foreign = key[1] if key else f"{folder}/.."

        def after(prefix: str) -> list[Any]:
            try:
                return objects(prefix, f"{prefix}/0")
            except InvalidPathError as error:
                raise StoreError(
                    f"store {self.uri}: the key {foreign!r} has a '.', '..' or empty part, which hides the files "
                    f"around it under {prefix}; delete that key with the provider's tools"
                ) from error

        folders = [f"{folder}/{number:02x}" for number in range(256)] if folder.endswith("/part") else [folder]
        return [item for items in self.map(after, folders) for item in items], [foreign]

    def _delete(self, path: str) -> None:
        def attempt(full: str) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._bucket.delete(full)

        self._insist("delete", path, attempt)

    def _insist(self, action: str, path: str, attempt: Callable[[str], Answer]) -> Answer:
        """Repeat a request while it fails for transient reasons."""
        full = "/".join(part for part in (self._root, path) if part)
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            try:
                answer = attempt(full)
            except (StoreError, AssertionError):
                raise
            except Exception as error:
                reason, advice = _short(error), _advice_on(error, action)
                if isinstance(error, FileNotFoundError) and not advice:
                    raise FileNotFoundError(f"{self.uri}/{path}") from error
                waited = time.monotonic() - began
                patience = self._patience or (PATIENCE if self._answered else HASTY)
                patience = min(patience, LEAVING) if self._leaving() else patience
                if not advice and waited + pause > patience:
                    advice = f"tried for {waited:.0f} s; nothing acknowledged is lost: run the same command again later"
                if advice:
                    raise StoreError(f"store {self.uri}: cannot {action} {path or '.'}: {reason}; {advice}") from error
                if waited + pause > _SAID_AFTER and not self._said:
                    self._said = True
                    text = f"store {self.uri}: no answer ({reason}); trying for up to {patience:.0f} s"
                    warnings.warn(text, StoreWarning, stacklevel=2)
                log.warning("store %s: cannot %s %s, retrying in %.1f s: %s", self.uri, action, path, pause, reason)
                until = time.monotonic() + pause
                while (left := until - time.monotonic()) > 0:
                    time.sleep(min(_GLANCE, left))
                    if self._leaving():
                        break
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._answered = True
                return answer


def _open(uri: str, kind: str, bucket: str) -> Any:
    """The bucket of a URI; repeated requests are ours to make, so that patience is one number."""
    try:
        from obstore.store import AzureStore, GCSStore, S3Store
    except ImportError as error:
        text = f"store {uri}: {kind}:// needs a library that is not installed; {remedy(_EXTRAS[kind])}"
        raise StoreError(text) from error
    options: dict[str, Any] = {
        "client_options": {"connect_timeout": "5s", "timeout": "60s"},
        "retry_config": {"max_retries": 0, "retry_timeout": timedelta(seconds=HASTY)},
    }
    try:
        if kind == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            if endpoint:
                options |= {"endpoint": endpoint, "virtual_hosted_style_request": False}
                options["client_options"]["allow_http"] = endpoint.startswith("http://")
            return S3Store(bucket, credential_provider=_profile(uri), **options)
        if kind == "gs":
            return GCSStore(bucket, **options)
        options["client_options"]["allow_http"] = os.environ.get("AZURE_STORAGE_USE_EMULATOR", "") != ""
        return AzureStore(bucket, **options)
    except Exception as error:  # obstore's own errors about the environment
        raise StoreError(f"store {uri}: cannot be opened: {_short(error)}") from error


def _profile(uri: str) -> Any:
    """Credentials of a profile, of single sign-on or of the machine's role, if the environment has no key."""
    known = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
    if any(os.environ.get(name) for name in (*known, "AWS_SKIP_SIGNATURE")):
        return None
    from botocore.exceptions import BotoCoreError
    from obstore.auth.boto3 import Boto3CredentialProvider

    advice = "put credentials into the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE)"
    try:
        return Boto3CredentialProvider()
    except (BotoCoreError, ValueError) as error:
        raise StoreError(f"store {uri}: no credentials: {_short(error)}; {advice}") from error


def _short(error: Exception) -> str:
    """The first lines of an error, without the library's own trace, on one line."""
    text = str(error).split("\n\nDebug source", 1)[0]
    message = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    text = f"{text.split(': <?xml', 1)[0]}: {message[1]}" if message else text
    return redact(" ".join(text.split()))[:400] or type(error).__name__


def _advice_on(error: Exception, action: str) -> str:
    """Advice for an error that retrying cannot fix, else an empty string."""
    kind, text = type(error).__name__, str(error)
    missing = isinstance(error, FileNotFoundError) and action != "read"
    if missing or any(word in text for word in _NO_BUCKET):
        return "the bucket does not exist; create it first"
    if kind.startswith(("PermissionDenied", "Unauthenticated")) or any(word in text for word in _DENIED):
        return "the credentials in the environment do not allow it"
    if isinstance(error, (TypeError, ValueError, NotImplementedError)):
        return "this storage cannot do it"
    return ""


def open_filesystem(uri: str) -> Filesystem:
    """Return the storage behind a normalised store URI."""
    return LocalFilesystem(uri) if is_local(uri) else RemoteFilesystem(uri)
