"""flatdist."""
