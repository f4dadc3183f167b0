"""The documentation as a plain folder of Markdown and pictures, which any site builder can build.

    python docs/generate/pages.py build/docs

Links to files of the repository lead to the pages that show them, formulas are MathML, and the reference is generated.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from links import MOVED, rewrite_links
from prose import render_formulas
from reference import PAGES

ROOT = Path(__file__).resolve().parents[2]


def write_pages(folder: Path) -> None:
    """Write every page and picture, in place of what the folder held."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "docs", folder, ignore=shutil.ignore_patterns("generate", "site", "*.md"))
    texts = {path.relative_to(ROOT / "docs").as_posix(): path.read_text("utf-8") for path in ROOT.glob("docs/**/*.md")}
    for uri, source in MOVED.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        texts[uri] = text if source.endswith(".md") else f"# Licence\n\n```text\n{text}```\n"
    generated = {uri: page() for uri, page in PAGES.items()}
    for uri, text in {**texts, **generated}.items():
        page = text if uri in generated else render_formulas(rewrite_links(text, uri))
        (folder / uri).parent.mkdir(parents=True, exist_ok=True)
        (folder / uri).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    write_pages(Path(sys.argv[1]))
