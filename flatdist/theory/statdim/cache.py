"""Computed values kept in the user's cache folder: a convenience that may be missing, unwritable or damaged."""

from __future__ import annotations

import math
import os
import tempfile
from pathlib import Path

SWITCH = "FLATDIST_CACHE"  # a folder to use instead, or "off"


def cache_folder() -> Path | None:
    """Where values are kept, or None where the user wants no cache or has no home."""
    chosen = os.environ.get(SWITCH, "")
    if chosen.lower() == "off":
        return None
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no home folder can be determined
        return Path(chosen) if chosen else None
    return Path(chosen) if chosen else base / "flatdist"


def read_value(name: str) -> float | None:
    """The value kept under ``name``, or None."""
    folder = cache_folder()
    if folder is None:
        return None
    try:
        value = float((folder / name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return value if math.isfinite(value) else None


def write_value(name: str, value: float) -> None:
    """Keep a value, whole or not at all; a folder that cannot be written is no error."""
    folder = cache_folder()
    if folder is None:
        return
    temporary = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(repr(value))
        os.replace(temporary, folder / name)
    except OSError:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
