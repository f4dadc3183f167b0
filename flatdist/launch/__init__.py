"""Running sweeps and plans: on this machine or a cluster, with one progress display, until the store has it all."""

from __future__ import annotations

from flatdist.launch.launching import LaunchResult, launch
from flatdist.launch.sweeping import Outcome, Running, plan_sweeps
from flatdist.planning.settings import Settings

__all__ = ["LaunchResult", "Outcome", "Running", "Settings", "launch", "plan_sweeps"]
