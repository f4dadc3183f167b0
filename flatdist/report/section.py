"""A section of the page: what its template shows, and what its script draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flatdist.report.material import Material


@dataclass(frozen=True)
class Section:
    """One section, ready to be shown.

    Attributes:
        name: its anchor, and the name of its template.
        title: its heading.
        content: what the template shows.
        charts: name -> Vega-Lite specification; the template places each with an element ``data-chart="name"``.
        data: what the page's script needs besides, under the section's name.
        pictures: files that were drawn for it.
        message: why there is nothing to show, or what keeps some of it from being shown; empty where all is well.
    """

    name: str
    title: str
    content: Mapping[str, Any] = field(default_factory=dict)
    charts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    data: Any = None
    pictures: Sequence[Path] = ()
    message: str = ""


Builder = Callable[[Material], Section]
"""From the material to a section; a ``FlatdistError`` that it raises becomes the section's message."""
