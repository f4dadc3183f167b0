"""Ways of executing SGD steps: one file each, all following :mod:`flatdist.engines.base`."""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
from typing import TYPE_CHECKING

from flatdist.engines.base import WIDEST, Engine
from flatdist.errors import LaunchError
from flatdist.machine.extras import load
from flatdist.suggestions import did_you_mean

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell

_ENGINES = {
    "reference": "flatdist.engines.reference:ReferenceEngine",
    "batched": "flatdist.engines.batched:BatchedEngine",
    "fused": "flatdist.engines.fused:FusedEngine",
    "cuda": "flatdist.engines.cuda:CudaEngine",
    "triton": "flatdist.engines.triton:TritonEngine",
}
ENGINE_NAMES = ("auto", *_ENGINES)
_ON_CPU = ("fused", "reference")
_ON_CUDA = ("cuda", "triton")


def resolve_engine(name: str, device: str, cell: Cell | None = None) -> str:
    """The engine that a name stands for on a device.

    ``auto`` is fused on the CPU. On a GPU it is the first of cuda, triton and batched that is installed and runs the
    cell: all three are, where torch's CUDA build is.

    Args:
        name: of :data:`ENGINE_NAMES`.
        device: ``cpu``, or a torch device.
        cell: what is to be trained; None for a usual one.

    Raises:
        LaunchError: no such engine, or it does not run on that device.
    """
    if name not in ENGINE_NAMES:
        raise LaunchError(
            f"engine {name!r} does not exist{did_you_mean(name, ENGINE_NAMES)}; allowed: {', '.join(ENGINE_NAMES)}"
        )
    if name == "auto":
        return "fused" if device == "cpu" else _on_gpu(cell)
    if name in _ON_CPU and device != "cpu":
        raise LaunchError(f"the {name} engine runs on the CPU, not on {device!r}; use --engine auto there")
    if name in _ON_CUDA and device == "cpu" and not (name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"):
        raise LaunchError(f"the {name} engine runs on CUDA devices, not on {device!r}; use --engine auto there")
    return name


def _on_gpu(cell: Cell | None) -> str:
    if cell is not None and (cell.dtype != "float32" or max(cell.widths) > WIDEST):
        return "batched"
    return next((name for name in _ON_CUDA if not why_absent(name)), "batched")


@functools.cache
def why_absent(name: str) -> str | None:
    """Why an engine for CUDA devices is not installed here, or None; said once in the log."""
    if name == "triton":
        reason = None if importlib.util.find_spec("triton") else "triton is not installed"
    else:
        try:
            from torch.cuda._utils import _get_gpu_rtc_library

            _get_gpu_rtc_library()
            reason = None
        except (ImportError, OSError, AttributeError) as error:
            reason = f"NVRTC cannot be loaded: {error}"
    if reason:
        logging.getLogger("flatdist").warning("engine %s is left out: %s", name, reason)
    return reason


def load_engine(name: str, device: str = "cpu", cell: Cell | None = None) -> Engine:
    """An engine by name, checked against the device.

    Args:
        name: of :data:`ENGINE_NAMES`.
        device: ``cpu``, or a torch device such as ``cuda`` or ``cuda:1``.
        cell: what is to be trained; None for a usual one.

    Raises:
        LaunchError: no such engine or device, or they do not fit each other.
    """
    check_device(device)
    engine: Engine = load(_ENGINES[resolve_engine(name, device, cell)])()
    return engine


def check_device(device: str) -> None:
    """Refuse a device that does not exist here.

    Raises:
        LaunchError: with what is allowed.
    """
    if device == "cpu":
        return
    import torch

    try:
        kind = torch.device(device)
    except RuntimeError:
        raise LaunchError(f"device {device!r} is not a device; allowed: cpu, cuda, cuda:0, ...") from None
    if kind.type != "cuda":
        raise LaunchError(f"device {device!r} is not supported; allowed: cpu, cuda, cuda:0, ...")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (kind.index or 0) >= count:
        raise LaunchError(f"device {device!r} is absent: torch sees {count} CUDA devices; use --device cpu")


__all__ = ["ENGINE_NAMES", "Engine", "check_device", "load_engine", "resolve_engine"]
