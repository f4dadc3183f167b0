"""Files that are written whole or not at all, and where compiled code is kept."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_home() -> Path:
    """``$FLATDIST_CACHE_DIR``, else ``flatdist`` in the user's folder of caches.

    Raises:
        RuntimeError: the user has no home folder.
    """
    chosen, base = os.environ.get("FLATDIST_CACHE_DIR"), os.environ.get("XDG_CACHE_HOME")
    return Path(chosen) if chosen else (Path(base) if base else Path.home() / ".cache") / "flatdist"


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary file beside a path, which takes its place if nothing is raised; the folder is made if needed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Never an existing name, which could be somebody's link.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    try:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(handle, 0o666 & ~umask)
        os.close(handle)
        yield Path(name)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
