"""Certificates of solvers' answers, and the warning for uncertified ones."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

TOLERANCE = 1e-8  # largest relative violation and relative gap of an answer that counts as certified


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


Value = TypeVar("Value")


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
