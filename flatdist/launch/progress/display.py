"""The one progress display: a live view in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import html
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flatdist.errors import printable
from flatdist.launch.progress.state import Progress
from flatdist.planning.forecast import duration

if TYPE_CHECKING:
    from rich.console import Console, Group
    from rich.text import Text

    from flatdist.cells.cell import Cell
    from flatdist.launch.progress.state import CellTally


PLAIN_SECONDS = 10.0  # between two plain lines
LIVE_SECONDS = 0.5
BAR_WIDTH = 80
DIAGRAMS_SHOWN = 4


class Display:
    """Shows a sweep's progress to the user; this base class shows nothing and keeps its messages."""

    seconds = 0.0  # between two drawings

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._drawn = -math.inf

    def start(self, progress: Progress) -> None:
        """The sweep begins."""
        self.draw(progress)

    def update(self, progress: Progress) -> None:
        """Something may have changed; called a few times a second."""
        if time.monotonic() - self._drawn >= self.seconds:
            self._drawn = time.monotonic()
            self.draw(progress)

    def stop(self, progress: Progress) -> None:
        """The sweep has ended."""
        self.draw(progress)

    def message(self, text: str) -> None:
        """Show one line that stays."""
        self.messages.append(text)

    def draw(self, progress: Progress) -> None:
        """Show the progress."""


def counts_line(progress: Progress) -> str:
    """Progress in one line: counts, throughput, failures, time left."""
    parts = [f"{progress.finished}/{progress.wanted} replicates ({progress.share:.0%})"]
    if progress.done_before:
        parts.append(f"{progress.done_before} before")
    if progress.running:
        parts.append(f"{progress.running} running")
    if progress.steps:
        parts.append(f"{_compact(progress.steps_per_second)} replicate-steps/s")
    if progress.diverged:
        parts.append(f"{progress.diverged} diverged")
    if progress.stopped:
        parts.append(f"{progress.stopped} stopped early")
    if progress.failed:
        parts.append(f"{progress.failed} failed")
    parts.append(f"elapsed {duration(progress.elapsed)}")
    if progress.finished < progress.wanted:
        left = progress.eta()
        parts.append(f"left {'?' if left is None else duration(left)}")
    return ", ".join(parts)


