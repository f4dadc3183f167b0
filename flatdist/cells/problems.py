"""Sampling a replicate's problem: measurements, ground truth and labels.

A problem depends only on the problem fields of the cell and the replicate's number, so that methods are paired on the
same problems. It is sampled in numpy float64, whatever engine or dtype it is used with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from flatdist.cells.cell import Cell
from flatdist.errors import CellError
from flatdist.sensing.draws import Stream, stream_key
from flatdist.sensing.draws.stream import GROUND_TRUTH, MEASUREMENTS, OBSERVATION_NOISE, SPECTRAL_TAIL, normals
from flatdist.sensing.ensembles import ENSEMBLES
from flatdist.sensing.measurements import Dense, Measurements
from flatdist.types import Array

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

BLOCK_ENTRIES = 2**15  # measurement entries drawn at a time: their temporaries stay in the second-level cache


@dataclass(frozen=True)
class Problem(Generic[T]):
    """One replicate's matrix-sensing problem, ``labels[i] = <measurements[i], ground_truth>`` (+ observation noise).

    Attributes:
        measurements: (n, d_out, d_in) float64.
        labels: (n,) float64.
        ground_truth: (d_out, d_in) float64.
    """

    measurements: T
    labels: T
    ground_truth: T


@dataclass(frozen=True)
class StoredProblem:
    """A problem whose measurements are stored as their ensemble keeps them: what training and evaluation use."""

    measurements: Measurements  # n of them, of shape (d_out, d_in)
    labels: Array  # (n,) float64
    ground_truth: Array  # (d_out, d_in) float64

    def arrays(self) -> Problem[Array]:
        """The problem with dense measurements."""
        return Problem(self.measurements.dense(), self.labels, self.ground_truth)


def sample_problem(cell: Cell, replicate: int = 0) -> Problem[torch.Tensor]:
    """The problem of one replicate as torch tensors, float64 on the CPU.

    Args:
        cell: the configuration; only its problem fields matter.
        replicate: number of the replicate, 0 or more.

    Raises:
        CellError: ``replicate`` is negative.

    Example:
        >>> from flatdist import Cell, sample_problem
        >>> problem = sample_problem(Cell(d_out=4, d_in=5, rank=1, n=12), replicate=3)
        >>> tuple(problem.measurements.shape), tuple(problem.labels.shape)
        ((12, 4, 5), (12,))
        >>> round(float(problem.ground_truth.square().sum()), 6)
        1.0
    """
    import torch

    arrays = sample_arrays(cell, replicate)
    return Problem(*(torch.from_numpy(a) for a in (arrays.measurements, arrays.labels, arrays.ground_truth)))


def sample_arrays(cell: Cell, replicate: int = 0, dtype: str = "float64") -> Problem[Array]:
    """The problem of one replicate as numpy arrays; see :func:`sample_problem` and :func:`sample_stored`."""
    return sample_stored(cell, replicate, dtype).arrays()


def sample_stored(cell: Cell, replicate: int = 0, dtype: str = "float64") -> StoredProblem:
    """The problem of one replicate, without forming dense measurements.

    Args:
        cell: the configuration; only its problem fields matter.
        replicate: number of the replicate, 0 or more.
        dtype: storage type of the measurements only, see :func:`storage_dtype`.

    Raises:
        CellError: ``replicate`` is negative.
    """
    if replicate < 0:
        raise CellError(f"replicate {replicate} does not exist; replicates are numbered 0, 1, 2, ...")
    name = cell.problem_stream()
    ensemble = ENSEMBLES[cell.ensemble]
    stream = Stream.named(name, replicate, MEASUREMENTS)
    ground_truth = ground_truth_of(cell, replicate)
    measurements = ensemble.storage.zeros(cell.n, cell.d_out, cell.d_in, dtype)
    labels = np.empty(cell.n)
    # In blocks: the draws' temporaries stay small and in cache. A permutation is drawn whole, so once.
    rows = cell.n if ensemble.without_replacement else max(1, BLOCK_ENTRIES // ground_truth.size)
    for start in range(0, cell.n, rows):
        indices = np.arange(start, min(start + rows, cell.n))
        block = ensemble.sample(stream, indices, cell.d_out, cell.d_in)
        if cell.storage == "float16":
            block = Dense(block.dense().astype(np.float16).astype(np.float64))
        measurements.put(start, block)
        # A sum over each row, not BLAS: label i has the same bits for every n and every number of threads.
        labels[indices] = block.row_sums(ground_truth)
    if cell.observation_noise_std:
        noise = Stream.named(name, replicate, OBSERVATION_NOISE).normals(np.arange(cell.n), 1)[:, 0]
        labels += cell.observation_noise_std * frobenius_norm(ground_truth) * noise
    return StoredProblem(measurements, labels, ground_truth)


def storage_dtype(cell: Cell, engine: str) -> str:
    """How an engine stores a cell's measurements: the fused engines read signs as int8, and on CPUs also float16."""
    if cell.storage == "float16" and engine == "fused":
        return "float16"
    narrow = engine in ("fused", "cuda", "triton")
    return ENSEMBLES[cell.ensemble].storage.narrowest(cell.dtype) if narrow else cell.dtype


