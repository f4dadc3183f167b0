"""From a sweep's rows to one self-contained HTML page, and the figures beside it."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup, escape

from flatdist.errors import FlatdistError
from flatdist.figures.command import Context, Drawn
from flatdist.figures.command import draw as draw_figure
from flatdist.figures.panels import DELTA, PRIME, styled
from flatdist.figures.style import FORMATS, PREDICTION_LINES, save_figure
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

_DASHED = ("dof", "rsum", "entries")  # predictions
_FORMULA = re.compile(rf"r\(d \+ d{PRIME}( - r)?\)|d d{PRIME}|\bn50\b|{DELTA}")
_SYMBOLS = {
    "n50": "<msub><mi>n</mi><mn>50</mn></msub>",
    f"d{PRIME}": f"<msup><mi>d</mi><mo>{PRIME}</mo></msup>",
    "-": "<mo>&minus;</mo>",
}
_MORE = """@media screen { #cells:not(.every) tr > :nth-child(n+%d):not(:last-child) { display: none; } }
@media print { #cells tr > :nth-child(n+%d) { display: none; } }
"""  # where the columns begin that the page shows only on request, and the printed page never


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
    painter, settings = Painter(material, live or Inliner()), material.settings
    key = ["cell_id", "replicate"]
    rows = material.history[key].merge(material.trials[key].assign(row=material.cell_rows), "left", key)["row"]
    packed = pack(material.history, rows.fillna(-1).astype(int).tolist(), len(material.cells))
    with_curves = [row for row, place in enumerate(packed.index) if place is not None]
    frames, places = painter.frames(packed) if with_curves else ([], [])
    replies = _safe("answers", lambda: answers.answers(material)) or []
    cells, series = tables.cell_table(material), [name_of(key) for key in material.series_keys]
    sections = {
        "heat_maps": ("heat maps", painter.heat_maps),
        "diagrams": ("phase diagrams", painter.diagrams),
        "complexity": ("success against n", painter.complexity),
        "laws": ("laws", painter.laws),
    }
    about = {"tolerance": settings.tolerance, "link": settings.link}
    content = {
        "sweep": material.sweep,
        "banner": answers.banner(material),
        "tolerance": f"{material.tolerance:g}" if len(material.judged) else "",
        "answers": replies,
        "more_series": max(len(series) - len(replies), 0) if material.over_n else 0,
        "at": answers.scale_of(replies),
        "best": answers.best(material),
        "colors": [index for index, _ in styled(material.series_keys)],
        "legend": series[:MOST_SERIES] if len(series) > 1 else [],
        **{name: _safe(*how, lambda reason: {"panels": [], "note": reason}) for name, how in sections.items()},
        "dashes": {name: " ".join(map("{:g}".format, PREDICTION_LINES[name][0][1])) for name in _DASHED},
        "thresholds": _safe("thresholds", lambda: tables.threshold_rows(material)),
        "law_table": _safe("laws", lambda: tables.law_rows(material)),
        "frames": frames,
        "thinned": packed.thinned,
        "cells": cells,
        "outcomes": tables.outcomes(material),
        "theorems": _safe("theorems", lambda: tables.theorems(material)),
        "machines": tables.machines(material),
        "facts": _facts(material),
        "origin": origin(material.sweep.name, material.trials, about, store=settings.store, command=_command(settings)),
        "live": live is not None,
    }
    data = {
        "ids": cells["ids"],
        "curves": {name: value for name, value in vars(packed).items() if name != "thinned"} if frames else None,
        "frames": places,
        "levels": levels(material) if frames else {},
        "first": cells["ids"][min(first_cell(material, with_curves), len(cells["ids"]) - 1)] if cells["ids"] else None,
    }
    environment = Environment(
        loader=PackageLoader("flatdist.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["typeset"] = typeset
    main = environment.get_template("main.html.j2").render(content)
    first = 1 + [column.kind for column in cells["columns"]].index("more")
    css, script = _asset("page.css") + _MORE % (first, first) + painter.inliner.css, _asset("page.js")
    payload = htmlsafe_json_dumps(data, separators=(",", ":"), allow_nan=False)  # nothing in it can end its element
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


def _safe(name: str, make: Callable[[], Any], failed: Callable[[str], Any] = lambda reason: None) -> Any:
    """A part of the page; if it fails the page goes without it, with a warning for unexpected errors."""
    try:
        return make()
    except FlatdistError as error:
        return failed(str(error))
    except Exception as error:  # an error in one part must not lose the page or other parts
        warnings.warn(f"the report's {name}: {type(error).__name__}: {error}", ReportWarning, stacklevel=2)
        return failed(f"This part could not be made: {type(error).__name__}: {error}")


def _facts(material: Material) -> dict[str, str]:
    sweep = material.sweep
    stopped = f" ({counted(len(sweep.stopped), 'cell')} stopped early)" if sweep.stopped else ""
    facts = {
        "cells": f"{len(sweep.cells):,}{stopped}",
        "trials": f"{len(material.trials):,}",
        "replicates of each cell": "chosen as results come in" if sweep.asks_replicates else f"{sweep.replicates:,}",
        "fields that vary": ", ".join(material.varying) or "none",
        "store": material.settings.store,
    }
    if sweep.left_out:
        facts["left out"] = f"{counted(sweep.left_out, 'candidate')}, by the sweep's conditions"
    return facts


def _figures(material: Material, out: Path, formats: Sequence[str]) -> list[Path]:
    settings, paths = material.settings, list[Path]()
    over_n = ["phase_diagram", "sample_complexity", "scaling"] if material.over_n else []
    over_n = over_n if len(material.series_keys) <= MOST_SERIES else over_n[:1]
    for name in [*over_n, *(["training_curves"] if len(material.history) else []), "theorems"]:
        rows = material.judged if name in over_n else material.trials
        options = {"tolerance": settings.tolerance, "link": settings.link} if name in over_n else {}
        draw = partial(draw_figure, name, rows, Context([settings.named], settings.store), **options)
        drawn: Drawn | None = _safe(name, draw) if len(rows) else None
        if drawn is not None:
            command = _command(settings, name)
            about = origin(material.sweep.name, rows, drawn.settings, store=settings.store, command=command)
            for stem, figure in drawn.figures.items():
                paths += save_figure(figure, out, stem, about, formats)
    return paths


def _command(settings: Settings, figure: str = "") -> list[str]:
    words = ["flatdist", *(["figure", figure] if figure else ["report"]), settings.named, "--store", settings.store]
    words += [] if settings.tolerance is None else ["--tolerance", f"{settings.tolerance:g}"]
    return words + ([] if settings.link == CHOICES[0] else ["--link", settings.link])


def _asset(name: str) -> str:
    return files("flatdist.report").joinpath("static", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
