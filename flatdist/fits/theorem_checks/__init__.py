"""The statements of Gatmiry et al. (2023), each as a check of trials; docs/theorems.md states them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from flatdist.fits.theorem_checks.check import Check
from flatdist.fits.theorem_checks.recovery import corollary_1, theorem_2, theorem_3, theorem_4
from flatdist.fits.theorem_checks.regularizers import (
    theorem_1_nuclear_norm,
    theorem_1_regularizer,
    theorem_5,
    theorem_7,
)
from flatdist.fits.theorem_checks.traces import lemma_2, lemma_3, lemma_4, lemma_5

CHECKS: tuple[Callable[[pd.DataFrame], Check | None], ...] = (
    lemma_2,
    lemma_3,
    lemma_4,
    lemma_5,
    theorem_1_regularizer,
    theorem_1_nuclear_norm,
    theorem_2,
    theorem_3,
    theorem_4,
    theorem_5,
    theorem_7,
    corollary_1,
)
"""Every check takes trials, and returns None where none of them tests its statement."""


def run_checks(trials: pd.DataFrame) -> tuple[list[Check], list[str]]:
    """Check every statement; return the checks, and the names of statements that no trial tests."""
    found, missing = [], []
    for check in CHECKS:
        result = check(trials)
        if result is None:
            missing.append(check.__name__.replace("_", " ").capitalize())
        else:
            found.append(result)
    return found, missing


def verdict_table(checks: Sequence[Check]) -> pd.DataFrame:
    """One row for each statement: predicted, measured, instances of each verdict, worst case, verdict."""
    return pd.DataFrame([check.row() for check in checks])
