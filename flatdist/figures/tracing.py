"""Reading a figure's origin back from its file. Nothing in the file is executed, and no entity in it is expanded."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flatdist.errors import FigureError

_LARGEST = 256 * 2**20  # bytes; flatdist's own figures are below one hundredth of that
_ANALYSIS = re.compile(r"analysis\.[a-z_]+")
_HINT = "flatdist writes it into every figure that `flatdist figure` makes; tools that edit pictures may drop it"


def read_origin(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What :func:`flatdist.figures.origin.provenance` wrote into a figure.

    Args:
        path: of a PNG, SVG or PDF file.

    Raises:
        FigureError: the file does not exist, has another format, is damaged, or has no origin.
    """
    file = Path(path)
    try:
        if file.is_dir():
            raise FigureError(f"{file}: is a folder; give the path of a PNG, SVG or PDF file")
        if file.exists() and not file.is_file():  # a device or a pipe may never end
            raise FigureError(f"{file}: is not an ordinary file; give the path of a PNG, SVG or PDF file")
        if file.stat().st_size > _LARGEST:
            raise FigureError(f"{file}: has more than {_LARGEST >> 20} MiB, so it is not a figure of flatdist's")
        content = file.read_bytes()
    except OSError as error:
        raise FigureError(f"{file}: cannot be read: {error.strerror or error}; give the path of a figure") from error
    kind, read = _reader(file, content)
    try:
        text = read(file)
    except _Damaged as error:
        raise FigureError(
            f"{file}: this {kind} is truncated or damaged ({_shown(str(error))}); make it again"
        ) from error
    if not text:
        raise FigureError(f"{file}: this {kind} does not record its origin; {_HINT}")
    try:
        origin = json.loads(text)
    except (ValueError, RecursionError):
        origin = None
    if not isinstance(origin, dict) or not {"sweep", "cells_hash", "settings"} <= origin.keys():
        raise FigureError(f"{file}: what this {kind} says of itself was not written by flatdist; {_HINT}")
    return origin


def command_of(origin: Mapping[str, Any]) -> list[str] | None:
    """The words that make a figure again; None if it holds none, or they are not a flatdist command."""
    words = origin.get("command")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return None
    is_script = words[:2] == ["python", "-m"] and len(words) > 2 and _ANALYSIS.fullmatch(words[2])
    return words if is_script or words[:2] in (["flatdist", "figure"], ["flatdist", "report"]) else None


class _Damaged(Exception):
    """The file's format is violated."""


def _reader(path: Path, content: bytes) -> tuple[str, Callable[[Path], str | None]]:
    """How a file's format is called and read, by how the file begins."""
    start = content[:1024].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"\x89PNG"):
        return "PNG", _read_png
    if start.startswith(b"%PDF-"):
        return "PDF", _read_pdf
    if start.startswith(b"<") and b"<svg" in content[:65536]:
        return "SVG", _read_svg
    what = "is empty" if not content else "is not a PNG, SVG or PDF file"
    raise FigureError(f"{path}: {what}; give a figure that flatdist made")


def _read_png(path: Path) -> str | None:
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a picture of very many pixels is not decoded here
        try:
            with Image.open(path, formats=("PNG",)) as picture:
                text = picture.info.get("Description")
                picture.verify()
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise _Damaged(error) from error
    return text if isinstance(text, str) else None


def _read_svg(path: Path) -> str | None:
    from xml.etree.ElementTree import ParseError

    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import parse

    try:
        tree = parse(path)
    except DefusedXmlException as error:
        raise _Damaged("it declares entities, which no figure needs") from error
    except (ParseError, ValueError, LookupError) as error:
        raise _Damaged(error) from error
    found = tree.find(".//{http://purl.org/dc/elements/1.1/}description")
    return None if found is None else found.text


def _read_pdf(path: Path) -> str | None:
    import pypdf

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        information = pypdf.PdfReader(path, strict=True).metadata
        return None if information is None else information.subject
    # On a damaged PDF, pypdf raises whatever its parser happens to hit.
    except Exception as error:
        raise _Damaged(error) from error


def _shown(text: str) -> str:
    """The first line of a message, without characters that a terminal would obey."""
    line = text.splitlines()[0] if text else "no reason is known"
    return "".join(char if char.isprintable() else "?" for char in line)[:120]
