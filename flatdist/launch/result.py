"""What a launch came to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LaunchResult:
    """Counts asked of the store when everything had ended.

    Attributes:
        wanted: replicates that this launch was to run.
        stored: those of them that are in the store now.
        failed: those that ended in a recorded failure.
        interrupted: the user stopped the sweep.
        stopped: why the sweep stopped itself, or None.
        seconds: wall time.
        paused: those that stand at a rung of early stopping, as they were to; they have a checkpoint and no row.
    """

    wanted: int
    stored: int
    failed: int
    interrupted: bool = False
    stopped: str | None = None
    seconds: float = 0.0
    paused: int = 0

    @property
    def missing(self) -> int:
        """Replicates that neither ended nor failed: the same command runs them."""
        return self.wanted - self.stored - self.failed - self.paused

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some replicates failed or are missing, 130 interrupted."""
        if self.interrupted:
            return 130
        return 0 if self.stored + self.paused == self.wanted else 1

    def summary(self) -> str:
        """How it ended and how to go on, one or two lines."""
        counts = f"{self.stored} of {self.wanted} replicates are stored"
        if self.paused:
            counts += f", {self.paused} paused"
        if self.failed:
            counts += f", {self.failed} failed"
        if self.interrupted:
            return f"interrupted: {counts}; run the same command again to go on with the other {self.missing}"
        if self.stopped is not None:
            return f"stopped: {self.stopped}\n{counts}; once that is mended, add --retry-failed to the same command"
        if self.missing:
            counts += f"; run the same command again for the {self.missing} that are missing"
        elif self.failed:
            counts += "; 'flatdist failures' shows why, --retry-failed tries them again"
        return counts
