"""What the solvers share: a batch of instances in, their answers with certificates out."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from flatdist.errors import SolverError

TOLERANCE = 1e-8  # largest relative violation and relative gap of an answer that counts as certified

ArrayLike = torch.Tensor | npt.NDArray[Any]
Value = TypeVar("Value")
Found = TypeVar("Found")


class UncertifiedWarning(UserWarning):
    """A solver returned an uncertified answer."""


@dataclass(frozen=True)
class Certificate:
    """Bounds on the error of a solver's answer; every array has the shape of the batch axes, () for one instance.

    Attributes:
        violation: distance from the nearest interpolator, relative to the smallest interpolator's Frobenius norm: the
            constraint violation in orthonormal coordinates of the measurements.
        gap: duality gap relative to the objective, or relative stationarity where there is no dual.
        iterations: iterations used.
        tolerance: largest violation and gap that count as certified.
    """

    violation: npt.NDArray[np.float64]
    gap: npt.NDArray[np.float64]
    iterations: npt.NDArray[np.int64]
    tolerance: float = TOLERANCE

    @property
    def converged(self) -> npt.NDArray[np.bool_]:
        """Whether both parts are within tolerance, for each instance; never true of a non-finite answer."""
        return np.asarray((self.violation <= self.tolerance) & (self.gap <= self.tolerance))

    @property
    def value(self) -> float:
        """The largest part over all instances: the number that the table stores."""
        return float(np.max(np.maximum(self.violation, self.gap), initial=0.0))

    def __str__(self) -> str:
        total, certified = self.converged.size, int(np.sum(self.converged))
        return (
            f"{certified} of {total} certified to {self.tolerance:g}: constraint violation at most "
            f"{np.max(self.violation, initial=0.0):.1e}, gap at most {np.max(self.gap, initial=0.0):.1e}, "
            f"{np.max(self.iterations, initial=0)} iterations at most"
        )


class Solution(NamedTuple, Generic[Value]):
    """A solver's answer and its certificate; unpacks as ``value, certificate``."""

    value: Value
    certificate: Certificate

    def returned(self, solver: str, return_certificate: bool) -> Any:
        """The return value of ``solver``: the solution, or its value, with a warning if that is not certified."""
        if return_certificate:
            return self
        if not np.all(self.certificate.converged):
            warnings.warn(
                f"{solver}: {self.certificate}. Pass return_certificate=True to judge the answers one by one",
                UncertifiedWarning,
                stacklevel=3,
            )
        return self.value


@dataclass(frozen=True)
class Answer(Generic[Value]):
    """One instance's answer and the three numbers of its certificate."""

    value: Value
    violation: float
    gap: float
    iterations: int


class Instances:
    """The instances of a batch, measurements (..., n, d_out, d_in) and labels (..., n), torch or numpy.

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
        self._solver = solver
        self.batch, self.matrix_shape = tuple(stacked.shape[:-3]), tuple(stacked.shape[-2:])
        self._measurements = stacked.reshape(-1, *stacked.shape[-3:])  # (batch, n, d_out, d_in)
        self._labels = flat.reshape(-1, flat.shape[-1]).to(stacked.device)  # (batch, n)

    def solved(self, solve: Callable[[torch.Tensor, torch.Tensor, str], Found]) -> list[Found]:
        """What ``solve`` makes of each instance, (n, d_out, d_in) and (n,) float64, and of its name in messages.

        An answer's bits depend on its instance alone: a batched tensor program rounds by the number of neighbours, a
        product by the number of threads and by the address at which its factors start.
        """
        answers, threads = [], torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            for index in range(math.prod(self.batch)):
                place = ", ".join(str(int(i)) for i in np.unravel_index(index, self.batch)) if self.batch else ""
                one, its_labels = (
                    part[index].to(torch.float64, copy=True, memory_format=torch.contiguous_format)
                    for part in (self._measurements, self._labels)
                )
                answers.append(solve(one, its_labels, f"{self._solver}, instance [{place}]" if place else self._solver))
        finally:
            torch.set_num_threads(threads)
        return answers

    def solution(self, answers: Sequence[Answer[torch.Tensor]]) -> Solution[torch.Tensor]:
        """(..., d_out, d_in) and the certificate from the answers in order."""
        value = self._measurements.new_zeros((len(answers), *self.matrix_shape), dtype=torch.float64)
        for index, answer in enumerate(answers):
            value[index] = answer.value
        return Solution(value.reshape(*self.batch, *self.matrix_shape), self.certificate(answers))

    def certificate(self, answers: Sequence[Answer[Any]]) -> Certificate:
        """The batch's certificate from the answers in order."""
        violation, gap = (
            np.array([getattr(answer, part) for answer in answers]).reshape(self.batch) for part in ("violation", "gap")
        )
        iterations = np.array([answer.iterations for answer in answers], dtype=np.int64)
        return Certificate(violation, gap, iterations.reshape(self.batch))


def _real(values: ArrayLike, what: str, solver: str) -> torch.Tensor:
    tensor = torch.as_tensor(values)
    if tensor.is_complex() or tensor.dtype == torch.bool:
        raise SolverError(f"{solver}: {what} are {tensor.dtype}; give real numbers, such as float64")
    finite = torch.isfinite(tensor)
    if not bool(finite.all()):
        first = tuple(int(i) for i in torch.nonzero(~finite)[0])
        raise SolverError(f"{solver}: {what}{list(first)} is {tensor[first].item()}; every entry must be finite")
    return tensor
