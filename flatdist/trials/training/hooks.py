"""What the caller of a training run is told, where unfinished replicates are kept, and how a run is stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from flatdist.types import Array


class Interrupted(Exception):
    """Training was asked to stop; what was checkpointed can be resumed."""


class Checkpoints(Protocol):
    """Where unfinished replicates are kept."""

    def save(self, cell_id: str, replicate: int, step: int, arrays: dict[str, Array]) -> None:
        """Keep a replicate's state at a step."""

    def latest(self, cell_id: str, replicate: int) -> tuple[int, dict[str, Array]] | None:
        """The newest kept state of a replicate, if there is one."""

    def discard(self, cell_id: str, replicate: int) -> None:
        """Forget a replicate's states."""


@dataclass(frozen=True)
class Hooks:
    """What the caller of a training run wants to be told, and how it can stop the run.

    Attributes:
        checkpoints: where to keep unfinished replicates; None for nowhere.
        checkpoint_seconds: time between two checkpoints.
        should_stop: asked at the end of every segment.
        on_steps: told the replicate-steps taken since the last call.
        on_history: given a replicate's number and its new history rows as they are evaluated.
    """

    checkpoints: Checkpoints | None = None
    checkpoint_seconds: float = 60.0
    should_stop: Callable[[], bool] = lambda: False
    on_steps: Callable[[int], None] = lambda steps: None
    on_history: Callable[[int, list[dict[str, Any]]], None] | None = None
