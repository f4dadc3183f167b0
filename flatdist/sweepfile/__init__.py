"""Sweep files: YAML with positions, checks that report everything at once, and expansion to cells."""

from flatdist.sweepfile.schema import Changes
from flatdist.sweepfile.sweep import Sweep, load_sweep, parse_sweep

__all__ = ["Changes", "Sweep", "load_sweep", "parse_sweep"]
