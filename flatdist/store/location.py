"""Store locations: normalised or rejected in the same way for every command; credentials are kept out of messages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flatdist.errors import StoreError

SCHEMES = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs", "az": "az", "azure": "az", "abfs": "az", "abfss": "az"}
ALLOWED = "a folder, s3://bucket/folder, gs://bucket/folder or az://container/folder"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_LIKE_A_SCHEME = re.compile(
    r"(file|memory|hdfs|https?|ftps?|sftp|ssh|" + "|".join(SCHEMES) + r"):(?!//)", re.IGNORECASE
)
_USERINFO = re.compile(r"(?<=://)(?:[^/\s@:'\"]+:[^\s'\"]+|[^/\s@'\"]+)@")  # an S3 secret may hold slashes
_QUERY = re.compile(
    r"(?i)((?:secret|password|passwd|token|signature|credential|access_?key|account_?key)[\w.-]*=)[^&\s'\"]+"
)
_SECRET_NAME = re.compile(r"(?i)(SECRET|PASSWORD|PASSWD|TOKEN|CREDENTIAL|ACCESS_KEY|ACCOUNT_KEY|API_KEY)")
_SHORTEST_SECRET = 8


def normalise(location: str | os.PathLike[str]) -> str:
    """Return a store's URI: an absolute path for a local folder, else scheme, bucket and folder, without extra slashes.

    >>> normalise("s3://bucket//folder/")
    's3://bucket/folder'

    Raises:
        StoreError: the location holds credentials, or is not one that flatdist can use.
    """
    text = os.fspath(location)
    if not isinstance(text, str) or not text.strip() or any(ord(character) < 32 for character in text):
        raise StoreError(f"a store needs a location without control characters; allowed: {ALLOWED}")
    if re.search(r"\$[A-Za-z_{(]", text):
        raise StoreError(f"store {text!r}: '$' is not expanded here; write the path out, or unquote it for the shell")
    if re.match(r"[A-Za-z]:[\\/]|\\\\", text):
        raise StoreError(f"store {text!r} looks like a Windows path, which this system cannot open; allowed: {ALLOWED}")
    if text.lower().startswith("file:/") and not text.startswith("//", 5):
        text = f"file://{text[5:]}"  # the short form of RFC 8089
    if match := _LIKE_A_SCHEME.match(text):
        hint = f"write {match[1]}://bucket/folder" if match[1].lower() in SCHEMES else f"allowed: {ALLOWED}"
        raise StoreError(f"store {redact(text)!r} is not a complete location; {hint}")
    return _remote(text, match) if (match := _SCHEME.match(text)) else _local(text)


def _local(text: str) -> str:
    if text.startswith("~") and (text := os.path.expanduser(text)).startswith("~"):
        raise StoreError(f"store {text!r}: there is no such home directory; write the path out")
    return str(Path(text).absolute())


def _remote(text: str, match: re.Match[str]) -> str:
    scheme = match[1].lower()
    parts = urlsplit(_USERINFO.sub("***@", text))  # urlsplit takes a password with a slash in it for a host and a path
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise StoreError(
            f"store {redact(parts._replace(query='', fragment='').geturl())}: a store's URI holds only a scheme, a "
            "bucket and a folder, so that no credential reaches a log or a row; put credentials and endpoints into the "
            "environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, AWS_ENDPOINT_URL, ...)"
        )
    if scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise StoreError(f"store {text}: a file:// URI names a folder of this machine, as in file:///data/results")
        return str(Path(unquote(parts.path) or "/").absolute())
    if scheme not in SCHEMES:
        raise StoreError(f"store {text}: no storage is known for {scheme}://; allowed: {ALLOWED}")
    if not parts.netloc:
        raise StoreError(f"store {text}: names no bucket; allowed: {scheme}://bucket/folder")
    folders = [name for name in text[match.end() :].split("/")[1:] if name]
    if {".", ".."} & {*folders, parts.netloc} or "\\" in text:
        raise StoreError(f"store {text}: '.', '..' and backslashes have no meaning in a bucket; write the folder out")
    return "/".join((f"{scheme}://{parts.netloc}", *folders))


def is_local(uri: str) -> bool:
    """Whether a normalised URI is a folder of this machine."""
    return not _SCHEME.match(uri)


def redact(text: str) -> str:
    """Return text with credentials replaced by ``***``.

    Covers ``scheme://user:password@``, ``secret=...`` in queries, and the values of the environment's secrets.
    """
    text = _QUERY.sub(r"\1***", _USERINFO.sub("***@", text))
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST_SECRET and _SECRET_NAME.search(name) and value in text:
            text = text.replace(value, "***")
    return text
