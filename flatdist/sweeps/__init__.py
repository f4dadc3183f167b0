"""Named sweeps: cells that a file lists, that a search chooses, or that groups of cells ask for."""

from flatdist.sweepfile import Changes
from flatdist.sweeps.sweep import Sweep, load_sweep, open_sweep, parse_sweep

__all__ = ["Changes", "Sweep", "load_sweep", "open_sweep", "parse_sweep"]
