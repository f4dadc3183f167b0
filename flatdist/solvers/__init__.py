"""Solvers of the interpolation problems: one file each, and what each proves of its answer in ``certificate``."""
