"""How replicates are run: engine, device, threads; what a run reports, and how it is stopped and checkpointed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from flatdist.errors import SettingsError
from flatdist.types import Array


@dataclass(frozen=True)
class RunSettings:
    """How cells are executed; none of it changes their meaning."""

    engine: str = "auto"  # or an engine's name; solvers have their own code
    device: str = "cpu"  # or a torch device
    threads: int = 1  # CPU threads for one batch of replicates
    # Replicate-steps that this machine is to take of each :func:`~flatdist.trials.train.kernel_shape`: an engine may
    # compile code of the same bits for one shape if that pays.
    planned_steps: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise SettingsError(f"threads must be a whole number of at least 1 (got {self.threads})")


class Interrupted(Exception):
    """Training was asked to stop; it can be resumed from its checkpoints."""


class Checkpoints(Protocol):
    """Storage of unfinished replicates."""

    def save(self, cell_id: str, replicate: int, step: int, arrays: dict[str, Array]) -> None:
        """Keep a replicate's state at a step."""

    def latest(
        self, cell_id: str, replicate: int, problem: Callable[[int, dict[str, Array]], str | None]
    ) -> tuple[int, dict[str, Array]] | None:
        """The newest saved state of a replicate without a ``problem``, if there is one."""

    def discard(self, cell_id: str, replicate: int) -> None:
        """Forget a replicate's states."""


@dataclass(frozen=True)
class Hooks:
    """What a training run reports to its caller, and how the caller can stop it."""

    checkpoints: Checkpoints | None = None  # where to keep unfinished replicates; None for nowhere
    checkpoint_seconds: float = 60.0  # time between two checkpoints
    should_stop: Callable[[], bool] = lambda: False  # asked at the end of every segment
    on_steps: Callable[[int], None] = lambda steps: None  # receives the replicate-steps taken since the last call
    # Given a replicate's number and its history rows: those of its checkpoint first, then new ones once evaluated.
    on_history: Callable[[int, list[dict[str, Any]]], None] | None = None
    on_diverged: Callable[[int], None] = lambda replicate: None  # after the last history row of one that has diverged
    # For a caller that reports the history while it is made. Rows are evaluated before a block is full, as often as a
    # fifth of the time allows, and are reported only once the step is checkpointed, so that a caller that ends the run
    # loses nothing.
    live: bool = False
