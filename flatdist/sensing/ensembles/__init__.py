"""Measurement ensembles: one file each. This module is their register.

To add an ensemble, write ``flatdist/sensing/ensembles/NAME.py`` with a module constant ``ENSEMBLE``.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from flatdist.sensing.ensembles.base import Ensemble

# By how measurements are kept; raised when the problems that a cell samples change; part of every cell's identity.
SAMPLING_VERSIONS = {"exact": 1, "float16": 2}

# The order in which documentation and figures show them; others follow by name.
_NAMES = ("gaussian", "rademacher", "rank_one", "entries")

_FOUND = sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name not in (*_NAMES, "base"))
ENSEMBLES: dict[str, Ensemble] = {
    name: import_module(f"flatdist.sensing.ensembles.{name}").ENSEMBLE for name in (*_NAMES, *_FOUND)
}

__all__ = ["ENSEMBLES", "SAMPLING_VERSIONS", "Ensemble"]
