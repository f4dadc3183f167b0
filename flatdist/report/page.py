"""From sections to one HTML page that needs nothing but itself."""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import altair
import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from flatdist.report.section import Section


def render(title: str, description: str, sections: Sequence[Section], origin: Mapping[str, Any]) -> str:
    """The page.

    Nothing in it comes from elsewhere, and its content security policy allows no connection and no script but its own,
    known by their hashes: text of a sweep file could not run or call home even if it were not escaped.

    Args:
        title: the sweep's name.
        description: its one line.
        sections: in their order.
        origin: of the page, from :func:`flatdist.figures.origin.provenance`.
    """
    environment = Environment(
        loader=PackageLoader("flatdist.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    charts = {name: chart for section in sections for name, chart in section.charts.items()}
    data = {section.name: section.data for section in sections if section.data is not None}
    scripts = [Markup(_bundle()), Markup(_asset("report.js"))]  # noqa: S704 - files of the package, no text of users
    return environment.get_template("page.html.j2").render(
        title=title,
        description=description,
        sections=sections,
        origin=origin,
        style=Markup(_asset("report.css")),  # noqa: S704
        scripts=scripts,
        hashes=[_hash(script) for script in scripts],
        payload=embedded({"charts": charts, "data": data}),
    )


def embedded(content: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element or begin another; NaN and infinities are null."""
    text = json.dumps(_finite(content), separators=(",", ":"), ensure_ascii=True, allow_nan=False, default=_number)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704 - what HTML would read as markup is escaped above


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if hasattr(content, "item"):
        content = content.item()
    if isinstance(content, float):
        return float(f"{content:.7g}") if math.isfinite(content) else None
    return content


def _number(value: Any) -> Any:
    return str(value)


def _asset(name: str) -> str:
    return files("flatdist.report").joinpath("static", name).read_text(encoding="utf-8")


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, of the version that Altair writes charts for."""
    version = ".".join(altair.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=version))
    assert "</script" not in bundle.lower()
    assert "<!--" not in bundle
    return bundle


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"
