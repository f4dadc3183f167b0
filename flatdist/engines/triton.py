"""SGD in one Triton kernel, one program per replicate: runs on CUDA devices, and on Triton's interpreter for tests.

With ``TRITON_INTERPRET=1`` in the environment the kernel is interpreted on the CPU, slowly: the same code that is
otherwise compiled.
"""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from typing import Any

import torch

from flatdist.engines._launched import STORAGES, Launch, LaunchedSession, Shape
from flatdist.engines.base import TrainingTask, why_not_on_chip
from flatdist.errors import LaunchError

SCRATCH_LANES = 512  # Philox blocks that a program draws at a time, at most


@dataclass(frozen=True)
class Configuration:
    """How Triton compiles a shape."""

    warps: int  # of 32 threads for one replicate
    rows: int  # measurement rows held at a time
    precision: str = "ieee"  # of products; or tf32x3: tensor cores, three products that make up float32
    ahead: int = 8  # steps whose draws are made together
    registers: int | None = None  # bound of a thread's registers; None leaves it to the compiler
    stages: int = 1  # of the loop over rows, for the compiler's pipeline


# (largest width, configuration), the first that is wide enough counts.
CONFIGURATIONS = (
    (16, Configuration(1, 4, registers=128)),
    (24, Configuration(4, 8, registers=128)),
    (32, Configuration(4, 4, "tf32x3")),
    (64, Configuration(8, 2, "tf32x3")),
)
FACTOR_ROWS = 16  # products want 16 rows at least


def interpreting() -> bool:
    """Whether kernels are interpreted on the CPU."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


class TritonEngine:
    """One Triton program per replicate."""

    name = "triton"

    def start(self, task: TrainingTask) -> LaunchedSession:
        """Set up a session at the task's starting layers.

        Raises:
            LaunchError: the kernel cannot run the task, or triton is not installed.
        """
        reason = why_not_on_chip(task.widths, task.dtype)
        if reason is None and torch.device(task.device).type != "cuda" and not interpreting():
            reason = f"it runs on CUDA devices, or interpreted where TRITON_INTERPRET=1 is set, not on {task.device!r}"
        if reason is not None:
            raise LaunchError(f"the triton engine cannot run this: {reason}; use --engine auto or batched")
        try:
            import triton  # noqa: F401
        except ImportError as error:
            raise LaunchError(f"the triton engine needs triton, a part of torch's CUDA builds: {error}") from error
        shape = Shape.of(task)
        chosen = next(c for width, c in CONFIGURATIONS if max(shape.widths) <= width)
        return LaunchedSession(task, functools.partial(run, shape=shape, chosen=chosen, scratch=Scratch()))


def constants(shape: Shape, chosen: Configuration, room: int) -> dict[str, Any]:
    """The constants that the kernel is compiled with."""
    d_in, d_out = shape.widths[0], shape.widths[-1]
    blocks = _power(-(-room // 4))
    return {
        "WIDTHS": shape.widths,
        "D": max(16, _power(max(shape.widths))),
        "FLAT": max(16, _power(d_in * d_out)),
        "BATCH": shape.batch,
        "NOISE": shape.label_noise,
        "SAM": shape.sharpness_aware,
        "STORAGE": STORAGES.index(shape.storage),
        "ROWS": chosen.rows if shape.storage in ("rows", "signs") else max(FACTOR_ROWS, chosen.rows),
        "BLOCKS": blocks,
        "AHEAD": max(1, min(chosen.ahead, SCRATCH_LANES // blocks)),
        "PRECISION": chosen.precision,
        "STAGES": chosen.stages,
    }


class Scratch:
    """Buffers for the draws of a session's programs, kept between launches."""

    def __init__(self) -> None:
        self.indices, self.noise = torch.empty(0), torch.empty(0)

    def __call__(self, count: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Indices and noise, ``count`` entries each."""
        if len(self.indices) != count:
            self.indices = torch.empty(count, dtype=torch.int32, device=device)
            self.noise = torch.empty(count, device=device)
        return self.indices, self.noise


def run(launch: Launch, shape: Shape, chosen: Configuration, scratch: Scratch) -> None:
    """Launch the kernel, a program for each replicate."""
    if interpreting():
        _mend_interpreter()
    from flatdist.engines._triton_steps import run_steps

    fixed = constants(shape, chosen, launch.room)
    buffers = scratch(len(launch.counts) * fixed["AHEAD"] * launch.room, launch.weights.device)
    options = {"num_warps": chosen.warps} | ({} if chosen.registers is None else {"maxnreg": chosen.registers})
    grid = (len(launch.counts),)
    run_steps[grid](*launch.tensors(), launch.levels.shape[1], launch.room, *buffers, **fixed, **options)


def _power(count: int) -> int:
    return 1 << (count - 1).bit_length()


@functools.cache
def _mend_interpreter() -> None:
    """Triton's interpreter turns arrays of one entry into numbers by int(), which numpy 2.4 refuses."""
    from triton.runtime import interpreter

    patch = interpreter._patch_lang_tensor

    def mended(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = mended
