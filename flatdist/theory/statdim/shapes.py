"""The shape of a problem, checked, and the two numbers every form starts from."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from flatdist.errors import CellError


@dataclass(frozen=True)
class Shape:
    """A ground truth of rank ``rank`` among matrices of ``small`` by ``large`` entries (every form is symmetric)."""

    small: int
    large: int
    rank: int

    @classmethod
    def of(cls, d_out: int, d_in: int, rank: int) -> Shape:
        """Check and order the sizes.

        Raises:
            CellError: a size is not a whole number of at least 1, or the rank exceeds the smaller one.
        """
        try:
            sizes = tuple(operator.index(value) for value in (d_out, d_in, rank))
        except TypeError:
            sizes = (0, 0, 0)
        if min(sizes) < 1 or sizes[2] > min(sizes[:2]):
            raise CellError(
                f"statistical dimension of d_out={d_out!r}, d_in={d_in!r}, rank={rank!r}: all three must be whole "
                "numbers of at least 1, and rank at most min(d_out, d_in)"
            )
        return cls(min(sizes[:2]), max(sizes[:2]), sizes[2])

    @property
    def degrees_of_freedom(self) -> int:
        """r (d_out + d_in - r), the dimension of the tangent space T."""
        return self.rank * (self.small + self.large - self.rank)

    @property
    def normal(self) -> tuple[int, int]:
        """Rows and columns of the component normal to T, rows <= columns; (0, ...) at full rank."""
        return self.small - self.rank, self.large - self.rank
