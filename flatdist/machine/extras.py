"""Importing what only the extra ``run`` installs, with a message for those who installed only what reads results."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flatdist.errors import LaunchError


def load(path: str) -> Any:
    """What ``module:name`` names.

    Raises:
        LaunchError: the module needs a package that is not installed.
    """
    module, name = path.split(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing(error) from error


def missing(error: ModuleNotFoundError) -> LaunchError:
    """What to say where the extra ``run`` is not installed."""
    remedy = "in your clone of flatdist: pip install '.[run]'"
    return LaunchError(f"running cells needs {error.name}, which is not installed; {remedy}")
