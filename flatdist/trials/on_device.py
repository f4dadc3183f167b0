"""What a pack does on a GPU besides its steps: sample the problems and evaluate the histories of all replicates.

Written in torch, it runs on any device; where there is a GPU and NVRTC, kernels of its own sample measurements and find
singular values. Replicates of about the same n go through it together, padded with rows of zeros, and a block of
evaluations sends back a handful of numbers for each.

Problems are the draws of :mod:`flatdist.cells.problems`, in float64 on the device: its logarithm, sine and cosine may
differ from the CPU's in the last bit, so a label does too, and once in about 1e8 entries the float32 that is kept.
Labels and automatic step sizes are summed in a fixed order: their bits depend on the device and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from flatdist.cells.cell import Cell
from flatdist.cells.problems import StoredProblem, frobenius_norm, ground_truths_of, storage_dtype
from flatdist.engines import cuda, why_absent
from flatdist.engines._launched import in_sequence
from flatdist.factorization.flatness import flatness_terms
from flatdist.factorization.products import end_to_end, partial_products
from flatdist.sensing.draws import stream_key
from flatdist.sensing.draws import tensor as draws
from flatdist.sensing.draws.stream import INITIALISATION, MEASUREMENTS, OBSERVATION_NOISE, Stream
from flatdist.sensing.measurements import Dense, as_measurements
from flatdist.types import Array

BLOCK_NUMBERS = 2**24  # float32 worked on at a time on a CPU
BLOCK_SHARE = 1 / 64  # of a GPU's memory, for as many there
LANCZOS_STEPS, LANCZOS_TOLERANCE = 200, 1e-9  # of the largest eigenvalue, relative

FILE = "_cuda_pack.cu"
THREADS = 32  # of a block: one warp, which needs no barrier of the whole block
BLOCK_ENTRIES = 2**21  # sampled at a time by torch, which holds 32 numbers of 8 bytes for each

SAMPLED = ("gaussian", "rademacher")  # ensembles of independent entries; the others are kept compactly, and sampled so


@dataclass(frozen=True)
class Sampled:
    """A replicate's problem, measurements on the device, and the draws of its initial layers."""

    problem: StoredProblem
    draws: Sequence[Array]  # (layers, entries) float64


def sample_pack(work: Sequence[tuple[Cell, int]], engine: str, device: str) -> list[Sampled]:
    """The problems of some replicates, measurements on the device, labels and ground truths as numpy arrays.

    Args:
        work: cells of one shape and ensemble of :data:`SAMPLED`, and replicate numbers.
        engine: what takes the steps; its storage is kept.
        device: where to sample.
    """
    first = work[0][0]
    entries, dtype = first.d_out * first.d_in, getattr(torch, storage_dtype(first, engine))
    streams = [(cell.problem_stream(), replicate) for cell, replicate in work]
    truths = np.stack(ground_truths_of(work))
    counts = torch.as_tensor([cell.n for cell, _ in work])
    owners = torch.repeat_interleave(torch.arange(len(work)), counts)
    steps = torch.arange(len(owners)) - (counts.cumsum(0) - counts)[owners]
    # One after the other: sessions take them as they are.
    rows = torch.empty(len(owners), entries, dtype=dtype, device=device)
    labels = sample_rows(
        owners.to(device, torch.int32),
        steps.to(device, torch.int32),
        _keys(streams, MEASUREMENTS, device),
        torch.as_tensor(truths.reshape(len(work), entries), device=device),
        rows,
        "signs" if first.ensemble == "rademacher" else "halves" if first.storage == "float16" else "normals",
    )
    parts = zip(
        work,
        truths,
        torch.split(rows.view(-1, first.d_out, first.d_in), counts.tolist()),
        np.split(labels.cpu().numpy(), counts.cumsum(0)[:-1]),
        _initial_draws(streams, first.widths, device),
        strict=True,
    )
    found = []
    for (cell, replicate), truth, mine, exact, drawn in parts:
        noise = np.zeros(1)
        if cell.observation_noise_std:
            stream = Stream.named(cell.problem_stream(), replicate, OBSERVATION_NOISE)
            noise = stream.normals(np.arange(cell.n), 1)[:, 0]
            noise *= cell.observation_noise_std * frobenius_norm(truth)
        found.append(Sampled(StoredProblem(as_measurements(mine), exact + noise, truth), drawn))
    return found


