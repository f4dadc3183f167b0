"""Ways of executing SGD steps: one file each, all following :mod:`flatdist.engines.base`."""
