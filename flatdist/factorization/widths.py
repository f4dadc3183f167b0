"""Hidden widths as users give them: one number or one for each hidden layer."""

from __future__ import annotations

from collections.abc import Sequence

from flatdist.errors import SolverError


def all_widths(depth: int, width: int | Sequence[int] | None, d_out: int, d_in: int, where: str) -> tuple[int, ...]:
    """Layer widths d_0 ... d_L from input to output, checked.

    Args:
        depth: number of layers L.
        width: one hidden width, or depth - 1 of them; None is max(d_out, d_in).
        d_out: rows of the end-to-end matrix.
        d_in: its columns.
        where: name that error messages start with.

    Raises:
        SolverError: there are fewer than 2 layers, the number of widths is wrong, or one is below min(d_out, d_in).
    """
    if depth < 2:
        raise SolverError(f"{where}: depth is {depth}; a factorization has at least 2 layers")
    if width is None:
        width = max(d_out, d_in)
    hidden = tuple(width) if isinstance(width, Sequence) else (width,) * (depth - 1)
    if len(hidden) != depth - 1:
        raise SolverError(
            f"{where}: width has {len(hidden)} entries {list(hidden)}; depth {depth} has {depth - 1} hidden layers. "
            "Give one number, or one for each"
        )
    if min(hidden) < min(d_out, d_in):
        raise SolverError(
            f"{where}: hidden width {min(hidden)} is smaller than min(d_out, d_in) = {min(d_out, d_in)}, so the layers "
            "cannot reach every matrix; give hidden widths of at least that"
        )
    return (d_in, *(int(one) for one in hidden), d_out)