def _keys(streams: Sequence[tuple[str, int]], purpose: str, device: str) -> torch.Tensor:
    return torch.tensor([stream_key(*stream, purpose) for stream in streams], device=device)


def _initial_draws(streams: Sequence[tuple[str, int]], widths: Sequence[int], device: str) -> Array:
    """The normals behind each stream's initial layers, (streams, layers, entries of the largest) float64."""
    entries = max(fan_in * fan_out for fan_in, fan_out in pairwise(widths))
    keys, layers = _keys(streams, INITIALISATION, device), torch.arange(len(widths) - 1, device=device)
    together = max(1, BLOCK_NUMBERS // entries // len(layers))
    blocks = [draws.normals(keys[k : k + together], layers, entries).cpu() for k in range(0, len(keys), together)]
    return torch.cat(blocks, 1).transpose(0, 1).numpy()


def flatness_bounds(layers: Sequence[torch.Tensor]) -> tuple[Array, Array, Array]:
    """:func:`flatdist.trials.learning_rate.flatness_bounds` of layers on a device, as numpy arrays."""

    def trace(matrices: _Fixed) -> torch.Tensor:
        return halved_sums(matrices.tensor.diagonal(dim1=-2, dim2=-1))

    def squares(matrices: _Fixed) -> torch.Tensor:
        return halved_sums(matrices.tensor.flatten(1) ** 2)

    exact = [_Fixed(layer.to(torch.float64)) for layer in layers]
    terms = (*flatness_terms(exact, trace, squares), [squares(layer) for layer in exact])
    found: Array = torch.stack([reduce(torch.add, of_layers) for of_layers in terms]).cpu().numpy()
    return found[0], found[1], found[2]


@dataclass(frozen=True)
class _Fixed:
    """Matrices whose products are summed in a fixed order."""

    tensor: torch.Tensor

    def __matmul__(self, other: _Fixed) -> _Fixed:
        return _Fixed(product(self.tensor, other.tensor))

    def __truediv__(self, other: torch.Tensor) -> _Fixed:
        return _Fixed(self.tensor / other)

    @property
    def mT(self) -> _Fixed:
        return _Fixed(self.tensor.mT)

    @property
    def shape(self) -> torch.Size:
        return self.tensor.shape


class PackEvaluator:
    """Evaluates the replicates of a pack together; see :class:`flatdist.factorization.evaluation.Evaluator`.

    Args:
        problems: of :func:`sample_pack`.
        dtype: of the training; least precision of the products.
        device: where to evaluate.
    """

    def __init__(self, problems: Sequence[StoredProblem], dtype: str, device: str) -> None:
        self.dtype, self.device, self.most = getattr(torch, dtype), torch.device(device), BLOCK_NUMBERS
        if self.device.type == "cuda":
            self.most = int(BLOCK_SHARE * torch.cuda.get_device_properties(self.device).total_memory) // 4
        kept = [p.measurements.array for p in problems if isinstance(p.measurements, Dense)]
        self.rows: torch.Tensor = in_sequence(kept)
        self.sizes = np.array([len(p.labels) for p in problems])
        self.counts = torch.as_tensor(self.sizes, device=self.device)
        self.bases = self.counts.cumsum(0) - self.counts
        self.labels = torch.as_tensor(np.concatenate([p.labels for p in problems]), device=self.device)
        self.truths = torch.as_tensor(np.stack([p.ground_truth for p in problems]), device=self.device)
        shape = self.truths.shape[1:]
        self.moments = tuple(torch.empty(len(problems), d, d, dtype=torch.float64, device=self.device) for d in shape)
        for some, cells, _ in self._groups(4, torch.float64):  # (group, n, d_out, d_in)
            n = self.counts[some, None, None]
            by_row, by_column = cells.transpose(1, 2).flatten(2), cells.flatten(1, 2)
            self.moments[0][some] = by_row @ by_row.mT / n
            self.moments[1][some] = by_column.mT @ by_column / n

    def _groups(
        self, copies: int, dtype: torch.dtype, first: int = 0, last: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Replicates of about the same n: which, their measurements and their labels, with zeros up to the largest n.

        Args:
            copies: of a group's measurements, in float32, that the caller holds at once.
            dtype: of the measurements that are yielded.
            first: number of the first replicate.
            last: number after the last.
        """
        order = np.argsort(self.sizes[first:last], kind="stable") + first
        most, stop = self.most // self.truths[0].numel() // copies, len(order)
        while stop:  # the largest first, so that a group is as large as its first member allows
            largest = int(self.sizes[order[stop - 1]])
            start = max(0, stop - max(1, most // largest))
            some = torch.as_tensor(order[start:stop], device=self.device)
            slots = torch.arange(largest, device=self.device)
            inside = slots < self.counts[some, None]
            places = torch.where(inside, self.bases[some, None] + slots, 0)
            cells = self.rows[places].to(dtype).masked_fill_(~inside[..., None, None], 0)
            yield some, cells, self.labels[places] * inside
            stop = start

    def __call__(self, layers: Sequence[torch.Tensor], wanted: Array) -> dict[str, Array]:
        """Evaluate ``BLOCK`` sets of layers of every replicate.

        Args:
            layers: W_1 ... W_L, each (replicates, BLOCK, d_{j+1}, d_j) float64 on the device; unused slots zero.
            wanted: (replicates, BLOCK) whether to compute the trace of the Hessian.

        Returns:
            ``train_loss``, ``population_loss``, ``nuclear_norm``, ``hessian_trace``, (replicates, BLOCK).
        """
        together = max(1, self.most // (16 * layers[0].shape[1] * sum(layer[0, 0].numel() for layer in layers)))
        parts = [
            self._evaluate(k, [w[k : k + together] for w in layers], wanted) for k in range(0, len(wanted), together)
        ]
        stacked = torch.cat(parts, 1).cpu().numpy()  # the one transfer
        return dict(zip(("train_loss", "population_loss", "nuclear_norm", "hessian_trace"), stacked, strict=True))

    def _evaluate(self, first: int, layers: Sequence[torch.Tensor], wanted: Array) -> torch.Tensor:
        """The four quantities of some replicates, from number ``first`` on: (4, replicates, BLOCK)."""
        whole = end_to_end(layers)  # (replicates, BLOCK, d_out, d_in)
        mine = slice(first, first + len(whole))
        finite = torch.isfinite(whole).flatten(2).all(2)
        chosen = finite & torch.as_tensor(wanted[mine], device=self.device)
        whole = torch.where(finite[..., None, None], whole, 0.0)
        slots = chosen.any(0).nonzero().flatten()
        lefts, rights = partial_products([torch.where(chosen[..., None, None], w, 0.0)[:, slots] for w in layers])
        outer = [left @ left.mT for left in lefts if left is not None]  # X_1 ... X_{L-1}
        inner = [right.mT @ right for right in rights if right is not None]  # Y_2 ... Y_L
        loss, trace = (torch.zeros(whole.shape[:2], dtype=torch.float64, device=self.device) for _ in range(2))
        trace[:, slots] = (outer[0] * self.moments[0][mine, None]).sum((2, 3))
        trace[:, slots] += (inner[-1] * self.moments[1][mine, None]).sum((2, 3))
        copies = 3 + 3 * len(slots) * (len(layers) > 2)
        for which, cells, labels in self._groups(copies, self.dtype, mine.start, mine.stop):
            n, some = self.counts[which, None], which - first
            matrices = whole[some].flatten(2).to(self.dtype)  # (group, BLOCK, d_out * d_in)
            residuals = (cells.flatten(2) @ matrices.mT).to(torch.float64) - labels[..., None]
            loss[some] = (residuals * residuals).sum(1) / n
            for x, y in zip(outer[1:], inner[:-1], strict=True):
                if len(slots):
                    trace[some[:, None], slots] += _sandwiched(cells, x[some], y[some]) / n
        squared = (whole - self.truths[mine, None]).square().sum((2, 3))
        values = [torch.where(finite, value, torch.nan) for value in (loss, squared, singular_values(whole).sum(-1))]
        return torch.stack([*values, torch.where(chosen, 2.0 * trace, torch.nan)])

    def sharpness(self, layers: Sequence[torch.Tensor]) -> Array:
        """Largest eigenvalue of each replicate's Hessian, as :func:`flatdist.factorization.flatness.sharpness`."""
        finite = torch.stack([torch.isfinite(layer).flatten(1).all(1) for layer in layers]).all(0)
        lefts, rights = partial_products([torch.where(finite[:, None, None], w, 0).to(torch.float64) for w in layers])
        outer = [None if left is None else left @ left.mT for left in lefts]
        inner = [None if right is None else right.mT @ right for right in rights]
        found = torch.empty(len(finite), dtype=torch.float64, device=self.device)
        waiting: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

        def find() -> None:
            largest = waiting[0][1].shape[1]  # groups come by descending n
            padded = [nn.functional.pad(gram, 2 * [0, largest - gram.shape[1]]) for _, gram, _ in waiting]
            starts = [nn.functional.pad(start, [0, largest - start.shape[1]]) for *_, start in waiting]
            which = torch.cat([some for some, *_ in waiting])
            found[which] = 2.0 / self.counts[which] * _largest_eigenvalues(torch.cat(padded), torch.cat(starts))
            waiting.clear()

        for some, cells, _ in self._groups(10, torch.float64):
            moved = torch.zeros_like(cells)
            for left, right in zip(outer, inner, strict=True):
                part = cells if left is None else left[some, None] @ cells
                moved += part if right is None else part @ right[some, None]
            rows = cells.flatten(2)
            waiting.append((some, rows @ moved.flatten(2).mT, rows.sum(2)))  # J J^T, (group, n, n)
            if sum(gram.numel() for _, gram, _ in waiting) > self.most // 4:
                find()
        if waiting:
            find()
        return found.cpu().numpy()

    def singular_values(self, layers: Sequence[torch.Tensor]) -> tuple[Array, Array]:
        """Singular values of each replicate's product of layers (0 if it is not finite), and of its ground truth."""
        whole = end_to_end([layer.to(torch.float64) for layer in layers])
        whole = torch.where(torch.isfinite(whole).flatten(1).all(1)[:, None, None], whole, 0.0)
        return singular_values(whole).cpu().numpy(), singular_values(self.truths).cpu().numpy()


def _sandwiched(cells: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """sum_i <X A_i, A_i Y> of measurements (group, n, d_out, d_in) and several X and Y each, (group, slots)."""
    group, n, d_out, d_in = cells.shape
    slots = x.shape[1]
    beside = y.to(cells.dtype).transpose(1, 2).flatten(2)  # (group, d_in, slots * d_in)
    above = x.to(cells.dtype).transpose(1, 2).flatten(1, 2)  # (group, d_out * slots, d_out)
    right = (cells.flatten(1, 2) @ beside).view(group, n, d_out, slots, d_in)
    left = (above @ cells.transpose(1, 2).flatten(2)).view(group, d_out, slots, n, d_in)
    return left.mul_(right.permute(0, 2, 3, 1, 4)).sum((1, 3, 4), dtype=torch.float64)


def _largest_eigenvalues(matrices: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
    """Largest eigenvalue of each positive semidefinite matrix by Lanczos' iteration, with full orthogonalisation.

    Args:
        matrices: (group, n, n).
        start: (group, n), to begin with.
    """
    vector = start + start.ne(0)
    basis = [vector / vector.norm(dim=1, keepdim=True)]
    diagonal, beside, top = [], [], start.new_zeros(len(start))
    for step in range(min(LANCZOS_STEPS, start.shape[1])):
        image = (matrices @ basis[-1][..., None])[..., 0]
        diagonal.append((image * basis[-1]).sum(1))
        stacked = torch.stack(basis, 1)  # (group, steps, n)
        for _ in range(2):
            image = image - ((stacked @ image[..., None]).mT @ stacked)[:, 0]
        beside.append(image.norm(dim=1))
        if step % 8 == 7 or step + 1 == start.shape[1]:
            before, top = top, _tridiagonal_top(torch.stack(diagonal), torch.stack(beside))
            if bool((abs(top - before) <= LANCZOS_TOLERANCE * top).all()):
                return top
        # What is left at an invariant subspace is rounding; a vector of zeros adds nothing.
        rounding = beside[-1] <= 1e-13 * torch.stack(diagonal).amax(0)
        basis.append(torch.where(rounding[:, None], 0.0, image / beside[-1][:, None]))
    return _tridiagonal_top(torch.stack(diagonal), torch.stack(beside))


def _tridiagonal_top(diagonal: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
    """Largest eigenvalues of tridiagonal matrices, entries along the first axis, by bisection on Sturm's count.

    x lies above all eigenvalues if every pivot of x I - T is positive.
    """
    a, squares = diagonal.cpu().numpy(), np.square(beside[:-1].cpu().numpy())
    reach = np.sqrt(squares)
    below = a.max(0)
    above = (a + np.pad(reach, ((0, 1), (0, 0))) + np.pad(reach, ((1, 0), (0, 0)))).max(0)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        for _ in range(60):
            middle = 0.5 * (below + above)
            pivot = middle - a[0]
            positive = pivot > 0
            for k in range(1, len(a)):
                pivot = middle - a[k] - squares[k - 1] / pivot
                positive &= pivot > 0
            below, above = np.where(positive, below, middle), np.where(positive, middle, above)
    return torch.as_tensor(above, device=diagonal.device)


def _launch(name: str, device: torch.device, blocks: int, need: int, arguments: Sequence[Any]) -> bool:
    """Launch a kernel of ``FILE`` where the device has them and a block gets the shared memory that it needs."""
    fits = device.type == "cuda" and why_absent("cuda") is None and need <= cuda.shared_limit(str(device))
    if fits:
        source = cuda.source_of(FILE, {"THREADS": THREADS, "BLOCKS_PER_SM": 8})
        cuda.launch_kernel(name, source, blocks, THREADS, need, arguments)
    return fits


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
    unsigned = keys.to(torch.int32)  # wraps around: the words of an unsigned integer
    arguments = [owners, steps, unsigned, truths, rows, labels, rows.shape[1]]
    arguments += [int(kind == "signs"), int(kind == "halves"), rows.element_size()]
    if _launch("sample_rows", rows.device, len(rows), 8 * THREADS, arguments):
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
    found: torch.Tensor = tall.new_empty(*tall.shape[:-2], columns)
    need, arguments = 8 * (columns * (rows | 1) + THREADS), [tall.contiguous(), found, rows, columns]
    if _launch("singular_values", matrices.device, found.numel() // columns, need, arguments):
        return found.sort(descending=True).values
    exact: torch.Tensor = torch.linalg.svdvals(matrices)
    return exact


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Matrix products that are summed one term after the other: bits that depend on the two matrices alone."""
    total = left[..., :, :1] * right[..., :1, :]
    for k in range(1, left.shape[-1]):
        total = torch.addcmul(total, left[..., :, k : k + 1], right[..., k : k + 1, :])
    return total
