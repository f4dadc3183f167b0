"""Events of the site's build: pages that are generated, links that lead out of ``docs/``, formulas, nothing external.

mkdocs loads this file by its path, with its folder importable while it loads.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from formulas import render_formulas
from links import MOVED, rewrite_links
from mkdocs.structure.files import File, Files
from reference import PAGES

ROOT = Path(__file__).resolve().parents[2]
FETCHED = re.compile(
    r"""(?:<(?:script|img|iframe|source)\b[^>]*\bsrc|<link\b[^>]*\bhref)=["']?((?:https?:)?//[^"'\s>]+)"""
)
log = logging.getLogger("mkdocs.hooks.flatdist")


def on_config(config: Any) -> Any:
    """List every page of results, the index first."""
    pages = sorted(path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs" / "results").glob("*.md"))
    for section in config.nav:
        if "Results" in section:
            section["Results"] = sorted(pages, key=lambda page: not page.endswith("index.md"))
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that the folder does not hold."""
    for uri, source in MOVED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        content = text if source.endswith(".md") else f"# Licence\n\n```text\n{text}```\n"
        files.append(File.generated(config, uri, content=content))
    for uri, page in PAGES.items():
        files.append(File.generated(config, uri, content=page()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Turn links to files of the repository into links to the pages that show them."""
    del config, files
    return rewrite_links(markdown, page.file.src_uri)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Formulas as MathML, which browsers draw themselves."""
    del page, config, files
    return render_formulas(html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Warn, and thus fail a strict build, where a page would fetch something from elsewhere."""
    del config
    for address in FETCHED.findall(output):
        log.warning("%s fetches %s; the site must work without a network", page.file.src_uri, address)
    return output
