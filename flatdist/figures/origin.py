"""The origin of a figure, recorded in its file: the sweep, the cells, the settings, and the command that remakes it.

The origin is JSON under ``Description`` (PNG, SVG) and ``Subject`` (PDF); :mod:`flatdist.figures.tracing` reads it
back.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from flatdist.machine.provenance import package_version, revision

SOFTWARE = "flatdist"
_SLUG_LENGTH = 32


def cells_hash(trials: pd.DataFrame) -> str:
    """A hash of the set of cells behind a figure, whatever their order."""
    cells = sorted(set(trials["cell_id"].astype(str))) if "cell_id" in trials else []
    return hashlib.sha256("\n".join(cells).encode()).hexdigest()[:16]


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
    return {
        "sweep": sweep,
        "store": store,
        "where": where,
        "cells_hash": cells_hash(trials),
        "cells": int(trials["cell_id"].nunique()) if "cell_id" in trials else None,
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
    slug = re.sub(r"[^A-Za-z0-9.]+", "-", where).strip("-.")[:_SLUG_LENGTH].rstrip("-.")
    digest = hashlib.sha256(" ".join(where.split()).encode()).hexdigest()[:6]
    return "-".join(part for part in (name, "where", slug, digest) if part)


def file_metadata(name: str, origin: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The metadata of a figure's files by format; without dates, so that equal figures are equal files."""
    text = json.dumps({"figure": name, **origin}, sort_keys=True, default=str)
    sweep = "".join(char if char.isprintable() else "?" for char in str(origin.get("sweep", "")))
    title = f"{SOFTWARE} {name}: {sweep}"
    return {
        "png": {"Title": title, "Description": text, "Software": SOFTWARE},
        "svg": {"Title": title, "Description": text, "Creator": SOFTWARE, "Date": None},
        "pdf": {"Title": title, "Subject": text, "Creator": SOFTWARE, "CreationDate": None},
    }
