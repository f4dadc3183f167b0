"""From a solver's arguments to single float64 instances, and back to the batch axes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from flatdist.errors import SolverError
from flatdist.solvers.certificate import Certificate

ArrayLike = torch.Tensor | npt.NDArray[Any]


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: the order of sums in a product, and so its bits, depends on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Instances:
    """The instances of a batch, one after another, each in memory of its own.

    Each instance is solved separately: in a batched tensor program the rounding of an instance depends on the number of
    its neighbours. The copy keeps the bits from depending on where in the batch, and so at which address, it starts.

    Args:
        measurements: (..., n, d_out, d_in), torch or numpy.
        labels: (..., n), with the same leading axes.
        solver: name that error messages start with.

    Raises:
        SolverError: the shapes do not fit, or an entry is not a finite real number.
    """

    def __init__(self, measurements: ArrayLike, labels: ArrayLike, solver: str) -> None:
        stacked, flat = _real(measurements, "measurements", solver), _real(labels, "labels", solver)
        if stacked.ndim < 3 or stacked.shape[:-2] != flat.shape:
            raise SolverError(
                f"{solver}: measurements of shape {tuple(stacked.shape)} and labels of shape {tuple(flat.shape)} do "
                "not fit; give (..., n, d_out, d_in) and (..., n) with the same leading axes"
            )
        if 0 in stacked.shape[-3:]:
            raise SolverError(
                f"{solver}: measurements of shape {tuple(stacked.shape)}: n, d_out and d_in must be at least 1"
            )
        self.solver = solver
        self.batch = tuple(stacked.shape[:-3])
        self.matrix_shape = tuple(stacked.shape[-2:])
        self._measurements = stacked.reshape(-1, *stacked.shape[-3:])  # (batch, n, d_out, d_in)
        self._labels = flat.reshape(-1, flat.shape[-1]).to(stacked.device)  # (batch, n)

    def __len__(self) -> int:
        return math.prod(self.batch)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(n, d_out, d_in) and (n,) float64 copies, in order."""
        for index in range(len(self)):
            one, its_labels = self._measurements[index], self._labels[index]
            yield (
                one.to(torch.float64, copy=True, memory_format=torch.contiguous_format),
                its_labels.to(torch.float64, copy=True, memory_format=torch.contiguous_format),
            )

    def name(self, index: int) -> str:
        """The name of instance ``index`` in messages: the solver, and the position in the batch if there is one."""
        if not self.batch:
            return self.solver
        position = ", ".join(str(int(i)) for i in np.unravel_index(index, self.batch))
        return f"{self.solver}, instance [{position}]"

    def gather(self, matrices: list[torch.Tensor]) -> torch.Tensor:
        """(..., d_out, d_in) from the answers in order."""
        if not matrices:
            return self._measurements.new_zeros((*self.batch, *self.matrix_shape), dtype=torch.float64)
        return torch.stack(matrices).reshape(*self.batch, *self.matrix_shape)

    def certificate(self, parts: list[tuple[float, float, int]]) -> Certificate:
        """The batch's certificate from (violation, gap, iterations) of each instance in order."""
        table = np.array(parts, dtype=np.float64).reshape(-1, 3)
        violation, gap, iterations = (column.reshape(self.batch) for column in table.T)
        return Certificate(violation.copy(), gap.copy(), iterations.astype(np.int64))


def _real(values: ArrayLike, what: str, solver: str) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise SolverError(f"{solver}: {what} are {tensor.dtype}; give real numbers, such as float64")
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        first = tuple(int(i) for i in torch.nonzero(~finite)[0])
        raise SolverError(f"{solver}: {what}{list(first)} is {tensor[first].item()}; every entry must be finite")
    return tensor
