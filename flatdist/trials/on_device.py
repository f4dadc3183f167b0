"""What a pack does on a GPU besides its steps: sample the problems and evaluate the histories of all replicates.

Written in torch, it runs on any device. Work goes through the pack in groups of replicates with the same n and in
blocks of bounded memory, and a block of evaluations sends back a handful of numbers for each replicate.

Problems are the draws of :mod:`flatdist.cells.problems`, in float64 on the device: its logarithm, sine and cosine may
differ from the CPU's in the last bit, so a label does too, and once in about 1e8 entries the float32 that is kept.
Labels are summed by halving: their bits depend on the device and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch

from flatdist.cells.cell import Cell
from flatdist.cells.problems import StoredProblem, frobenius_norm, ground_truth_of, storage_dtype
from flatdist.factorization.products import end_to_end, partial_products
from flatdist.sensing.draws import stream_key
from flatdist.sensing.draws import tensor as draws
from flatdist.sensing.draws.stream import MEASUREMENTS, OBSERVATION_NOISE, Stream
from flatdist.sensing.measurements import Dense, as_measurements
from flatdist.types import Array

BLOCK_ENTRIES = 2**24  # numbers worked on at a time, 128 MiB of float64
LANCZOS_STEPS, LANCZOS_TOLERANCE = 200, 1e-9  # of the largest eigenvalue, relative

SAMPLED = ("gaussian", "rademacher")  # ensembles of independent entries; the others are kept compactly, and sampled so


def sample_pack(work: Sequence[tuple[Cell, int]], engine: str, device: str) -> list[StoredProblem]:
    """The problems of some replicates, measurements on the device, labels and ground truths as numpy arrays.

    Args:
        work: cells of one shape and ensemble of :data:`SAMPLED`, and replicate numbers.
        engine: what takes the steps; its storage is kept.
        device: where to sample.
    """
    first = work[0][0]
    entries, dtype = first.d_out * first.d_in, getattr(torch, storage_dtype(first, engine))
    total = sum(cell.n for cell, _ in work)
    rows = torch.empty(
        total, entries, dtype=dtype, device=device
    )  # one after the other: sessions take them as they are
    found, start = [], 0
    for cell, replicate in work:
        truth = ground_truth_of(cell, replicate)
        key = stream_key(cell.problem_stream(), replicate, MEASUREMENTS)
        mine, labels = rows[start : start + cell.n], torch.empty(cell.n, dtype=torch.float64, device=device)
        flat = torch.as_tensor(truth.ravel(), device=device)
        together = max(1, BLOCK_ENTRIES // 8 // entries)
        for begin in range(0, cell.n, together):
            steps = torch.arange(begin, min(begin + together, cell.n), device=device)
            block = _entries_of(cell, torch.tensor([key], device=device), steps)
            mine[begin : begin + len(steps)] = block.to(dtype)
            labels[begin : begin + len(steps)] = halved_sums(block * flat)
        exact = labels.cpu().numpy()
        if cell.observation_noise_std:
            stream = Stream.named(cell.problem_stream(), replicate, OBSERVATION_NOISE)
            noise = stream.normals(np.arange(cell.n), 1)[:, 0]
            exact = exact + cell.observation_noise_std * frobenius_norm(truth) * noise
        found.append(StoredProblem(as_measurements(mine.view(cell.n, cell.d_out, cell.d_in)), exact, truth))
        start += cell.n
    return found


def _entries_of(cell: Cell, key: torch.Tensor, steps: torch.Tensor) -> torch.Tensor:
    """Measurements ``steps`` of a stream, (steps, d_out * d_in) float64."""
    count = cell.d_out * cell.d_in
    if cell.ensemble == "rademacher":
        return 1.0 - 2.0 * (draws.words(key, steps, count) >> 31)[:, 0].to(torch.float64)
    normals = draws.normals(key, steps, count)[:, 0]
    return normals.to(torch.float16).to(torch.float64) if cell.storage == "float16" else normals


def halved_sums(terms: torch.Tensor) -> torch.Tensor:
    """Sums over the last axis by adding its halves until one is left: bits that depend on the terms alone."""
    while terms.shape[-1] > 1:
        half = -(-terms.shape[-1] // 2)
        left, right = terms[..., :half], terms[..., half:]
        terms = left + torch.nn.functional.pad(right, (0, half - right.shape[-1]))
    return terms[..., 0]


class PackEvaluator:
    """Evaluates the replicates of a pack together; see :class:`flatdist.factorization.evaluation.Evaluator`.

    Args:
        problems: of :func:`sample_pack`.
        dtype: of the training; least precision of the products.
        device: where to evaluate.
    """

    def __init__(self, problems: Sequence[StoredProblem], dtype: str, device: str) -> None:
        self.dtype, self.device = getattr(torch, dtype), torch.device(device)
        self.problems = problems
        self.groups: list[tuple[int, int]] = []  # first and last + 1 of neighbours with the same n
        for _, members in groupby(range(len(problems)), key=lambda r: len(problems[r].labels)):
            numbers = list(members)
            n, entries = len(problems[numbers[0]].labels), problems[0].ground_truth.size
            most = max(1, BLOCK_ENTRIES // (n * entries))
            self.groups += [
                (first, min(first + most, numbers[-1] + 1)) for first in range(numbers[0], numbers[-1] + 1, most)
            ]
        self.truths = torch.as_tensor(np.stack([p.ground_truth for p in problems]), device=self.device)
        self.moments = [self._second_moments(self._rows(*group).to(torch.float64)) for group in self.groups]

    def __call__(self, layers: Sequence[torch.Tensor], wanted: Array) -> dict[str, Array]:
        """Evaluate ``BLOCK`` sets of layers of every replicate.

        Args:
            layers: W_1 ... W_L, each (replicates, BLOCK, d_{j+1}, d_j) float64 on the device; unused slots zero.
            wanted: (replicates, BLOCK) whether to compute the trace of the Hessian.

        Returns:
            ``train_loss``, ``population_loss``, ``nuclear_norm``, ``hessian_trace``, (replicates, BLOCK).
        """
        product = end_to_end(layers)  # (replicates, BLOCK, d_out, d_in)
        finite = torch.isfinite(product).flatten(2).all(2)
        chosen = finite & torch.as_tensor(wanted, device=self.device)
        product = torch.where(finite[..., None, None], product, 0.0)
        layers = [torch.where(chosen[..., None, None], layer, 0.0) for layer in layers]
        difference = product - self.truths[:, None]
        values = {
            "train_loss": torch.cat([self._train_loss(group, product) for group in self.groups]),
            "population_loss": (difference * difference).sum((2, 3)),
            "nuclear_norm": torch.linalg.svdvals(product).sum(-1),
        }
        values = {name: torch.where(finite, value, torch.nan) for name, value in values.items()}
        values["hessian_trace"] = torch.where(chosen, self._traces(layers, chosen), torch.nan)
        stacked = torch.stack(list(values.values())).cpu().numpy()  # the one transfer
        return dict(zip(values, stacked, strict=True))

    def sharpness(self, layers: Sequence[Array]) -> Array:
        """Largest eigenvalue of each replicate's Hessian, as :func:`flatdist.factorization.flatness.sharpness`."""
        finite = np.all([np.isfinite(layer).all(axis=(1, 2)) for layer in layers], axis=0)
        kept = [np.where(finite[:, None, None], layer, 0) for layer in layers]
        tensors = [torch.as_tensor(layer, device=self.device).to(torch.float64) for layer in kept]
        lefts, rights = partial_products(tensors)
        outer = [None if left is None else left @ left.mT for left in lefts]
        inner = [None if right is None else right.mT @ right for right in rights]
        found = []
        for first, stop in self.groups:
            rows = self._rows(first, stop).to(torch.float64)  # (group, n, d_out * d_in)
            some = [[None if m is None else m[first:stop] for m in part] for part in (outer, inner)]
            found.append(2.0 / rows.shape[1] * _largest_eigenvalues(rows, self.truths.shape[1:], *some))
        return torch.cat(found).cpu().numpy()

    def _rows(self, first: int, stop: int) -> torch.Tensor:
        """Measurements of neighbours with the same n, (stop - first, n, d_out * d_in), as they are kept."""
        kept = [p.measurements for p in self.problems[first:stop]]
        return torch.stack([one.array.flatten(1) for one in kept if isinstance(one, Dense)])

    def _second_moments(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        cells = rows.view(*rows.shape[:2], *self.truths.shape[1:])  # (group, n, d_out, d_in)
        by_row = cells.transpose(1, 2).flatten(2)  # (group, d_out, n * d_in)
        by_column = cells.flatten(1, 2)  # (group, n * d_out, d_in)
        n = rows.shape[1]
        return by_row @ by_row.mT / n, by_column.mT @ by_column / n

    def _train_loss(self, group: tuple[int, int], product: torch.Tensor) -> torch.Tensor:
        first, stop = group
        rows = self._rows(first, stop).to(self.dtype)
        matrices = product[first:stop].flatten(2).to(self.dtype)  # (group, BLOCK, d_out * d_in)
        labels = torch.as_tensor(np.stack([p.labels for p in self.problems[first:stop]]), device=self.device)
        residuals = (rows @ matrices.mT).to(torch.float64) - labels[..., None]
        return (residuals * residuals).mean(1)

    def _traces(self, layers: Sequence[torch.Tensor], chosen: torch.Tensor) -> torch.Tensor:
        """Lemma 2's trace, (replicates, BLOCK); zeros where it is not chosen."""
        lefts, rights = partial_products(layers)
        outer = [left @ left.mT for left in lefts if left is not None]  # X_1 ... X_{L-1}
        inner = [right.mT @ right for right in rights if right is not None]  # Y_2 ... Y_L
        slots = torch.nonzero(chosen.any(0)).flatten().tolist()
        parts = []
        for (first, stop), (s_out, s_in) in zip(self.groups, self.moments, strict=True):
            total = (outer[0][first:stop] * s_out[:, None]).sum((2, 3))
            total += (inner[-1][first:stop] * s_in[:, None]).sum((2, 3))
            if len(layers) > 2 and slots:
                rows = self._rows(first, stop).to(self.dtype)
                cells = rows.view(*rows.shape[:2], *self.truths.shape[1:])
                by_row, by_column = cells.transpose(1, 2).flatten(2), cells.flatten(1, 2)
                for k in slots:
                    for x, y in zip(outer[1:], inner[:-1], strict=True):
                        weighted = (by_column @ y[first:stop, k].to(self.dtype)).view(cells.shape)  # A_i Y
                        moment = by_row @ weighted.transpose(1, 2).flatten(2).mT  # sum_i A_i Y A_i^T
                        total[:, k] += (x[first:stop, k] * moment).sum((1, 2)) / cells.shape[1]
            parts.append(2.0 * total)
        return torch.cat(parts)


def _largest_eigenvalues(
    rows: torch.Tensor, shape: Sequence[int], outer: Sequence[torch.Tensor | None], inner: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Largest eigenvalue of J J^T of each replicate by Lanczos' iteration, all at once, with full orthogonalisation."""

    def product(vector: torch.Tensor) -> torch.Tensor:
        pulled = (vector[:, None] @ rows).view(-1, *shape)
        moved = torch.zeros_like(pulled)
        for left, right in zip(outer, inner, strict=True):
            part = pulled if left is None else left @ pulled
            moved += part if right is None else part @ right
        return (rows @ moved.flatten(1)[..., None])[..., 0]

    vector = rows.sum(2) + 1.0  # (group, n)
    basis = [vector / vector.norm(dim=1, keepdim=True)]
    diagonal, beside, top = [], [], rows.new_zeros(len(rows))
    for step in range(min(LANCZOS_STEPS, rows.shape[1])):
        image = product(basis[-1])
        diagonal.append((image * basis[-1]).sum(1))
        stacked = torch.stack(basis, 1)  # (group, steps, n)
        for _ in range(2):
            image = image - ((stacked @ image[..., None]).mT @ stacked)[:, 0]
        beside.append(image.norm(dim=1))
        if step % 8 == 7 or step + 1 == rows.shape[1]:
            before, top = top, _tridiagonal_top(diagonal, beside)
            if bool((abs(top - before) <= LANCZOS_TOLERANCE * top).all()):
                return top
        basis.append(image / beside[-1].clamp_min(torch.finfo(torch.float64).tiny)[:, None])
    return _tridiagonal_top(diagonal, beside)


def _tridiagonal_top(diagonal: list[torch.Tensor], beside: list[torch.Tensor]) -> torch.Tensor:
    off = torch.diag_embed(torch.stack(beside[:-1], 1), 1) if len(diagonal) > 1 else 0.0
    matrix = torch.diag_embed(torch.stack(diagonal, 1)) + off
    values: torch.Tensor = torch.linalg.eigvalsh(matrix, UPLO="U")
    return values[:, -1]
