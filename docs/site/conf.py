"""Sphinx's configuration for the folder that docs/generate/pages.py writes; `make docs` makes every warning an error.

The site refers to nothing outside itself: no fonts, scripts or styles from elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

project = author = "flatdist"
html_title = "flatdist"
extensions = ["myst_parser", "sphinx_copybutton"]
myst_heading_anchors = 4
html_theme = "furo"
html_static_path = ["style.css"]
html_css_files = ["style.css"]
smartquotes = False
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_use_index = False
copybutton_prompt_text = "$ "
copybutton_line_continuation_character = "\\"
pygments_style, pygments_dark_style = "tango", "github-dark"

RESULTS = ("statistical_dimension", "depth", "training", "noise", "ensembles")
NAVIGATION = {
    "": ["tutorial", "how-do-i", "gallery"],
    "How to": [
        *("sweeps", "searching", "boundary", "tune", "gpu", "cluster", "report", "reading", "figures", "comparing"),
        *("extending", "contributing"),
    ],
    "Theory": ["mathematics", "theorems", "related"],
    "Results": ["results/index", *(f"results/{name}" for name in RESULTS)],
    "Explanation": ["architecture", "statistics", "store", "learning-rate", "performance", "scaling"],
    "Reference": [
        *(
            f"reference/{name}"
            for name in (
                *("commands", "sweep-files", "cell-fields", "tables", "methods", "ensembles", "predictions"),
                *("figures", "api-sweeps", "api-results", "api-fits", "api-figures", "api-solvers", "api-theory"),
                *("api-tune", "api-errors", "api-declarations", "examples"),
            )
        ),
        "changelog",
        "license",
    ],
}
"""Heading -> its pages. A page that stands in no list is a warning, and so fails the build."""

_FETCHED = re.compile(
    r"""(?:<(?:script|img|iframe|source)\b[^>]*\bsrc|<link\b[^>]*\bhref)=["']?((?:https?:)?//[^"'\s>]+)"""
)


def add_navigation(app: Any, name: str, source: list[str]) -> None:
    """Append the table of contents to the first page, where the theme's sidebar finds it."""
    del app
    if name == "index":
        trees = (
            "```{toctree}\n:hidden:\n" + f":caption: {caption}\n" * bool(caption) + "\n" + "\n".join(pages) + "\n```\n"
            for caption, pages in NAVIGATION.items()
        )
        source[0] += "\n" + "\n".join(trees)


def refuse_what_is_fetched(app: Any, error: Exception | None) -> None:
    """Fail where a page would fetch something from elsewhere."""
    if error is None:
        for page in Path(app.outdir).rglob("*.html"):
            if found := _FETCHED.findall(page.read_text(encoding="utf-8")):
                raise ValueError(f"{page} fetches {found}; the site must work without a network")


def setup(app: Any) -> None:
    """Register both."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", refuse_what_is_fetched)
