"""The drawn measurements of one step of the batched engine, for all replicates at once: one class per storage.

All buffers are allocated beforehand, and no sum is taken in an order that the device chooses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast

import torch

from flatdist.sensing.measurements import Dense, Entries, Factors, Measurements


class DrawnRows(Protocol):
    """Measurements of several replicates, numbered consecutively, and those drawn for a step."""

    def gather(self, rows: torch.Tensor) -> None:
        """Draw the measurements with these numbers, (replicates * drawn,)."""
        ...

    def take_all(self) -> None:
        """Use every measurement of every replicate from now on: full batches are not copied."""
        ...

    def apply(self, matrices: torch.Tensor, out: torch.Tensor) -> None:
        """<A_i, M> over the drawn ones; matrices (replicates, d_out, d_in), out (replicates, drawn, 1)."""
        ...

    def adjoint(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        """sum_i w_i A_i over the drawn ones; weights (replicates, drawn, 1), out (replicates, d_out, d_in)."""
        ...


def drawn_rows(stored: Sequence[Measurements], drawn: int, dtype: torch.dtype, device: torch.device) -> DrawnRows:
    """The rows of these replicates, ``drawn`` at a step."""
    first = stored[0]
    if isinstance(first, Dense):
        return DenseRows(cast("Sequence[Dense]", stored), drawn, dtype, device)
    if isinstance(first, Factors):
        return FactorRows(cast("Sequence[Factors]", stored), drawn, dtype, device)
    assert isinstance(first, Entries)
    return EntryRows(cast("Sequence[Entries]", stored), drawn, dtype, device)


class DenseRows:
    """All entries of every measurement."""

    def __init__(self, stored: Sequence[Dense], drawn: int, dtype: torch.dtype, device: torch.device) -> None:
        self.count, (d_out, d_in) = len(stored), stored[0].shape
        self.rows = torch.empty(sum(map(len, stored)), d_out * d_in, dtype=dtype, device=device)
        start = 0
        for one in stored:
            self.rows[start : start + len(one)] = torch.as_tensor(one.array).reshape(len(one), -1).to(device)
            start += len(one)
        self.gathered = torch.zeros(self.count * drawn, d_out * d_in, dtype=dtype, device=device)

    def take_all(self) -> None:
        self.gathered = self.rows

    def gather(self, rows: torch.Tensor) -> None:
        torch.index_select(self.rows, 0, rows, out=self.gathered)

    def apply(self, matrices: torch.Tensor, out: torch.Tensor) -> None:
        torch.bmm(self.gathered.view(self.count, out.shape[1], -1), matrices.view(self.count, -1, 1), out=out)

    def adjoint(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        gathered = self.gathered.view(self.count, weights.shape[1], -1)
        torch.bmm(gathered.mT, weights, out=out.view(self.count, -1, 1))


class FactorRows:
    """u_i and v_i: <A_i, M> = (u_i^T M) v_i, and sum_i (w_i u_i) v_i^T is one product."""

    def __init__(self, stored: Sequence[Factors], drawn: int, dtype: torch.dtype, device: torch.device) -> None:
        self.left = _stacked([one.left for one in stored], dtype, device)
        self.right = _stacked([one.right for one in stored], dtype, device)
        self._make_buffers(len(stored), drawn, stored[0].shape, dtype, device)

    def _make_buffers(
        self, count: int, drawn: int, shape: tuple[int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self.drawn_left, self.weighted = (
            torch.zeros(count, drawn, shape[0], dtype=dtype, device=device) for _ in range(2)
        )
        self.drawn_right, self.images = (
            torch.zeros(count, drawn, shape[1], dtype=dtype, device=device) for _ in range(2)
        )

    def take_all(self) -> None:
        self.gather(torch.arange(self.drawn_left.shape[0] * self.drawn_left.shape[1], device=self.drawn_left.device))

    def gather(self, rows: torch.Tensor) -> None:
        torch.index_select(self.left, 0, rows, out=self.drawn_left.view(len(rows), -1))
        torch.index_select(self.right, 0, rows, out=self.drawn_right.view(len(rows), -1))

    def apply(self, matrices: torch.Tensor, out: torch.Tensor) -> None:
        torch.bmm(self.drawn_left, matrices, out=self.images)
        self.images.mul_(self.drawn_right)
        torch.sum(self.images, dim=2, keepdim=True, out=out)

    def adjoint(self, weights: torch.Tensor, out: torch.Tensor) -> None:
        torch.mul(self.drawn_left, weights, out=self.weighted)
        torch.bmm(self.weighted.mT, self.drawn_right, out=out)


class EntryRows(FactorRows):
    """Single entries, as u_i = sqrt(d_out d_in) e_a and v_i = e_b made for the drawn ones alone.

    Adding numbers into places that repeat would be shorter, but on a GPU in no fixed order.
    """

    def __init__(self, stored: Sequence[Entries], drawn: int, dtype: torch.dtype, device: torch.device) -> None:
        d_out, d_in = shape = stored[0].shape
        self.rows = _stacked([one.rows for one in stored], torch.int64, device)
        self.columns = _stacked([one.columns for one in stored], torch.int64, device)
        self.left = stored[0].scale * torch.eye(d_out, dtype=dtype, device=device)
        self.right = torch.eye(d_in, dtype=dtype, device=device)
        self.place = torch.zeros(len(stored) * drawn, dtype=torch.int64, device=device)
        self._make_buffers(len(stored), drawn, shape, dtype, device)

    def gather(self, rows: torch.Tensor) -> None:
        for places, lines, out in (
            (self.rows, self.left, self.drawn_left),
            (self.columns, self.right, self.drawn_right),
        ):
            torch.index_select(places, 0, rows, out=self.place)
            torch.index_select(lines, 0, self.place, out=out.view(len(rows), -1))


def _stacked(parts: Sequence[object], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    return torch.cat([torch.as_tensor(part).to(dtype) for part in parts]).to(device)
