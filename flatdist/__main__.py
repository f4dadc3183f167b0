"""``python -m flatdist`` is the command ``flatdist``."""

from __future__ import annotations

import sys

from flatdist.cli import main

if __name__ == "__main__":
    sys.exit(main())
