"""Sweep files: YAML with positions, checks that report everything at once, and expansion to cells."""

from flatdist.sweepfile.blocks import Changes

__all__ = ["Changes"]
