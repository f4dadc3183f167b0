"""Training by gradient methods: from a cell and its replicates to the columns of their rows."""

from flatdist.trials.training.hooks import Checkpoints, Hooks, Interrupted
from flatdist.trials.training.run import train

__all__ = ["Checkpoints", "Hooks", "Interrupted", "train"]