def frobenius_norm(matrix: Array) -> float:
    """||X||_F."""
    return float(np.sqrt(np.sum(np.square(matrix, dtype=np.float64))))


def ground_truths_of(work: Sequence[tuple[Cell, int]]) -> list[Array]:
    """The ground truths of some replicates, whose draws are made together."""
    keys = [stream_key(cell.problem_stream(), replicate, GROUND_TRUTH) for cell, replicate in work]
    most = max(max(cell.d_out, cell.d_in) * cell.rank for cell, _ in work)
    drawn = normals(keys, np.arange(2), most)  # (replicates, 2, most)
    return [_ground_truth(*one, factors) for one, factors in zip(work, drawn, strict=True)]


def ground_truth_of(cell: Cell, replicate: int) -> Array:
    """M* = sqrt(1 - t^2) M_r + t ||M_r||_F T, ||M*||_F = ||M_r||_F; t is ``spectral_tail``."""
    (found,) = ground_truths_of([(cell, replicate)])
    return found


def _ground_truth(cell: Cell, replicate: int, drawn: Array) -> Array:
    name = cell.problem_stream()
    left = drawn[0, : cell.d_out * cell.rank].reshape(cell.d_out, cell.rank)
    right = drawn[1, : cell.d_in * cell.rank].reshape(cell.d_in, cell.rank)
    if cell.ground_truth == "flat_spectrum" or cell.spectral_tail:
        bases = np.linalg.qr(left)[0], np.linalg.qr(right)[0]
    if cell.ground_truth == "flat_spectrum":
        left, right = bases
    product: Array = np.einsum("ar,br->ab", left, right)  # (d_out, d_in)
    if cell.ground_truth != "gaussian_factors":
        product /= frobenius_norm(product)
    if cell.spectral_tail:
        tail = _tail(*bases, Stream.named(name, replicate, SPECTRAL_TAIL))
        product = np.sqrt(1.0 - cell.spectral_tail**2) * product + cell.spectral_tail * frobenius_norm(product) * tail
    return product


def _tail(left: Array, right: Array, stream: Stream) -> Array:
    """A Gaussian matrix of Frobenius norm 1, orthogonal to columns (d_out, rank) and to rows (d_in, rank)."""
    tail = stream.normals(np.array([0]), len(left) * len(right)).reshape(len(left), len(right))
    # einsum, not BLAS: the same bits for every number of threads.
    tail -= np.einsum("ar,rb->ab", left, np.einsum("ar,ab->rb", left, tail))
    tail -= np.einsum("ar,br->ab", np.einsum("ab,br->ar", tail, right), right)
    return tail / frobenius_norm(tail)
