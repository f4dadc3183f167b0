"""Store URIs, and keeping credentials out of them and of everything that is written or printed."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flatdist.errors import StoreError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_USERINFO = re.compile(r"(?<=://)(?:[^/\s@:'\"]+:[^\s'\"]+|[^/\s@'\"]+)@")  # an S3 secret may hold slashes
_QUERY = re.compile(
    r"(?i)((?:secret|password|passwd|token|signature|credential|access_?key|account_?key)[\w.-]*=)[^&\s'\"]+"
)
_SECRET_NAME = re.compile(r"(?i)(SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|ACCESS_KEY|ACCOUNT_KEY|API_KEY)")
_SHORTEST_SECRET = 8


def normalise(location: str | os.PathLike[str]) -> str:
    """Return a store's URI: an absolute path for a local folder, else the URI without its trailing slash.

    Raises:
        StoreError: the URI holds credentials, or is no URI.
    """
    text = os.fspath(location)
    if not isinstance(text, str) or not text.strip() or "\0" in text:
        raise StoreError("a store needs a location; allowed: a folder, or a URI such as s3://bucket/folder")
    if not _SCHEME.match(text):
        return str(Path(text).expanduser().absolute())
    parts = urlsplit(_USERINFO.sub("***@", text))  # urlsplit takes a password with a slash in it for a host and a path
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise StoreError(
            f"store {redact(parts._replace(query='', fragment='').geturl())}: a store's URI holds only a scheme, a "
            "bucket and a folder, so that no credential reaches a log or a row; put credentials and endpoints into the "
            "environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, …)"
        )
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise StoreError(f"store {text}: a file:// URI names a folder of this machine, as in file:///data/results")
        return unquote(parts.path) or "/"
    if not parts.netloc:
        raise StoreError(f"store {text}: names no bucket; allowed: {parts.scheme}://bucket/folder")
    return text.rstrip("/")


def is_local(uri: str) -> bool:
    """Whether a normalised URI is a folder of this machine."""
    return not _SCHEME.match(uri)


def redact(text: str) -> str:
    """Return text with credentials replaced by ``***``.

    Covers ``scheme://user:password@``, ``secret=…`` in queries, and the values of the environment's secrets.
    """
    text = _QUERY.sub(r"\1***", _USERINFO.sub("***@", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, "***")
    return text
