"""A coarse phase diagram in characters: success over (n, rank), one block of rows for each method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flatdist.cells.cell import Cell
    from flatdist.launch.progress.state import CellTally

SHADES = " ░▒▓█"  # share of successes, from none to all
UNKNOWN = "·"
MAX_COLUMNS = 40
MAX_ROWS = 12


@dataclass(frozen=True)
class Diagram:
    """One method's diagram.

    Attributes:
        method: its name.
        rows: (label, characters) from the highest rank to the lowest; a dot where nothing is known yet.
        n_first, n_last: number of measurements at the left and the right end.
    """

    method: str
    rows: tuple[tuple[str, str], ...]
    n_first: int
    n_last: int

    def __str__(self) -> str:
        width = len(self.rows[0][1])
        axis = f"n = {self.n_first} … {self.n_last}"
        lines = [self.method, *(f"{label:>9} {characters}" for label, characters in self.rows)]
        return "\n".join([*lines, " " * 10 + axis[: max(width, len(axis))]])


def diagrams(cells: Mapping[str, Cell], tallies: Mapping[str, CellTally]) -> list[Diagram]:
    """The diagrams of all methods, in the order in which the methods first appear.

    Args:
        cells: cell id -> cell.
        tallies: cell id -> counts; cells that are missing have none.
    """
    by_method: dict[str, list[str]] = {}
    for cell_id, cell in cells.items():
        by_method.setdefault(cell.method, []).append(cell_id)
    return [_diagram(method, ids, cells, tallies) for method, ids in by_method.items()]


def _diagram(method: str, ids: list[str], cells: Mapping[str, Cell], tallies: Mapping[str, CellTally]) -> Diagram:
    sizes = sorted({cells[cell_id].n for cell_id in ids})
    ranks = sorted({cells[cell_id].rank for cell_id in ids}, reverse=True)
    columns = _bins(len(sizes), MAX_COLUMNS)
    lines = _bins(len(ranks), MAX_ROWS)
    column_of = {n: columns[position] for position, n in enumerate(sizes)}
    line_of = {rank: lines[position] for position, rank in enumerate(ranks)}
    stored: dict[tuple[int, int], int] = {}
    successes: dict[tuple[int, int], int] = {}
    for cell_id in ids:
        tally = tallies.get(cell_id)
        if tally is not None and tally.stored:
            place = line_of[cells[cell_id].rank], column_of[cells[cell_id].n]
            stored[place] = stored.get(place, 0) + tally.stored
            successes[place] = successes.get(place, 0) + tally.successes
    labels: dict[int, str] = {}
    for rank in ranks:
        labels.setdefault(line_of[rank], f"rank {rank}")
    rows = tuple(
        (
            labels[line],
            "".join(_shade(successes.get((line, c), 0), stored.get((line, c), 0)) for c in range(columns[-1] + 1)),
        )
        for line in range(lines[-1] + 1)
    )
    return Diagram(method, rows, sizes[0], sizes[-1])


def _bins(count: int, most: int) -> list[int]:
    """Bin of each of ``count`` sorted values, ``most`` bins at most."""
    bins = min(count, most)
    return [position * bins // count for position in range(count)]


def _shade(successes: int, stored: int) -> str:
    if not stored:
        return UNKNOWN
    share = successes / stored
    return SHADES[0 if share == 0 else -1 if share == 1 else 1 + min(2, int(3 * share))]
