"""SGD on a CUDA device, one replicate per block: layers and products stay in shared memory, drawn rows are read once.

The kernel is CUDA C++, compiled by NVRTC (a part of torch's CUDA builds) for one shape when it first occurs.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import pairwise
from typing import Any

import torch

from flatdist.engines._launched import STORAGES, Launch, LaunchedSession, Shape, rounded_up
from flatdist.engines.base import TrainingTask, why_not_on_chip
from flatdist.errors import LaunchError

FACTORS_TOGETHER = 32  # the kernel's CHUNK
USUAL_SHARED = 227 * 1024  # shared bytes of a block, if no device says otherwise


@dataclass(frozen=True)
class Configuration:
    """How a shape is divided among threads; it changes nothing but rounding."""

    threads: int  # of a block, which trains one replicate
    lanes: int  # threads that share a measurement row: a power of two that divides ``threads``
    rows: int  # measurement rows that a thread holds at a time
    tall: int  # rows of a thread's tile in products of layers
    wide: int  # columns of that tile
    blocks: int  # least number of blocks per SM; bounds the registers of a thread
    ahead: int = 8  # steps whose draws are made together


# (largest width, configuration), the first that is wide enough counts: the fastest that benchmarks/gpu.py tried
# on an H100 full of replicates. One for all packs of a shape, whatever their size: another one rounds differently.
CONFIGURATIONS = (
    (12, Configuration(64, 8, 1, 2, 2, 8)),
    (16, Configuration(64, 16, 2, 2, 2, 8)),
    (24, Configuration(128, 32, 2, 2, 2, 4)),
    (32, Configuration(128, 32, 2, 2, 4, 3)),
    (48, Configuration(256, 128, 2, 4, 4, 2)),
    (64, Configuration(256, 256, 3, 4, 4, 2)),
)


def configuration_of(shape: Shape) -> Configuration:
    """The configuration for a shape."""
    return next(chosen for width, chosen in CONFIGURATIONS if max(shape.widths) <= width)


def source(shape: Shape, chosen: Configuration) -> str:
    """The kernel's source for a shape, which macros describe to it."""
    macros = {
        "DEPTH": shape.depth,
        "WIDTHS": "{" + ", ".join(map(str, shape.widths)) + "}",
        "BATCH": shape.batch,
        "NOISE": int(shape.label_noise),
        "SAM": int(shape.sharpness_aware),
        "STORAGE": STORAGES.index(shape.storage),
        "THREADS": chosen.threads,
        "LANES": chosen.lanes,
        "ROWS": chosen.rows,
        "TALL": chosen.tall,
        "WIDE": chosen.wide,
        "AHEAD": chosen.ahead if shape.batch else 1,
        "BLOCKS_PER_SM": chosen.blocks,
    }
    return source_of("_cuda_steps.cu", macros)


def source_of(name: str, defined: Mapping[str, Any]) -> str:
    """A file of kernels with what all share before it, and macros before that."""
    lines = [f"#define {macro} {value}" for macro, value in defined.items()]
    folder = files("flatdist.engines")
    return "\n".join([*lines, *(folder.joinpath(part).read_text() for part in ("_cuda_common.cu", name))])


