"""What a pack does on a GPU besides its steps, by kernels of its own: measurements sampled, singular values found.

Without a GPU, or without NVRTC, torch does the same.
"""

from __future__ import annotations

import torch

from flatdist.engines import cuda, why_absent
from flatdist.sensing.draws import tensor as draws

FILE = "_cuda_pack.cu"
THREADS = 32  # of a block: one warp, which needs no barrier of the whole block
BLOCK_ENTRIES = 2**21  # sampled at a time by torch, which holds 32 numbers of 8 bytes for each


def has_kernels(device: torch.device) -> bool:
    """Whether the kernels run on a device."""
    return device.type == "cuda" and why_absent("cuda") is None


def source() -> str:
    """The kernels' source."""
    return cuda.source_of(FILE, {"THREADS": THREADS, "BLOCKS_PER_SM": 8})


def sample_rows(
    owners: torch.Tensor, steps: torch.Tensor, keys: torch.Tensor, truths: torch.Tensor, rows: torch.Tensor, kind: str
) -> torch.Tensor:
    """Sample measurements of several streams; returns their exact labels <A, M*>, (rows,) float64.

    Args:
        owners: (rows,) int32, whose measurement it is.
        steps: (rows,) int32, its number in its owner's stream.
        keys: (owners, 2) int64 holding 32-bit words.
        truths: (owners, entries) float64, each owner's M*.
        rows: (rows, entries) of the type that is kept; filled.
        kind: ``normals``, ``halves`` (normals rounded to float16) or ``signs``.
    """
    labels = torch.empty(len(rows), dtype=torch.float64, device=rows.device)
    if has_kernels(rows.device):
        unsigned = keys.to(torch.int32)  # wraps around: the words of an unsigned integer
        arguments = [owners, steps, unsigned, truths, rows, labels, rows.shape[1]]
        arguments += [int(kind == "signs"), int(kind == "halves"), rows.element_size()]
        cuda.launch_kernel("sample_rows", source(), len(rows), THREADS, 8 * THREADS, arguments)
        return labels
    together = max(1, BLOCK_ENTRIES // rows.shape[1])
    for first in range(0, len(rows), together):
        some = slice(first, first + together)
        owner, step, count = owners[some].long(), steps[some].long()[None], rows.shape[1]
        if kind == "signs":
            block = 1.0 - 2.0 * (draws.words(keys[owner], step, count)[0] >> 31).to(torch.float64)
        else:
            block = draws.normals(keys[owner], step, count)[0]
            block = block.to(torch.float16).to(torch.float64) if kind == "halves" else block
        rows[some] = block.to(rows.dtype)
        labels[some] = halved_sums(block * truths[owner])
    return labels


def halved_sums(terms: torch.Tensor) -> torch.Tensor:
    """Sums over the last axis by adding its halves until one is left: bits that depend on the terms alone."""
    while terms.shape[-1] > 1:
        half = -(-terms.shape[-1] // 2)
        left, right = terms[..., :half], terms[..., half:]
        terms = left + torch.nn.functional.pad(right, (0, half - right.shape[-1]))
    return terms[..., 0]


def singular_values(matrices: torch.Tensor) -> torch.Tensor:
    """Singular values of finite float64 matrices, (..., d_out, d_in), in descending order, (..., min(d_out, d_in))."""
    tall = matrices if matrices.shape[-2] >= matrices.shape[-1] else matrices.mT
    rows, columns = tall.shape[-2:]
    need = 8 * (columns * (rows | 1) + THREADS)
    if not has_kernels(matrices.device) or need > cuda.shared_limit(str(matrices.device)):
        found: torch.Tensor = torch.linalg.svdvals(matrices)
        return found
    found = tall.new_empty(*tall.shape[:-2], columns)
    arguments = [tall.contiguous(), found, rows, columns]
    cuda.launch_kernel("singular_values", source(), found.numel() // columns, THREADS, need, arguments)
    return found.sort(descending=True).values


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matrix products that are summed one term after the other: bits that depend on the two matrices alone."""
    total = left[..., :, :1] * right[..., :1, :]
    for k in range(1, left.shape[-1]):
        total = torch.addcmul(total, left[..., :, k : k + 1], right[..., k : k + 1, :])
    return total
