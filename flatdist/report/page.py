"""From a sweep's rows to one self-contained HTML page, and the figures beside it."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from flatdist.errors import FlatdistError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.command import draw as draw_figure
from flatdist.figures.panels import DELTA, PRIME, styled
from flatdist.figures.style import FORMATS, PREDICTION_LINES, PREDICTIONS, save_figure
from flatdist.figures.tracing import origin
from flatdist.figures.words import counted, name_of
from flatdist.machine.files import atomic
from flatdist.report import answers, tables
from flatdist.report.material import Material, Settings, gather
from flatdist.report.packing import pack
from flatdist.report.panels import MOST_SERIES, Painter, first_cell, levels
from flatdist.report.svg import Inliner
from flatdist.store import Store
from flatdist.sweeps import Sweep, open_sweep
from flatdist.threshold.curves import CHOICES

Part = TypeVar("Part")
_FORMULA = re.compile(rf"r\(d \+ d{PRIME}( - r)?\)|d d{PRIME}|\bn50\b|{DELTA}")
_SYMBOLS = {
    "n50": "<msub><mi>n</mi><mn>50</mn></msub>",
    f"d{PRIME}": f"<msup><mi>d</mi><mo>{PRIME}</mo></msup>",
    "-": "<mo>&minus;</mo>",
}
_MORE = """@media screen { #cells:not(.every) tr > :nth-child(n+%d):not(:last-child) { display: none; } }
@media print { #cells tr > :nth-child(n+%d) { display: none; } }
"""  # where the columns begin that the page shows only on request, and the printed page never
_CURVES = ("index", "steps", "low", "high", "size", "deflated")


class ReportWarning(UserWarning):
    """A part of the page could not be made."""


def write_report(
    sweep: str | os.PathLike[str] | Mapping[str, Any] | Sweep,
    store: str | os.PathLike[str] | Store = "results",
    out: str | os.PathLike[str] | None = None,
    *,
    tolerance: float | None = None,
    link: str = "auto",
    formats: Sequence[str] = FORMATS,
) -> list[Path]:
    """Write a sweep's figures and one self-contained HTML page of everything the store holds of it.

    Args:
        sweep: a sweep file, the name of a sweep recorded in the store, or what :func:`flatdist.sweep` has run.
        store: the results.
        out: folder for page and figures, made where it does not exist; None for ``figures/`` and the sweep's name.
        tolerance: relative error of a success; None for the default of the methods present.
        link: success curve of the threshold fits; ``auto`` chooses by evidence.
        formats: of the figures, among png, svg and pdf; none to write the page alone, in seconds.

    Returns:
        What was written, the page last.

    Raises:
        SweepError, StoreError: the sweep or the store cannot be read.

    Example:
        >>> import flatdist
        >>> spec = {"name": "tiny", "replicates": 2, "axes": {"n": [5, 9]},
        ...         "fixed": {"d_out": 3, "d_in": 3, "rank": 1, "method": "min_nuclear_norm"}}
        >>> _ = flatdist.sweep(spec, "there", executor="inline", display="none", probe=False)
        >>> [path.as_posix() for path in write_report("tiny", "there", formats=())]
        ['figures/tiny/tiny.html']
    """
    opened = store if isinstance(store, Store) else Store(store)
    loaded = open_sweep(sweep, opened)
    named = os.fspath(sweep) if isinstance(sweep, str | os.PathLike) else loaded.name
    place = store.uri if isinstance(store, Store) else os.fspath(store)
    material = gather(loaded, Settings(named, place, tolerance, link))
    folder = Path(out) if out is not None else Path("figures") / loaded.name
    page = folder / f"{loaded.name}.html"
    with atomic(page) as temporary:
        temporary.write_text(build(material)["html"], encoding="utf-8")
    return [*(_figures(material, folder, formats) if formats else []), page]


def build(material: Material, live: Inliner | None = None) -> dict[str, str]:
    """The page's parts: ``html``, and for a live page that swaps its content ``main``, ``css`` and ``data``.

    Args:
        material: what the page is about.
        live: what a live page draws with, the same for all its states; None for a page that stays as it is.

    Nothing in the page comes from elsewhere, and its content security policy allows no connection (except a live page's
    to its own server) and no script or style but its own, known by their hashes: text of a sweep file could not run or
    call home even if it were not escaped.
    """
    painter = Painter(material, live or Inliner())
    over_n = material.over_n
    packed = None
    if len(material.history):
        key = ["cell_id", "replicate"]
        rows = material.history[key].merge(material.trials[key].assign(row=material.cell_rows), "left", key)["row"]
        packed = pack(material.history, rows.fillna(-1).astype(int).tolist(), len(material.cells))
    has_curves = [packed is not None and packed.index[row] is not None for row in range(len(material.cells))]
    nothing: dict[str, Any] = {"panels": [], "note": ""}
    frames, places = painter.frames(packed) if packed is not None and any(has_curves) else ([], [])
    no_replies: list[dict[str, Any]] = []
    replies = _safe("answers", lambda: answers.answers(material), no_replies) if over_n else no_replies
    scale = answers.scale_of(replies)
    cells = tables.cell_table(material)
    about = origin(
        material.sweep.name, material.trials,
        {"tolerance": material.settings.tolerance, "link": material.settings.link}, store=material.settings.store,
        command=_command(material.settings),
    )  # fmt: skip
    content = {
        "title": material.sweep.name,
        "description": material.sweep.description,
        "source": material.sweep.source,
        "banner": answers.banner(material),
        "tolerance": f"{material.tolerance:g}" if len(material.judged) else "",
        "answers": replies,
        "more_series": max(len(material.series_keys) - len(replies), 0) if over_n else 0,
        "at": lambda ratio: (
            f"{4 + 112 * math.log(np.clip(ratio, *scale) / scale[0]) / math.log(scale[1] / scale[0]):.1f}"
        ),
        "best": [] if over_n else answers.best(material),
        "colors": [index for index, _ in styled(material.series_keys)],
        "legend": [name_of(key) for key in material.series_keys[:MOST_SERIES]] if len(material.series_keys) > 1 else [],
        "heat_maps": _safe("heat maps", painter.heat_maps, nothing) if len(material.judged) else nothing,
        "diagrams": _safe("phase diagrams", painter.diagrams, nothing) if over_n else nothing,
        "complexity": _safe("success against n", painter.complexity, nothing) if over_n else nothing,
        "laws": _safe("laws", painter.laws, nothing) if over_n else nothing,
        "dashes": {name: _dash(PREDICTION_LINES[name][0]) for name in PREDICTIONS},
        "thresholds": _safe("thresholds", lambda: tables.threshold_rows(material), None) if over_n else None,
        "law_table": _safe("laws", lambda: tables.law_rows(material), None) if over_n else None,
        "frames": frames,
        "thinned": packed.thinned if packed is not None else "",
        "cells": cells,
        "outcomes": tables.outcomes(material),
        "theorems": _safe("theorems", lambda: tables.theorems(material), None),
        "machines": tables.machines(material),
        "facts": _facts(material),
        "origin": about,
        "live": live is not None,
    }
    data = {
        "ids": cells["ids"],
        "curves": {name: getattr(packed, name) for name in _CURVES} if frames else None,
        "frames": places,
        "levels": levels(material) if frames else {},
        "first": cells["ids"][min(first_cell(material, has_curves), len(cells["ids"]) - 1)] if cells["ids"] else None,
    }  # fmt: skip
    environment = Environment(
        loader=PackageLoader("flatdist.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["typeset"] = typeset
    main = environment.get_template("main.html.j2").render(content)
    first = 1 + [column.kind for column in cells["columns"]].index("more")
    css, script = _asset("page.css") + _MORE % (first, first) + painter.inliner.css, _asset("page.js")
    payload = embedded(data)
    html = environment.get_template("page.html.j2").render(
        content, main=Markup(main), css=Markup(css), script=Markup(script), data=payload,  # noqa: S704
        hashes={"script": _hash(script), "style": _hash(css)},
    )  # fmt: skip
    return {"html": html, "main": main, "css": css, "data": str(payload)}


def typeset(text: str) -> Markup:
    """Text as markup, with the formulas in it as MathML, which no line breaks.

    >>> typeset("δ < 3")
    Markup('<math><mi>δ</mi></math> &lt; 3')
    """
    return Markup(_FORMULA.sub(_mathml, str(escape(text))))  # noqa: S704 - escaped here


def _mathml(formula: re.Match[str]) -> str:
    parts = re.findall(rf"n50|d{PRIME}|\S", formula[0])
    symbols = (_SYMBOLS.get(part) or (f"<mi>{part}</mi>" if part.isalpha() else f"<mo>{part}</mo>") for part in parts)
    return f"<math>{''.join(symbols)}</math>"


def _safe(name: str, make: Callable[[], Part], otherwise: Part) -> Part:
    """A part of the page; if it fails the page omits it, with a warning for unexpected errors."""
    try:
        return make()
    except FlatdistError as error:
        reason = str(error)
    except Exception as error:  # an error in one part must not lose the page or other parts
        reason = f"This part could not be made: {type(error).__name__}: {error}"
        warnings.warn(f"the report's {name}: {type(error).__name__}: {error}", ReportWarning, stacklevel=2)
    return {"panels": [], "note": reason} if isinstance(otherwise, dict) else otherwise  # type: ignore[return-value]


def _facts(material: Material) -> dict[str, str]:
    sweep = material.sweep
    stopped = f" ({counted(len(sweep.stopped), 'cell')} stopped early)" if sweep.stopped else ""
    facts = {
        "cells": f"{len(sweep.cells):,}{stopped}",
        "trials": f"{len(material.trials):,}",
        "replicates of each cell": f"{sweep.replicates:,}"
        if not sweep.asks_replicates
        else "chosen as results come in",
        "fields that vary": ", ".join(material.varying) or "none",
        "store": material.settings.store,
    }
    if sweep.left_out:
        facts["left out"] = f"{counted(sweep.left_out, 'candidate')}, by the sweep's conditions"
    return facts


def _figures(material: Material, out: Path, formats: Sequence[str]) -> list[Path]:
    settings, paths = material.settings, list[Path]()
    fitted = {"tolerance": settings.tolerance, "link": settings.link}
    over_n = ["phase_diagram", "sample_complexity", "scaling"] if material.over_n else []
    over_n = over_n if len(material.series_keys) <= MOST_SERIES else over_n[:1]
    wanted: dict[str, Mapping[str, Any]] = dict.fromkeys(over_n, fitted)
    if len(material.history):
        wanted["training_curves"] = {}
    wanted["theorems"] = {}
    for name, options in wanted.items():
        rows = material.judged if options else material.trials

        def draw(name: str = name, rows: Any = rows, options: Mapping[str, Any] = options) -> Drawn | None:
            context = Context([settings.named], settings.store)
            return draw_figure(name, rows, context, **options) if len(rows) else None

        drawn: Drawn | None = _safe(name, draw, None)
        if drawn is not None:
            command = _command(settings, name)
            about = origin(material.sweep.name, rows, drawn.settings, store=settings.store, command=command)
            for stem, figure in drawn.figures.items():
                paths += save_figure(figure, out, stem, about, formats)
    return paths


def _command(settings: Settings, figure: str = "") -> list[str]:
    words = ["flatdist", "figure", figure] if figure else ["flatdist", "report"]
    words += [settings.named, "--store", settings.store]
    words += [] if settings.tolerance is None else ["--tolerance", f"{settings.tolerance:g}"]
    return words + ([] if settings.link == CHOICES[0] else ["--link", settings.link])


def _dash(pattern: Any) -> str:
    return "" if isinstance(pattern, str) else " ".join(f"{length:g}" for length in pattern[1])


def embedded(content: Any) -> Markup:
    """JSON for a script element: nothing in it can end the element or begin another; NaN and infinities are null."""
    text = json.dumps(_finite(content), separators=(",", ":"), ensure_ascii=True, allow_nan=False)
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


def _asset(name: str) -> str:
    return files("flatdist.report").joinpath("static", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