def shared_bytes(shape: Shape, chosen: Configuration, room: int) -> int:
    """Shared memory of a block: layers, products, partial sums and draws; as the source counts it."""
    widths, (d_in, d_out) = shape.widths, (shape.widths[0], shape.widths[-1])
    layers = sum(rows * _pitch(columns) for columns, rows in pairwise(widths)) * (1 + shape.sharpness_aware)
    matrices = (shape.depth + 1) * max(widths) * _pitch(d_in)  # products of 2 ... L-1 layers, M, G and one more
    warps = -(-chosen.threads // 32)
    sharers = warps if chosen.lanes < 32 else chosen.threads // chosen.lanes
    partial = sharers * d_in * d_out if sharers > 1 else 0
    if shape.storage in ("factors", "entries"):
        partial = FACTORS_TOGETHER * (_pitch(d_out) + 2 * _pitch(d_in)) if shape.storage == "factors" else 0
    sums = layers + matrices + partial + 2 * chosen.rows * warps + chosen.threads + 4
    draws = (chosen.ahead if shape.batch else 1) * room * (shape.label_noise + bool(shape.batch))
    return 4 * (-(-sums // 4) * 4 + draws)


def _pitch(columns: int) -> int:
    return (columns // 4 | 1) * 4


class CudaEngine:
    """One block of threads per replicate, all steps of a segment in one launch."""

    name = "cuda"

    def start(self, task: TrainingTask) -> LaunchedSession:
        """Set up a session at the task's starting layers.

        Raises:
            LaunchError: the kernel cannot run the task on that device.
        """
        reason = why_not_on_chip(task.widths, task.dtype)
        if reason is None and torch.device(task.device).type != "cuda":
            reason = f"it runs on CUDA devices, not on {task.device!r}"
        if reason is None:
            shape = Shape.of(task)
            chosen = configuration_of(shape)
            need, has = shared_bytes(shape, chosen, rounded_up(task.drawn)), shared_limit(task.device)
            if need <= has:
                return LaunchedSession(task, functools.partial(run, shape=shape, chosen=chosen))
            reason = f"a replicate needs {need} bytes of shared memory and {task.device} gives a block {has}"
        raise LaunchError(f"the cuda engine cannot run this: {reason}; use --engine auto or batched")


def shared_limit(device: str) -> int:
    """Bytes of shared memory that a block may have on a device."""
    properties = torch.cuda.get_device_properties(torch.device(device))
    return int(getattr(properties, "shared_memory_per_block_optin", USUAL_SHARED))


def run(launch: Launch, shape: Shape, chosen: Configuration) -> None:
    """Launch the kernel, a block for each replicate."""
    need = shared_bytes(shape, chosen, launch.room)
    arguments = [*launch.tensors(), launch.levels.shape[1], launch.room]
    launch_kernel("run_steps", source(shape, chosen), len(launch.counts), chosen.threads, need, arguments)


def launch_kernel(name: str, text: str, blocks: int, threads: int, need: int, arguments: Sequence[Any]) -> None:
    """Launch a kernel of some source on the device of its first argument, compiled at its first use in a process.

    Args:
        name: of the kernel.
        text: of :func:`source_of`.
        blocks: how many.
        threads: of a block.
        need: bytes of shared memory of a block.
        arguments: tensors and integers.
    """
    device = arguments[0].device
    with torch.cuda.device(device):
        kernel = _loaded(name, text, device.index or 0, need)
        kernel(grid=(blocks, 1, 1), block=(threads, 1, 1), args=list(arguments), shared_mem=need)


@functools.lru_cache(maxsize=256)
def _loaded(name: str, text: str, device: int, need: int) -> Any:
    from torch.cuda._utils import _cuda_load_module

    properties = torch.cuda.get_device_properties(device)
    loaded: Any = _cuda_load_module(machine_code(text, f"sm_{properties.major}{properties.minor}"), [name])
    kernel = loaded[name]
    kernel.set_shared_memory_config(need)
    return kernel


@functools.lru_cache(maxsize=256)
def machine_code(text: str, architecture: str) -> bytes:
    """Compile CUDA C++ for one architecture, once in a process; torch's own wrapper would need a toolkit's headers.

    Raises:
        LaunchError: NVRTC is missing, or it does not compile the source; the message holds its log.
    """
    try:
        from torch.cuda._utils import _get_gpu_rtc_library

        library: Any = _get_gpu_rtc_library()
    except (ImportError, OSError) as error:
        raise LaunchError(f"the cuda engine needs NVRTC, a part of torch's CUDA builds: {error}") from error
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    options = [b"--std=c++17", f"--gpu-architecture={architecture}".encode()]
    library.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"steps.cu", 0, None, None)
    try:
        if library.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options)):
            library.nvrtcGetProgramLogSize(program, ctypes.byref(size))
            log = ctypes.create_string_buffer(size.value)
            library.nvrtcGetProgramLog(program, log)
            raise LaunchError(f"the cuda engine's kernel does not compile for {architecture}:\n{log.value.decode()}")
        library.nvrtcGetCUBINSize(program, ctypes.byref(size))
        binary = ctypes.create_string_buffer(size.value)
        library.nvrtcGetCUBIN(program, binary)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))
    return binary.raw
