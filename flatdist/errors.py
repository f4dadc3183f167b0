"""The errors that flatdist raises for its users.

Every message says what went wrong, where, with which value, what is allowed and what to do. Broken invariants of the
program itself are plain assertions.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FlatdistError(Exception):
    """Base class: catch it to catch everything that flatdist reports on purpose."""


class CellError(FlatdistError, ValueError):
    """A configuration that no trial could run; lists every problem found, one per line."""


class SweepError(FlatdistError, ValueError):
    """A sweep file that cannot be run as written; lists every problem found, one per line."""


class StoreError(FlatdistError, OSError):
    """A store that cannot be read or written."""


class SolverError(FlatdistError, ValueError):
    """A problem that a solver must refuse: infeasible labels, dependent measurements, impossible widths."""


class FitError(FlatdistError, ValueError):
    """Data that an analysis cannot fit."""


class FigureError(FlatdistError, ValueError):
    """A file that is not a figure made by flatdist, or cannot be read."""


class LaunchError(FlatdistError, RuntimeError):
    """An executor, engine or device that is not available."""


class SettingsError(LaunchError, ValueError):
    """A setting whose value is not allowed."""


def counted(count: int, noun: str) -> str:
    """A number of things: 1 file, 2 files."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: object, keep: str = "") -> str:
    r"""Text without control characters, line ends and invisible marks, which a terminal would obey; some may be kept.

    >>> print(printable("a\x07"))
    a\x07
    """
    return "".join(char if char.isprintable() or char in keep else escaped(char) for char in str(text))


def escaped(char: str) -> str:
    """A character by its number, as a string literal of Python spells it."""
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def size(count: float) -> str:
    """A number of bytes in readable units."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """The known name closest to a mistyped one, as messages add it, or an empty string.

    >>> did_you_mean("fussed", ["fused", "batched"])
    " (did you mean 'fused'?)"
    """
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
