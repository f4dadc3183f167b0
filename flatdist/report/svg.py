"""A matplotlib figure as markup of a page: themed, its marks addressable, fit for a strict content security policy.

Styles become classes of the page's one style sheet, so that the policy needs no ``unsafe-inline``; colours that follow
the theme become variables; the gids of marks (:func:`flatdist.figures.style.mark`) become attributes.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import pandas as pd
from defusedxml import ElementTree as Parser
from matplotlib.figure import Figure
from matplotlib.text import Text

from flatdist.figures.panels import PRIME
from flatdist.figures.style import COLORS, EDGE_OVER_HEAT, FAINT, INK, N50, OVER_HEAT, UNMEASURED, marked, themed

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_THEME: Mapping[str, str] = {
    **{color.lower(): f"var(--s{index})" for index, color in enumerate(COLORS)},
    "#262626": "var(--ink)", INK: "var(--ink)", FAINT: "var(--faint)", "#999999": "var(--faint)",
    UNMEASURED: "var(--unmeasured)", N50.lower(): "var(--n50)", OVER_HEAT: "#fff", EDGE_OVER_HEAT: "#000",
    "#ffffff": "var(--paper)",
}  # fmt: skip
_RECTANGLE = re.compile(r"M(\S+) (\S+)L(\S+) \2L\3 (\S+)L\1 \4L\1 \2")
_DECIMALS = re.compile(r"-?\d+\.\d+")

Describe = Callable[[str, Mapping[str, Any], Any], Mapping[str, str]]
"""(kind, key, part) of a mark -> attributes of its element; part is a tile's or point's n, None of a whole artist."""


class Inliner:
    """Turns figures into markup and collects their styles, so that equal ones are one class.

    A live page uses one inliner for all its states: a figure of the same rows as in the state before is not redrawn.
    """

    def __init__(self) -> None:
        self._describe: Describe = lambda kind, key, part: {}
        self._classes: dict[str, str] = {}
        self._figures = 0
        self._ids: dict[str, str] = {}
        self._before: dict[Any, str] = {}
        self._kept: dict[Any, str] = {}

    def begin(self, describe: Describe) -> None:
        """Begin a new state of the page, with what its marks say; figures of the one before can still be used."""
        self._describe = describe
        self._before, self._kept = self._kept, {}

    @property
    def css(self) -> str:
        """Rules of every class in use."""
        return "\n".join(f".{name}{{{style}}}" for style, name in self._classes.items())

    def inline(
        self, draw: Callable[[Figure], Any], size: tuple[float, float], label: str, shown: Sequence[Any] = ()
    ) -> str:
        """Draw a figure and return its markup.

        Args:
            draw: fills the empty figure.
            size: in inches.
            label: text alternative.
            shown: tables and values that decide what is drawn; empty where ``draw`` has to run, and places the axes.
        """
        content = [one.to_csv() if isinstance(one, pd.DataFrame) else repr(one) for one in shown]
        key = (label, size, *content)
        if not (content and key in self._before):
            self._kept[key] = self._inline(draw, size, label, "constrained" if content else "none")
        return self._kept.setdefault(key, self._before.get(key, ""))

    def _inline(self, draw: Callable[[Figure], Any], size: tuple[float, float], label: str, layout: Any) -> str:
        self._figures += 1
        self._ids = {}
        settings: dict[Any, Any] = {"axes.facecolor": "none", "figure.facecolor": "none", "svg.fonttype": "none"}
        with themed(), mpl.rc_context({**settings, "svg.hashsalt": f"f{self._figures}"}), marked():
            figure = Figure(figsize=size, layout=layout)
            draw(figure)
            for text in figure.findobj(Text):  # matplotlib's ' is a glyph of a font that pages do not have: a zero
                text.set_text(re.sub(r"\$[^$]*\$", lambda math: math[0].replace("'", PRIME), text.get_text()))
            buffer = io.BytesIO()
            figure.savefig(buffer, format="svg")
        root = Parser.fromstring(buffer.getvalue())
        for element in list(root.iter()):
            for child in list(element):
                if child.tag.endswith(("metadata", "style")):
                    element.remove(child)
        for element in list(root.iter()):
            self._convert(element)
        for name in ("width", "height", "version"):
            root.attrib.pop(name, None)
        root.attrib |= {"role": "group", "aria-label": label}
        ElementTree.register_namespace("", _SVG[1:-1])
        return re.sub(r"\n\s*", "", ElementTree.tostring(root, encoding="unicode"))

    def _convert(self, element: Any) -> None:
        identity = element.get("id", "")
        if identity.startswith("mark:"):
            self._attributes(element, *json.loads(identity[5:]))
        if identity and element.tag == f"{_SVG}g":
            del element.attrib["id"]
        elif identity:
            element.set("id", self._id(identity))
        for name in (_LINK, "clip-path"):
            if name in element.attrib:
                found = element.attrib.pop(name)
                short = re.sub(r"#([\w-]+)", lambda link: f"#{self._id(link[1])}", found)
                element.set(name.rpartition("}")[2], short)
        if "d" in element.attrib:
            path = re.sub(r"\s*([A-Za-z])\s*", r"\1", element.get("d").replace("\n", " "))
            path = _DECIMALS.sub(_rounded, path).strip()
            element.set("d", _RECTANGLE.sub(r"M\1 \2H\3V\4H\1Z", path))
        for name in ("x", "y", "width", "height", "transform"):
            if name in element.attrib:
                element.set(name, _DECIMALS.sub(_rounded, element.get(name)))
        style = element.attrib.pop("style", "")
        if style:
            style = re.sub(r"#[0-9a-f]{6}", lambda found: _THEME.get(found[0], found[0]), style)
            style = re.sub(r"(px|font-family:) *'[^;]*", r"\1 var(--font)", style)  # the page's own font
            name = self._classes.setdefault(re.sub(r"\s*([:;])\s*", r"\1", style), f"m{len(self._classes)}")
            element.set("class", f"{name} {element.get('class', '')}".strip())

    def _id(self, identity: str) -> str:
        """A short name for an element of this figure, one of its own on the page."""
        return self._ids.setdefault(identity, f"f{self._figures}-{len(self._ids)}")

    def _attributes(self, group: Any, kind: str, key: Mapping[str, Any], parts: list[Any]) -> None:
        hidden = {id(one) for defs in group.iter(f"{_SVG}defs") for one in defs.iter()}
        drawn = [one for one in group.iter() if one.tag in (f"{_SVG}path", f"{_SVG}use") and id(one) not in hidden]
        if parts:
            assert len(drawn) == len(parts), (kind, len(drawn), len(parts))
        for element, part in zip(drawn, parts, strict=True) if parts else [(group, None)]:
            for name, value in {"data-mark": kind, **self._describe(kind, key, part)}.items():
                element.set(name, value)


def _rounded(found: re.Match[str]) -> str:
    return f"{float(found[0]):.2f}".rstrip("0").rstrip(".")
