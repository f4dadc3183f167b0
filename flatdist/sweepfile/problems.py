"""Everything that is wrong with a sweep file, collected so that one run reports it all."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flatdist.errors import SweepError, did_you_mean

MAX_SHOWN = 40


@dataclass(frozen=True)
class Problem:
    """One problem: its place and value, the reason, and what is allowed."""

    key: str  # path of the key, as blocks[0].axes.rank
    line: int  # 0 where it does not stand in the file, as for --set
    reason: str
    allowed: str = ""
    value: Any = None

    def text(self, name: str, *, lines: bool) -> str:
        """One line for the terminal."""
        shown = "" if self.value is None else f" {_brief(self.value)}"
        allowed = f"; allowed: {self.allowed}" if self.allowed else ""
        place = f"{name}:{self.line}" if self.line and lines else name
        return f"{place}: {self.key}:{shown} {self.reason}{allowed}"


class Problems:
    """Collects problems and raises them together."""

    def __init__(self, name: str, *, lines: bool = True) -> None:
        self.name = name  # what messages call the sweep
        self.lines = lines  # whether it has lines that a reader could look up; a dict has none
        self.found: list[Problem] = []

    def add(self, key: str, line: int, reason: str, allowed: str = "", value: Any = None) -> None:
        """Note one problem."""
        problem = Problem(key, line, reason, allowed, value)
        if problem not in self.found[-MAX_SHOWN:]:  # a group of axes that several blocks use is wrong once
            self.found.append(problem)

    def unknown_key(self, path: str, name: str, line: int, known: Iterable[str], hint: str = "") -> None:
        """Note a key that has no meaning in its place."""
        known = tuple(known)
        key = f"{path}.{name}" if path else name
        self.add(key, line, f"is not known here{hint or did_you_mean(name, known)}", ", ".join(known))

    def raise_any(self) -> None:
        """Raise a SweepError with everything found so far, one problem per line, in the order of the file."""
        if not self.found:
            return
        found = sorted(self.found, key=lambda problem: problem.line)
        lines = [problem.text(self.name, lines=self.lines) for problem in found[:MAX_SHOWN]]
        if len(found) > MAX_SHOWN:
            lines.append(f"... and {len(found) - MAX_SHOWN} more problems")
        count = "a problem" if len(found) == 1 else f"{len(found)} problems"
        raise SweepError(f"{self.name} cannot be run, {count}:\n" + "\n".join(f"  {line}" for line in lines))


def _brief(value: Any) -> str:
    text = value if isinstance(value, str) and value and " " not in value else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
