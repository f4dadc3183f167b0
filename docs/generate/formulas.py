"""Formulas: LaTeX between dollars, rendered to MathML while the site is built."""

from __future__ import annotations

import html
import re

from latex2mathml.converter import convert

_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_DISPLAY = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def render_formulas(page: str) -> str:
    """Replace the formulas that ``pymdownx.arithmatex`` has marked in a page's HTML.

    Raises:
        ValueError: a formula uses a command that is not known; it would appear as its own name.
    """
    page = _DISPLAY.sub(lambda match: _rendered(match[1], "block"), page)
    return _INLINE.sub(lambda match: _rendered(match[1], "inline"), page)


def _rendered(source: str, display: str) -> str:
    latex = html.unescape(source).strip()
    mathml = str(convert(latex, display=display))
    unknown = re.findall(r"\\[A-Za-z]+", mathml)
    if unknown:
        raise ValueError(f"the formula {latex!r} uses {', '.join(unknown)}, which latex2mathml does not know")
    return mathml.replace("<math ", f'<math aria-label="{html.escape(latex)}" ', 1)
