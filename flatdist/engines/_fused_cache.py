"""Compiled code kept between processes, so that only the first worker on a machine waits for the compiler.

Numba's own cache looks only at the file of the cached function, so it misses an edit to an imported helper. It raises
if neither the package nor the home folder is writable, and lets two processes that compile different signatures at once
overwrite each other's entry. Here a file's name is a hash of everything that the code depends on, and a file is written
whole or not at all; if one cannot be read or written, the code is compiled again.

Cached code is loaded by unpickling, so the folder must be the user's own and writable by nobody else. It is
``$FLATDIST_CACHE_DIR``, else ``$XDG_CACHE_HOME/flatdist``, else ``~/.cache/flatdist``.
"""

# Compiled or compiler-facing code, which the type checker cannot follow.
# mypy: disable-error-code="no-untyped-call, attr-defined"

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba import config
from numba.core import compiler
from numba.core.caching import NullCache
from numba.core.serialize import dumps

from flatdist.machine.files import cache_home
from flatdist.machine.logs import waits

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

COMPILING = "compiling the training loop for this processor, once: later runs find it compiled"
KEPT_FILES = 64  # older compilations are deleted when a new one is saved
DIGEST_SIZE = hashlib.sha256().digest_size


def cache_folder() -> Path | None:
    """The folder of compiled code, created if needed; None if no folder is safe to use."""
    try:
        folder = cache_home()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder if _is_ours(folder) and os.access(folder, os.W_OK) else None
    except (OSError, RuntimeError):  # no home folder, a read-only disk, a file where the folder should be
        return None


def _is_ours(path: Path) -> bool:
    """Owned by this user and writable by nobody else; always so where the system has no owners."""
    if not hasattr(os, "getuid"):
        return True
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def source_stamp(modules: Sequence[str]) -> str:
    """Hash of the source of these modules and of all that turns it into machine code."""
    digest = hashlib.sha256()
    for name in modules:
        source = sys.modules[name].__file__
        assert source is not None
        digest.update(f"{name}\n".encode())
        digest.update(Path(source).read_bytes())
    settings = (config.OPT, config.LOOP_VECTORIZE, config.SLP_VECTORIZE, config.BOUNDSCHECK)
    digest.update(repr((sys.version, numba.__version__, llvmlite.__version__, settings)).encode())
    return digest.hexdigest()


class KernelCache(NullCache):
    """Compilations of one function, with the interface that Numba's dispatchers expect.

    Args:
        name: names the function in file names.
        modules: every module whose source goes into the compiled code.
        code: what else goes into it.
    """

    def __init__(self, name: str, modules: Sequence[str], code: bytes = b"") -> None:
        self.name = name
        # Taken now, while the sources are those that were just imported, not when a compilation is saved.
        self.stamp = source_stamp(modules) + hashlib.sha256(code).hexdigest()

    def path(self, signature: Any, codegen: Any) -> Path | None:
        """The file for one signature on this processor, or None if nothing is cached."""
        folder = cache_folder()
        if folder is None:
            return None
        text = repr((self.stamp, str(signature), codegen.magic_tuple()))
        return folder / f"{self.name}-{hashlib.sha256(text.encode()).hexdigest()[:32]}.kernel"

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function, or None if it must be compiled."""
        target_context.refresh()
        with contextlib.suppress(OSError):
            path = self.path(sig, target_context.codegen())
            if path is not None and _is_ours(path):
                content = path.read_bytes()
                digest, payload = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
                if hashlib.sha256(payload).digest() == digest:
                    reduced = pickle.loads(payload)  # noqa: S301  the user's own file: see _is_ours
                    return compiler.CompileResult._rebuild(target_context, *reduced)
        waits.begin(COMPILING)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Cache a compiled function, if there is a folder for it."""
        waits.end(COMPILING)
        with contextlib.suppress(OSError):
            path = self.path(sig, data.codegen)
            if path is None:
                return
            payload = dumps(data._reduce())
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kernel-")
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(hashlib.sha256(payload).digest() + payload)
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
            files = sorted(path.parent.glob("*.kernel"), key=lambda file: file.stat().st_mtime)
            for old in files[:-KEPT_FILES]:
                old.unlink(missing_ok=True)  # another process may be doing the same


@contextlib.contextmanager
def sole_compiler(name: str) -> Iterator[bool]:
    """Whether this process may compile something of that name: no other process on this machine is compiling it."""
    folder = cache_folder()
    if folder is None or fcntl is None:
        yield True
        return
    try:
        with open(folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock", "wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            yield True
    except OSError:
        yield True
