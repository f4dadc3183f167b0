"""Named sweeps: cells that a file lists, that a search chooses, or that groups of cells ask for."""

from flatdist.sweeps.sweep import Sweep, load_sweep, parse_sweep

__all__ = ["Sweep", "load_sweep", "parse_sweep"]
