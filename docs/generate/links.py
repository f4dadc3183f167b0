"""Turns links between files of the repository into links between pages of the site.

The pages can also be read on a code host, so they link to files: ``../CONTRIBUTING.md``, ``../sweeps/x.yaml``,
``../flatdist/cell.py``. On the site such a link leads to the page that shows the file or what it declares.
"""

from __future__ import annotations

import posixpath
import re

from prose import outside_code

MOVED = {
    "index.md": "README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "license.md": "LICENSE",
}
"""Page -> the file of the repository that it shows."""

SHOWN = {source: page for page, source in MOVED.items()} | {
    "flatdist/cli/__init__.py": "reference/commands.md",
    "flatdist/sweepfile/declaration.py": "reference/sweep-files.md",
    "flatdist/cells/cell.py": "reference/cell-fields.md",
    "flatdist/cells/columns.py": "reference/tables.md",
    "flatdist/methods/__init__.py": "reference/methods.md",
    "flatdist/sensing/ensembles/__init__.py": "reference/ensembles.md",
    "flatdist/theory/__init__.py": "reference/predictions.md",
    "flatdist/__init__.py": "reference/api-sweeps.md",
    "analysis": "reference/figures.md",
    "analysis/explore.ipynb": "reference/figures.md",
    "analysis/first_phase_diagram.ipynb": "reference/figures.md",
    "sweeps": "reference/examples.md",
    "cluster.yaml": "reference/examples.md#clusteryaml",
    "docs": "index.md",
}
"""File of the repository -> the page that shows it, or what it declares."""

_LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def rewrite_links(markdown: str, uri: str) -> str:
    """Rewrite the links of a page that lead out of ``docs/``; code blocks stay as they are.

    Args:
        markdown: the page.
        uri: where the site has it, as ``results/noise.md``.
    """
    here = MOVED.get(uri, f"docs/{uri}")
    return outside_code(
        markdown, lambda text: _LINK.sub(lambda match: match[1] + _target(match[2], here, uri) + match[3], text)
    )


def _target(link: str, here: str, uri: str) -> str:
    path, mark, anchor = link.partition("#")
    if not path or re.match(r"[a-z]+:", path):
        return link
    file = posixpath.normpath(posixpath.join(posixpath.dirname(here), path))
    if file.startswith("sweeps/") and file.endswith(".yaml"):
        page = f"reference/examples.md#{sweep_anchor(file)}"
    elif file in SHOWN:
        page = SHOWN[file]
    elif file.startswith("docs/"):
        page = file.removeprefix("docs/")
    else:
        return link  # leads nowhere on the site: the strict build says so
    return posixpath.relpath(page, posixpath.dirname(uri) or ".") + mark + anchor


def sweep_anchor(path: str) -> str:
    """Anchor of the heading that a sweep file has on the page of examples."""
    return re.sub(r"[^\w-]", "", path)
