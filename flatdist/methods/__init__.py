"""Estimators: one file each. This module is their register, and loads none of their numerics.

To add a method, write ``flatdist/methods/NAME.py`` with a module constant ``METHOD`` and name the module below.
"""

from __future__ import annotations

from importlib import import_module

from flatdist.methods.base import Method

_NAMES = (
    "label_noise_sgd",
    "minibatch_sgd",
    "gradient_descent",
    "sam",
    "heavy_ball",
    "min_hessian_trace",
    "min_nuclear_norm",
    "min_frobenius_norm",
    "theorem_probe",
    "flow_limit",
    "flattest_local",
)

METHODS: dict[str, Method] = {name: import_module(f"flatdist.methods.{name}").METHOD for name in _NAMES}


def method_names() -> tuple[str, ...]:
    """The names a cell's ``method`` may take."""
    return tuple(METHODS)


__all__ = ["METHODS", "Method", "method_names"]
