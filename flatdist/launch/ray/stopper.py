"""How Tune learns that its experiment is over before all trials have run."""

from __future__ import annotations

import time
from typing import Any

import ray
from ray.tune import Stopper

ASK_SECONDS = 0.5


class StopWhenEnded(Stopper):
    """Ends all trials when the driver has told the monitor so; finds the monitor by name, so that it can be copied."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._asked = 0.0
        self._ended = False

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """A trial ends by itself."""
        return False

    def stop_all(self) -> bool:
        """Whether to end all trials; called many times a second."""
        now = time.monotonic()
        if not self._ended and now - self._asked >= ASK_SECONDS:
            self._asked = now
            try:
                self._ended = bool(ray.get(ray.get_actor(self._name).ended.remote(), timeout=2.0))
            except (ValueError, ray.exceptions.RayError, TimeoutError):
                return False
        return self._ended
