"""A figure's origin, which its file records: the sweep, the cells, the settings, and the command that remakes it.

It is JSON under ``Description`` (PNG, SVG) and ``Subject`` (PDF). Reading it back executes nothing in the file, and
expands no entity.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from flatdist.errors import FigureError
from flatdist.machine.provenance import package_version, revision

_LARGEST = 256 * 2**20  # bytes; flatdist's own figures are below one hundredth of that
_HINT = "flatdist writes it into every figure that `flatdist figure` makes; tools that edit pictures may drop it"


def origin(
    sweep: str,
    trials: pd.DataFrame,
    settings: Mapping[str, Any],
    *,
    store: str | None = None,
    where: str | None = None,
    command: Sequence[str] = (),
) -> dict[str, Any]:
    """The origin that a figure's file records.

    Args:
        sweep: name or file of the sweep.
        trials: the rows shown.
        settings: of the fit and the figure.
        store: where the rows come from.
        where: the filter, as text; None for all rows.
        command: words that make the figure again; empty if no single command does.
    """
    sha, dirty = revision()
    cells = sorted(set(trials["cell_id"].astype(str))) if "cell_id" in trials else []
    return {
        "sweep": sweep,
        "store": store,
        "where": where,
        "cells_hash": hashlib.sha256("\n".join(cells).encode()).hexdigest()[:16],  # in any order
        "cells": len(cells) if "cell_id" in trials else None,
        "trials": len(trials),
        "settings": dict(settings),
        "command": list(command),
        "git_revision": sha,
        "git_dirty": dirty,
        "flatdist_version": package_version("flatdist"),
    }


def remake_command(
    name: str, sweeps: Sequence[str], store: str, where: str | None, options: Mapping[str, Any]
) -> list[str]:
    """The words that make a figure again, with the store but without the output folder.

    >>> remake_command("heatmap", ["q.yaml"], "results", None, {"x": "n"})
    ['flatdist', 'figure', 'heatmap', 'q.yaml', '--x', 'n', '--store', 'results']
    """
    words = ["flatdist", "figure", name, *sweeps]
    for option, value in {"where": where, **options}.items():
        words += [] if value is None else [f"--{option}", str(value)]
    return [*words, "--store", store]


def file_stem(name: str, where: str | None) -> str:
    """The name of a figure's files; different parts of a sweep, and the whole, get different names.

    >>> file_stem("paired", None), file_stem("paired", "rank == 2")
    ('paired', 'paired-where-rank-2-afcff8')
    """
    if not where:
        return name
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", where).strip("-.")[:32].rstrip("-.")
    digest = hashlib.sha256(" ".join(where.split()).encode()).hexdigest()[:6]
    return "-".join(part for part in (name, "where", slug, digest) if part)


def file_metadata(name: str, origin: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metadata of a figure's files by format; without dates, so that equal figures are equal files."""
    text = json.dumps({"figure": name, **origin}, sort_keys=True, default=str)
    sweep = "".join(char if char.isprintable() else "?" for char in str(origin.get("sweep", "")))
    title, software = f"flatdist {name}: {sweep}", "flatdist"
    return {
        "png": {"Title": title, "Description": text, "Software": software},
        "svg": {"Title": title, "Description": text, "Creator": software, "Date": None},
        "pdf": {"Title": title, "Subject": text, "Creator": software, "CreationDate": None},
    }


def read_origin(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`flatdist.figures.origin` returned for a figure, from its file.

    Args:
        path: of a PNG, SVG or PDF file.

    Raises:
        FigureError: the file does not exist, has another format, is damaged, or has no origin.
    """
    file = Path(path)
    try:
        if file.exists() and not file.is_file():  # a device or a pipe may never end
            what = "a folder" if file.is_dir() else "not an ordinary file"
            raise FigureError(f"{file}: is {what}; give the path of a PNG, SVG or PDF file")
        if file.stat().st_size > _LARGEST:
            raise FigureError(f"{file}: has more than {_LARGEST >> 20} MiB, so it is not a figure of flatdist's")
        content = file.read_bytes()
    except OSError as error:
        raise FigureError(f"{file}: cannot be read: {error.strerror or error}; give the path of a figure") from error
    kind, text = _description(file, content)
    if not text:
        raise FigureError(f"{file}: this {kind} does not record its origin; {_HINT}")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict) or not {"sweep", "cells_hash", "settings"} <= found.keys():
        raise FigureError(f"{file}: what this {kind} says of itself was not written by flatdist; {_HINT}")
    return found


def command_of(origin: Mapping[str, Any]) -> list[str] | None:
    """The words that make a figure again; None if it holds none, or they are not a flatdist command."""
    words = origin.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    is_script = words[:2] == ["python", "-m"] and re.fullmatch(r"analysis\.[a-z_]+", "".join(words[2:3]))
    return words if is_script or words[:2] in (["flatdist", "figure"], ["flatdist", "report"]) else None


def _description(file: Path, content: bytes) -> tuple[str, str | None]:
    """What a file is called by how it begins, and the text in it."""
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"\x89PNG"):
        kind, read = "PNG", _read_png
    elif start.startswith(b"%PDF-"):
        kind, read = "PDF", _read_pdf
    elif start.startswith(b"<") and b"<svg" in content[:65536]:
        kind, read = "SVG", _read_svg
    else:
        what = "is not a PNG, SVG or PDF file" if content else "is empty"
        raise FigureError(f"{file}: {what}; give a figure that flatdist made")
    try:
        return kind, read(file)
    except ImportError:
        raise
    except Exception as error:  # on a damaged file, a parser raises whatever it happens to hit
        line = "".join(char if char.isprintable() else "?" for char in (str(error).splitlines() or [""])[0])
        reason = line[:120] or "no reason is known"
        raise FigureError(f"{file}: this {kind} is truncated or damaged ({reason}); make it again") from error


def _read_png(path: Path) -> str | None:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a picture of very many pixels is not decoded here
        with Image.open(path, formats=("PNG",)) as picture:
            text = picture.info.get("Description")
            picture.verify()
    return text if isinstance(text, str) else None


def _read_svg(path: Path) -> str | None:
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        found = parse(path).find(".//{http://purl.org/dc/elements/1.1/}description")
    except DefusedXmlException as error:
        raise ValueError("it declares entities, which no figure needs") from error
    return None if found is None else found.text


def _read_pdf(path: Path) -> str | None:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    information = pypdf.PdfReader(path, strict=True).metadata
    return None if information is None else information.subject
