"""pyarrow with its Parquet and its functions, imported when something of it is first used.

Workers and the command line import the store long before they read anything.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    import pyarrow.compute
    import pyarrow.parquet

    globals()[name] = getattr(pyarrow, name)
    return globals()[name]
