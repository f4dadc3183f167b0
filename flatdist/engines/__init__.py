"""Ways of executing SGD steps: one file each, all following :mod:`flatdist.engines.base`."""

from __future__ import annotations

from flatdist.engines.base import Engine
from flatdist.errors import LaunchError
from flatdist.machine.extras import load
from flatdist.suggestions import did_you_mean

_ENGINES = {
    "reference": "flatdist.engines.reference:ReferenceEngine",
    "batched": "flatdist.engines.batched:BatchedEngine",
    "fused": "flatdist.engines.fused:FusedEngine",
}
ENGINE_NAMES = ("auto", *_ENGINES)


def resolve_engine(name: str, device: str) -> str:
    """The engine that a name stands for on a device: ``auto`` is fused on the CPU and batched elsewhere.

    Raises:
        LaunchError: no such engine, or it does not run on that device.
    """
    if name not in ENGINE_NAMES:
        raise LaunchError(
            f"engine {name!r} does not exist{did_you_mean(name, ENGINE_NAMES)}; allowed: {', '.join(ENGINE_NAMES)}"
        )
    if name == "auto":
        return "fused" if device == "cpu" else "batched"
    if name in ("fused", "reference") and device != "cpu":
        raise LaunchError(f"the {name} engine runs on the CPU, not on {device!r}; use --engine batched or auto there")
    return name


def load_engine(name: str, device: str = "cpu") -> Engine:
    """An engine by name, checked against the device.

    Args:
        name: ``auto``, ``reference``, ``batched`` or ``fused``.
        device: ``cpu``, or a torch device such as ``cuda`` or ``cuda:1``.

    Raises:
        LaunchError: no such engine or device, or they do not fit each other.
    """
    name = resolve_engine(name, device)
    check_device(device)
    engine: Engine = load(_ENGINES[name])()
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
