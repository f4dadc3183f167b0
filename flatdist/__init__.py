"""How many linear measurements does a deep matrix factorization's flattest solution need?

The public names, listed in ``__init__.pyi``, are loaded when first used: ``import flatdist`` loads neither torch nor
ray nor pandas, and reading results needs none of torch, ray and numba.
"""

from __future__ import annotations

import logging
from typing import Any

import lazy_loader

_lazy, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
logging.getLogger("flatdist").addHandler(logging.NullHandler())  # silent until a handler is added


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from flatdist.machine.provenance import package_version

        return package_version("flatdist")
    if name.startswith("_") or name not in __all__:
        raise AttributeError(f"module 'flatdist' has no attribute {name!r}")
    try:
        return _lazy(name)
    except ModuleNotFoundError as error:
        from flatdist.machine.extras import extra_of, remedy

        if (extra := extra_of(error)) is not None:
            error.add_note(remedy(extra))
        raise
