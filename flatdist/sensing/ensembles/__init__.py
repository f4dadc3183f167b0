"""Measurement ensembles: one file each. This module is their register.

To add an ensemble, write ``flatdist/sensing/ensembles/NAME.py`` with a module constant ``ENSEMBLE`` and name the
module below.
"""

from __future__ import annotations

from importlib import import_module

from flatdist.sensing.ensembles.base import Ensemble

# Raised when the problems that a cell samples change; part of every cell's identity.
SAMPLING_VERSION = 1

_NAMES = ("gaussian", "rademacher", "rank_one", "entries")

ENSEMBLES: dict[str, Ensemble] = {name: import_module(f"flatdist.sensing.ensembles.{name}").ENSEMBLE for name in _NAMES}


def ensemble_names() -> tuple[str, ...]:
    """The names a cell's ``ensemble`` may take."""
    return tuple(ENSEMBLES)


__all__ = ["ENSEMBLES", "SAMPLING_VERSION", "Ensemble", "ensemble_names"]
