"""Where a result comes from: versions, revision, machine; recorded beside every row."""

from __future__ import annotations

import functools
import os
import platform
import socket
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
MOST_DIFF = 10**6  # characters


@functools.cache
def revision() -> tuple[str | None, bool | None]:
    """Git revision of flatdist's own checkout and whether it has uncommitted changes; (None, None) when installed.

    Resolved once by the driver and handed to the workers: a worker's current folder may be another repository.
    """
    if not (ROOT / ".git").exists() or not (ROOT / "flatdist").is_dir():
        return None, None
    sha, changed = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return (None, None) if sha is None or changed is None else (sha.strip(), bool(changed))


def uncommitted_changes() -> str:
    """The uncommitted changes of flatdist's checkout, as git's diff; empty if clean or installed."""
    return (_git("diff", "HEAD") or "")[:MOST_DIFF] if revision()[1] else ""


@functools.cache
def package_version(name: str) -> str | None:
    """Installed version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def run_provenance() -> dict[str, Any]:
    """Provenance that is the same for a whole run, resolved by the driver."""
    sha, dirty = revision()
    return {
        "flatdist_version": package_version("flatdist"),
        "git_sha": sha,
        "git_dirty": dirty,
        "torch_version": package_version("torch"),
    }


@functools.cache
def machine_provenance() -> dict[str, Any]:
    """Provenance of the machine that computes: its name and the CPU features that decide a result's bits."""
    return {"host": socket.gethostname(), "cpu_features": _cpu_features()}


def _cpu_features() -> str:
    """Processor model that code is compiled for, and the instruction sets that BLAS libraries chose."""
    import threadpoolctl
    from llvmlite.binding import get_host_cpu_name

    blas = set()
    for pool in threadpoolctl.threadpool_info():
        folder = Path(pool["filepath"]).parent.name
        # A library in the wheel of a package that computes no results is here by chance.
        if pool.get("architecture") and (folder in ("numpy.libs", "scipy.libs") or not folder.endswith(".libs")):
            blas.add(f"{pool['internal_api']}:{pool['architecture']}")
    chosen = [os.environ.get(name) for name in ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")]
    processor = [chosen[0] or get_host_cpu_name(), *([chosen[1]] if chosen[1] else [])]
    return " ".join([platform.machine(), *processor, *sorted(blas)])


def _git(*arguments: str) -> str | None:
    """What git says of flatdist's checkout; None if it cannot be asked."""
    command = ["git", "-C", str(ROOT), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace", timeout=30).stdout  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
