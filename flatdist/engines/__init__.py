"""Ways of executing SGD steps: one file each, all following :mod:`flatdist.engines.base`."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.util
import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flatdist.engines.base import Engine, why_not_on_chip
from flatdist.errors import LaunchError, did_you_mean
from flatdist.machine.extras import load

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell


@dataclass(frozen=True)
class EngineEntry:
    """What is needed to choose an engine without importing it."""

    target: str  # ``module:class``
    devices: tuple[str, ...]  # kinds of torch devices that it runs on
    on_chip: bool = False  # a replicate stays on the GPU's chip: float32, widths up to ``WIDEST``, no update rules

    def why_not(self, cell: Cell) -> str | None:
        """Why the engine cannot take the steps of a cell, or None."""
        return why_not_on_chip(cell.widths, cell.dtype) if self.on_chip else None


# In the order in which ``auto`` prefers them.
ENGINES = {
    "fused": EngineEntry("flatdist.engines.fused:FusedEngine", ("cpu",)),
    "cuda": EngineEntry("flatdist.engines.cuda:CudaEngine", ("cuda",), on_chip=True),
    "triton": EngineEntry("flatdist.engines.triton:TritonEngine", ("cuda",), on_chip=True),
    "batched": EngineEntry("flatdist.engines.batched:BatchedEngine", ("cpu", "cuda")),
    "reference": EngineEntry("flatdist.engines.reference:ReferenceEngine", ("cpu",)),
}
ENGINE_NAMES = ("auto", *ENGINES)


def resolve_engine(name: str, device: str, cell: Cell | None = None) -> str:
    """The engine that a name stands for on a device.

    ``auto`` is the first of :data:`ENGINES` that runs on the device, is installed, can take the cell's steps and is
    allowed by its method.

    Args:
        name: of :data:`ENGINE_NAMES`.
        device: ``cpu``, or a torch device.
        cell: what is to be trained; None for a usual one.

    Raises:
        LaunchError: the engine does not exist, or it does not run on that device or the cell's method.
    """
    if name not in ENGINE_NAMES:
        raise LaunchError(
            f"engine {name!r} does not exist{did_you_mean(name, ENGINE_NAMES)}; allowed: {', '.join(ENGINE_NAMES)}"
        )
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        check_device(device)
    allowed = [other for other in ENGINES if cell is None or _allows(cell, other)]
    if name == "auto":
        for other, entry in ENGINES.items():
            able = other in allowed and kind in entry.devices and (cell is None or not entry.why_not(cell))
            if able and not (entry.on_chip and why_absent(other)):
                return other
        raise LaunchError(f"no engine runs {'this' if cell is None else cell.method} on {device!r}")
    if kind not in ENGINES[name].devices and not (name == "triton" and os.environ.get("TRITON_INTERPRET") == "1"):
        where = " or ".join({"cpu": "the CPU", "cuda": "CUDA devices"}[one] for one in ENGINES[name].devices)
        raise LaunchError(f"the {name} engine runs on {where}, not on {device!r}; use --engine auto there")
    if name not in allowed:
        assert cell is not None
        raise LaunchError(f"the {name} engine does not run {cell.method}; allowed: auto, {', '.join(allowed)}")
    if cell is not None and (reason := ENGINES[name].why_not(cell)):
        raise LaunchError(f"the {name} engine cannot run this: {reason}; use --engine auto or batched")
    return name


def _allows(cell: Cell, engine: str) -> bool:
    """Whether a cell's method lets an engine take its steps."""
    named, updates = cell.spec.engines, getattr(cell.spec, "update", None) is not None
    return (named is None or engine in named) and not (updates and ENGINES[engine].on_chip)


@functools.cache
def why_absent(name: str) -> str | None:
    """Why an engine for CUDA devices is not installed here, or None; logged once."""
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
        logging.getLogger(__name__).warning("engine %s is not used: %s", name, reason)
    return reason


def load_engine(name: str, device: str = "cpu", cell: Cell | None = None) -> Engine:
    """An engine by name, checked against the device.

    Args:
        name: of :data:`ENGINE_NAMES`.
        device: ``cpu``, or a torch device such as ``cuda`` or ``cuda:1``.
        cell: what is to be trained; None for a usual one.

    Raises:
        LaunchError: the engine or device does not exist, or the engine does not run on that device.
    """
    target = ENGINES[resolve_engine(name, device, cell)].target
    check_device(device)
    engine: Engine = load(target)()
    return engine


def device_label(device: str) -> str:
    """How rows and checkpoints record a device: ``cpu``, or a GPU's model, driver and CUDA version."""
    if device == "cpu":
        return device
    import torch

    driver = ctypes.c_int()  # the newest CUDA version that it supports, such as 13000; 0 if it cannot be asked
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(driver))
    name = torch.cuda.get_device_name(torch.device(device))
    return f"cuda {name}, CUDA {torch.version.cuda}, driver API {driver.value}"


def check_device(device: str) -> None:
    """Reject a device that does not exist here.

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
        raise LaunchError(f"device {device!r} is not available: torch sees {count} CUDA devices; use --device cpu")


__all__ = ["ENGINES", "ENGINE_NAMES", "Engine", "check_device", "device_label", "load_engine", "resolve_engine"]
