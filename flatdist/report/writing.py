"""Make the report of a sweep: build its sections, and write the page beside the figures."""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from flatdist.errors import FlatdistError
from flatdist.figures.origin import provenance
from flatdist.report import cells, complexity, curves, diagrams, laws, machines, outcomes, question, verdicts
from flatdist.report.material import Material, gather
from flatdist.report.page import render
from flatdist.report.section import Builder, Section
from flatdist.threshold.curves import CHOICES

if TYPE_CHECKING:
    from flatdist.sweeps import Sweep

SECTIONS: Mapping[str, tuple[str, Builder]] = {
    "question": ("What was asked", question.build),
    "diagrams": ("Phase diagrams", diagrams.build),
    "curves": ("Training curves", curves.build),
    "complexity": ("Sample complexity", complexity.build),
    "laws": ("Laws", laws.build),
    "verdicts": ("Theorems", verdicts.build),
    "outcomes": ("Failures and divergences", outcomes.build),
    "cells": ("Cells", cells.build),
    "machines": ("What ran where", machines.build),
}
"""Every section in its order: title and builder."""

_WITHOUT_TRIALS = ("question", "outcomes", "cells")


class ReportWarning(UserWarning):
    """A section that could not be made as it should."""


def write_report(
    sweep: Sweep,
    named: str | os.PathLike[str],
    store: str,
    out: Path,
    *,
    tolerance: float | None = None,
    link: str = "auto",
) -> list[Path]:
    """Write a sweep's figures and its page.

    Args:
        sweep: the sweep.
        named: how it was asked for: the path of its file, or its name.
        store: folder or URI of the results.
        out: folder for page and figures, made where it does not exist.
        tolerance: relative error of a success; None for the default of the methods present.
        link: of the threshold fits: ``logit`` or ``probit``.

    Returns:
        What was written, the page last.

    Raises:
        StoreError: the store cannot be read.
    """
    material = gather(sweep, named, store, out, tolerance=tolerance, link=link)
    out.mkdir(parents=True, exist_ok=True)
    sections = [build_section(name, material) for name in SECTIONS]
    words = ["flatdist", "report", os.fspath(named), "--store", store]
    words += [] if tolerance is None else ["--tolerance", str(tolerance)]
    words += [] if link == CHOICES[0] else ["--link", link]
    settings = {"tolerance": tolerance, "link": link}
    origin = provenance(sweep.name, material.trials, settings, store=store, command=words)
    page = out / f"{sweep.name}.html"
    _write(page, render(sweep.name, sweep.description, sections, origin))
    return [*(path for section in sections for path in section.pictures), page]


def build_section(name: str, material: Material) -> Section:
    """One section; where it cannot be made, one that says why."""
    title, build = SECTIONS[name]
    if material.trials.empty and name not in _WITHOUT_TRIALS:
        return Section(name, title, message="Nothing to show yet: no trial of this sweep is done.")
    try:
        return build(material)
    except FlatdistError as error:
        reason = str(error)
    except Exception as error:  # one section's fault takes neither the page nor the other sections
        reason = f"This section could not be made: {type(error).__name__}: {error}"
        warnings.warn(f"section {title!r} of the report: {type(error).__name__}: {error}", ReportWarning, stacklevel=2)
    return Section(name, title, message=reason[:1].upper() + reason[1:])


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
