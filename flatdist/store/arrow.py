"""pyarrow, of which each module is imported when something of it is first used.

Workers and the command line import the store long before they read anything, and what is done is known without
``pyarrow.compute``.
"""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("compute", "parquet"):
        import_module(f"pyarrow.{name}")
    globals()[name] = getattr(import_module("pyarrow"), name)
    return globals()[name]
