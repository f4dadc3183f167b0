"""Types shared by many modules."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]
"""A numpy array; its shape and dtype stand in the docstring or in a trailing comment."""
