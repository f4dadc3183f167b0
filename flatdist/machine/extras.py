"""Packages that only an extra installs: how messages name them, and imports that need the extra ``run``.

Reading results needs only pandas and pyarrow. Until flatdist is published, extras are installed from a clone.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from flatdist.errors import LaunchError

EXTRAS = {
    "run": ("torch", "numba", "llvmlite", "ray", "threadpoolctl"),
    "figures": ("matplotlib", "seaborn", "scipy", "PIL", "pypdf", "defusedxml"),
    "report": ("jinja2",),
    "search": ("optuna",),
    "s3": ("obstore", "boto3"),
    "sql": ("duckdb",),
}


def remedy(extra: str) -> str:
    """How to install an extra.

    Example:
        >>> remedy("figures")
        "in your clone of flatdist: pip install '.[figures]'"
    """
    return f"in your clone of flatdist: pip install '.[{extra}]'"


def extra_of(error: ModuleNotFoundError) -> str | None:
    """The extra that installs the module that could not be imported; None if none does."""
    package = (error.name or "").partition(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if package in packages), None)


def load(path: str) -> Any:
    """The object that ``module:name`` names.

    Raises:
        LaunchError: the module needs a package that is not installed.
    """
    module, name = path.split(":")
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        raise missing(error) from error


def missing(error: ModuleNotFoundError) -> LaunchError:
    """The message if running cells needs a package that is not installed."""
    return LaunchError(f"running cells needs {error.name}, which is not installed; {remedy(extra_of(error) or 'run')}")
