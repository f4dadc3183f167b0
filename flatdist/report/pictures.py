"""The printed figures of a sweep: those of the figure commands, written beside the page."""

from __future__ import annotations

import argparse
import base64
import dataclasses
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flatdist.figures import phase_diagram, sample_complexity
from flatdist.figures.command import Request
from flatdist.figures.scaling_figure import draw_fits
from flatdist.figures.training_curves import draw_history, trained_trials
from flatdist.fits.collapse import Fits
from flatdist.report.material import Material
from flatdist.threshold.curves import CHOICES

_WIDTH = 1000  # pixels of a picture on the page; the files have more
_COLORS = 96


def draw_picture(material: Material, name: str, **options: Any) -> list[Path]:
    """Draw the picture of one figure command; returns its files.

    Args:
        material: the sweep.
        name: of the analysis.
        options: the command's own.

    Raises:
        FitError: the trials do not make such a figure.
    """
    return _files(_DRAWN[name](_request(material, name, options), material.judged))


def draw_curves(material: Material) -> list[Path]:
    """Draw the picture of ``analysis.training_curves`` from the history that is at hand; returns its files.

    Raises:
        FitError: the sweep holds several problems, or nothing that was trained.
    """
    request = _request(material, "training_curves", {})
    trained = trained_trials(request, material.trials)
    return _files(draw_history(request, material.trials, trained, material.history))


def draw_laws(material: Material, fits: Fits) -> list[Path]:
    """Draw the pictures of ``analysis.scaling`` from fits that are at hand; returns their files."""
    return draw_fits(_request(material, "scaling", {}), material.judged, fits)


def _files(lines: Sequence[str]) -> list[Path]:
    """What a figure command says that it wrote."""
    return [Path(line.removeprefix("wrote ")) for line in lines if line.startswith("wrote ")]


def _request(material: Material, name: str, options: Mapping[str, Any]) -> Request:
    """What the figure command would have been asked, so that its files say how to make them again."""
    asked = material.request
    words = ["python", "-m", f"analysis.{name}", asked.sweep]
    chosen = {"tolerance": asked.tolerance, "link": None if asked.link == CHOICES[0] else asked.link, **options}
    words += [word for option, value in chosen.items() if value is not None for word in (f"--{option}", str(value))]
    command = (*words, "--store", asked.store)
    return dataclasses.replace(asked, options=argparse.Namespace(**options), command=command)


def inlined(paths: Sequence[Path]) -> str:
    """The PNG among a picture's files as a ``data:`` address, no larger than a page needs it."""
    from PIL import Image

    path = next(path for path in paths if path.suffix == ".png")
    with Image.open(path) as picture:
        size = (_WIDTH, round(_WIDTH * picture.height / picture.width))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS) if picture.width > _WIDTH else picture
        buffer = io.BytesIO()
        small.convert("RGB").quantize(_COLORS).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


_DRAWN: Mapping[str, Callable[[Request, pd.DataFrame], Any]] = {
    "phase_diagram": phase_diagram.draw,
    "sample_complexity": sample_complexity.draw,
}
