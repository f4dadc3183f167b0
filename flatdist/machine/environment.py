"""The environment variables that Ray and Tune must find before they are imported."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from flatdist.machine.extras import missing

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path means the same in a trial as in the driver
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a trial without GPUs is told its device; CUDA devices stay visible
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files a trial, and memory that is never given back
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints a table even when told to be silent
}
_CLUSTERS = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


def import_ray(*, local: bool) -> ModuleType:
    """Import Ray with its usage statistics and log files switched off.

    Args:
        local: Ray is to run on this machine alone. Its daemons then bind to loopback. By default they listen on every
            interface, even if ``ray.init`` is given 127.0.0.1, and anybody who reaches them can run code. The switch is
            the one that Ray uses on systems where it does not support clusters; Ray reads it on import.

    Raises:
        LaunchError: Ray is not installed.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if local:
        os.environ[_CLUSTERS] = "0"
    imported_before = "ray" in sys.modules
    logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # advice on widgets that a notebook would show
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "IProgress not found")  # likewise
            import ray
    except ModuleNotFoundError as error:
        raise missing(error) from error

    if imported_before and local:
        from ray._private import ray_constants

        ray_constants.ENABLE_RAY_CLUSTER = False
    return ray  # type: ignore[no-any-return]


@contextmanager
def quiet_tune() -> Iterator[None]:
    """Silence Tune: failures are in the store and in the one progress display.

    In a notebook, Tune would clear the cell's output, and with it that display, for a table of its own. Everywhere it
    prints a line for each trial that an interrupt ends.
    """
    reporter: Any = import_module("ray.tune.progress_reporter")
    loud = {"IS_NOTEBOOK": reporter.IS_NOTEBOOK, "safe_print": reporter.safe_print}
    vars(reporter).update(IS_NOTEBOOK=False, safe_print=lambda *_: None)
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air", "ray._private.worker")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        vars(reporter).update(loud)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
