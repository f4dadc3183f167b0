"""Running a plan: on this machine or a cluster, with one progress display, until the store has it all."""

from __future__ import annotations

from flatdist.launch.launching import LaunchResult, launch
from flatdist.launch.settings import LaunchSettings

__all__ = ["LaunchResult", "LaunchSettings", "launch"]
