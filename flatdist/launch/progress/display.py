"""The one progress display: a live view in a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import html
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from flatdist.errors import printable
from flatdist.launch.progress.state import CellTally, Progress
from flatdist.planning.forecast import duration

if TYPE_CHECKING:
    from rich.console import Console, Group

    from flatdist.cells.cell import Cell

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
    for count, text in (
        (progress.done_before, f"{progress.done_before} before"),
        (progress.running, f"{progress.running} running"),
        (progress.steps, f"{_compact(progress.steps / max(progress.elapsed, 1e-9))} replicate-steps/s"),
        (progress.diverged, f"{progress.diverged} diverged"),
        (progress.stopped, f"{progress.stopped} stopped early"),
        (progress.failed, f"{progress.failed} failed"),
    ):
        parts += [text] if count else []
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

    seconds = 10.0

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console, self._shown = console, ""

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


class LiveDisplay(PlainDisplay):
    """A live view: a bar, counts, and a coarse phase diagram of each method that fills in."""

    seconds = 0.5

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        super().__init__(console)
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def start(self, progress: Progress) -> None:
        """Open the view."""
        self._live.start()
        super().start(progress)

    def draw(self, progress: Progress) -> None:
        """Redraw the view."""
        self._live.update(view(progress, self._console.width), refresh=True)

    def stop(self, progress: Progress) -> None:
        """Draw once more and close."""
        super().stop(progress)
        self._live.stop()


class NotebookDisplay(Display):
    """One block of a notebook's output that fills in: counts, and a coarse phase diagram of each method."""

    seconds = 1.0

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

    width = min(width, BAR_WIDTH)
    filled = int(progress.share * width)
    bar = Text.assemble(("━" * filled, "green"), ("━" * (width - filled), "dim"))
    parts: list[RenderableType] = [bar, Text(counts_line(progress))]
    if shown := diagrams(progress.cells, progress.tallies)[:DIAGRAMS_SHOWN]:
        parts.append(Columns([Text(str(diagram)) for diagram in shown], padding=(1, 3)))
        parts.append(Text("share of successes: none ' ░▒▓█' all, · nothing yet", style="dim"))
    return Group(*parts)


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
    """One method's diagram."""

    method: str
    rows: tuple[tuple[str, str], ...]  # (label, characters), highest rank first; a dot where nothing is known yet
    spans: tuple[tuple[int, int], ...]  # smallest and largest n of each row, at its left and right end

    def __str__(self) -> str:
        spans = [f"n = {low} … {high}" for low, high in self.spans]
        if len(set(spans)) == 1:
            return "\n".join([self.method, *(f"{label:>9} {row}" for label, row in self.rows), f"{'':10}{spans[0]}"])
        width = max(len(row) for _, row in self.rows)
        lines = [f"{label:>9} {row:<{width}} {span}" for (label, row), span in zip(self.rows, spans, strict=True)]
        return "\n".join([self.method, *lines])


def diagrams(cells: Mapping[str, Cell], tallies: Mapping[str, CellTally]) -> list[Diagram]:
    """The diagrams of all methods, in the order in which they first appear, from cells and counts by cell id."""
    methods: dict[str, dict[int, dict[int, list[CellTally]]]] = {}  # method -> rank -> n: ranks rarely share their n
    for cell_id, cell in cells.items():
        ranks = methods.setdefault(cell.method, {})
        ranks.setdefault(cell.rank, {}).setdefault(cell.n, []).append(tallies.get(cell_id, CellTally()))
    return [_diagram(method, ranks) for method, ranks in methods.items()]


def _diagram(method: str, ranks: Mapping[int, Mapping[int, Sequence[CellTally]]]) -> Diagram:
    order, rows, spans = sorted(ranks, reverse=True), [], []
    count = min(len(order), MAX_ROWS)
    for line in range(count):
        mine = [rank for position, rank in enumerate(order) if position * count // len(order) == line]
        width = min(MAX_COLUMNS, max(len(ranks[rank]) for rank in mine))
        places: list[list[CellTally]] = [[] for _ in range(width)]
        for rank in mine:
            for position, n in enumerate(sorted(ranks[rank])):
                places[position * width // len(ranks[rank])] += ranks[rank][n]
        rows.append((f"rank {mine[0]}", "".join(map(_shade, places))))
        sizes = [n for rank in mine for n in ranks[rank]]
        spans.append((min(sizes), max(sizes)))
    return Diagram(method, tuple(rows), tuple(spans))


def _shade(tallies: Sequence[CellTally]) -> str:
    stored, successes = (sum(getattr(one, name) for one in tallies) for name in ("stored", "successes"))
    if not stored:
        return UNKNOWN
    share = successes / stored
    return SHADES[0 if share == 0 else -1 if share == 1 else 1 + min(2, int(3 * share))]
