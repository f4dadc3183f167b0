"""Named sweeps: cells that a file lists, that a search chooses, or that groups of cells ask for."""

from flatdist.sweepfile import Changes
from flatdist.sweeps.reading import load_sweep, open_sweep, parse_sweep
from flatdist.sweeps.sweep import Sweep

__all__ = ["Changes", "Sweep", "load_sweep", "open_sweep", "parse_sweep"]
