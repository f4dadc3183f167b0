"""Estimators: one file each. This module is their register, and loads none of their numerics.

To add a method, write ``flatdist/methods/NAME.py`` with a module constant ``METHOD``.
"""

from __future__ import annotations

import pkgutil
from importlib import import_module

from flatdist.methods.base import Method

# The order in which documentation and figures show them; others follow by name.
_NAMES = (
    "label_noise_sgd",
    "minibatch_sgd",
    "gradient_descent",
    "sam",
    "min_hessian_trace",
    "min_nuclear_norm",
    "min_frobenius_norm",
    "theorem_probe",
    "flow_limit",
    "flattest_local",
)

_FOUND = sorted(found.name for found in pkgutil.iter_modules(__path__) if found.name not in (*_NAMES, "base"))
METHODS: dict[str, Method] = {name: import_module(f"flatdist.methods.{name}").METHOD for name in (*_NAMES, *_FOUND)}


def takes_steps(method: str) -> bool:
    """Whether an engine runs a method step by step; False of a name that is not known.

    >>> takes_steps("sam"), takes_steps("min_nuclear_norm")
    (True, False)
    """
    return method in METHODS and METHODS[method].takes_steps


__all__ = ["METHODS", "Method", "takes_steps"]