def _compact(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * size:  # what rounds to 1,000 of a unit is 1 of the next
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"


class PlainDisplay(Display):
    """One line every ten seconds, for logs and pipes."""

    def __init__(self, console: Console, seconds: float = PLAIN_SECONDS) -> None:
        super().__init__()
        self._console, self.seconds = console, seconds
        self._shown = ""

    def message(self, text: str) -> None:
        """Print the text."""
        self._console.print(printable(text, keep="\n\t"), markup=False, highlight=False, soft_wrap=True)

    def draw(self, progress: Progress) -> None:
        """Print a line, unless it repeats the last one."""
        self._drawn = time.monotonic()
        line = counts_line(progress)
        if line != self._shown:
            self.message(line)
        self._shown = line


class LiveDisplay(Display):
    """A live view: a bar, counts, and a coarse phase diagram of each method that fills in."""

    seconds = LIVE_SECONDS

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__()
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def start(self, progress: Progress) -> None:
        """Open the view."""
        self._live.start()
        super().start(progress)

    def message(self, text: str) -> None:
        """Print a line above the view."""
        self._live.console.print(printable(text, keep="\n\t"), markup=False, highlight=False, soft_wrap=True)

    def draw(self, progress: Progress) -> None:
        """Redraw the view."""
        self._live.update(view(progress, self._live.console.width), refresh=True)

    def stop(self, progress: Progress) -> None:
        """Draw once more and close."""
        super().stop(progress)
        self._live.stop()


class NotebookDisplay(Display):
    """One block of a notebook's output that fills in: counts, and a coarse phase diagram of each method."""

    seconds = 2 * LIVE_SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._handle: Any = None

    def message(self, text: str) -> None:
        """Show a line above the counts."""
        super().message(text)
        self._show([])

    def draw(self, progress: Progress) -> None:
        """Fill in the block."""
        shown = diagrams(progress.cells, progress.tallies)[:DIAGRAMS_SHOWN]
        self._show([counts_line(progress), *(f"\n{diagram}" for diagram in shown)])

    def _show(self, lines: list[str]) -> None:
        shown_by: Any = import_module("IPython.display")  # untyped

        text = "\n".join([*self.messages[-5:], *lines])
        block = shown_by.HTML(f"<pre>{html.escape(text)}</pre>")
        if self._handle is None:
            self._handle = shown_by.display(block, display_id=True)
        else:
            self._handle.update(block)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return shell is not None and hasattr(shell, "kernel")


def view(progress: Progress, width: int) -> Group:
    """The live view as one renderable."""
    from rich.columns import Columns
    from rich.console import Group, RenderableType
    from rich.text import Text

    shown = diagrams(progress.cells, progress.tallies)
    parts: list[RenderableType] = [
        _bar(progress.share, min(width, BAR_WIDTH)),
        Text(counts_line(progress)),
    ]
    if shown:
        parts.append(Columns([Text(str(diagram)) for diagram in shown[:DIAGRAMS_SHOWN]], padding=(1, 3)))
        parts.append(Text("share of successes: none ' ░▒▓█' all, · nothing yet", style="dim"))
    return Group(*parts)


def _bar(share: float, width: int) -> Text:
    from rich.text import Text

    filled = int(share * width)
    return Text.assemble(("━" * filled, "green"), ("━" * (width - filled), "dim"))


def make_display(kind: str = "auto", console: Console | None = None) -> Display:
    """A display: ``live``, ``plain``, ``none``, or ``auto``, which is live if the output is a terminal or notebook."""
    if kind == "none":
        return Display()
    if kind == "auto" and console is None and in_notebook():
        return NotebookDisplay()
    if console is None:
        from rich.console import Console

        console = Console(stderr=True)
    if kind == "live" or (kind == "auto" and console.is_terminal):
        return LiveDisplay(console)
    return PlainDisplay(console)


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
        spans: smallest and largest number of measurements of each row, at its left and right end.
    """

    method: str
    rows: tuple[tuple[str, str], ...]
    spans: tuple[tuple[int, int], ...]

    def __str__(self) -> str:
        if len(set(self.spans)) == 1:
            low, high = self.spans[0]
            lines = [f"{label:>9} {characters}" for label, characters in self.rows]
            return "\n".join([self.method, *lines, f"{'':10}n = {low} … {high}"])
        width = max(len(characters) for _, characters in self.rows)
        lines = [
            f"{label:>9} {characters:<{width}} n = {low} … {high}"
            for (label, characters), (low, high) in zip(self.rows, self.spans, strict=True)
        ]
        return "\n".join([self.method, *lines])


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
    sizes: dict[int, set[int]] = {}  # rank -> its numbers of measurements: ranks rarely share them
    for cell_id in ids:
        sizes.setdefault(cells[cell_id].rank, set()).add(cells[cell_id].n)
    ranks = sorted(sizes, reverse=True)
    bins = _bins(len(ranks), MAX_ROWS)
    line_of = {rank: bins[position] for position, rank in enumerate(ranks)}
    widths = [min(MAX_COLUMNS, max(len(sizes[r]) for r in ranks if line_of[r] == line)) for line in range(bins[-1] + 1)]
    place_of: dict[tuple[int, int], tuple[int, int]] = {}
    for rank in ranks:
        line, own = line_of[rank], sorted(sizes[rank])
        columns = [position * widths[line] // len(own) for position in range(len(own))]
        place_of |= {(rank, n): (line, column) for n, column in zip(own, columns, strict=True)}
    stored: dict[tuple[int, int], int] = {}
    successes: dict[tuple[int, int], int] = {}
    for cell_id in ids:
        tally = tallies.get(cell_id)
        if tally is not None and tally.stored:
            place = place_of[cells[cell_id].rank, cells[cell_id].n]
            stored[place] = stored.get(place, 0) + tally.stored
            successes[place] = successes.get(place, 0) + tally.successes
    labels: dict[int, str] = {}
    for rank in ranks:
        labels.setdefault(line_of[rank], f"rank {rank}")
    rows = tuple(
        (labels[line], "".join(_shade(successes.get((line, c), 0), stored.get((line, c), 0)) for c in range(width)))
        for line, width in enumerate(widths)
    )
    within = [[n for rank in ranks if line_of[rank] == line for n in sizes[rank]] for line in range(len(widths))]
    return Diagram(method, rows, tuple((min(numbers), max(numbers)) for numbers in within))


def _bins(count: int, most: int) -> list[int]:
    bins = min(count, most)
    return [position * bins // count for position in range(count)]


def _shade(successes: int, stored: int) -> str:
    if not stored:
        return UNKNOWN
    share = successes / stored
    return SHADES[0 if share == 0 else -1 if share == 1 else 1 + min(2, int(3 * share))]
