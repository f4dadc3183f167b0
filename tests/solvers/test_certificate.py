"""What a certificate says, and when it warns."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from flatdist.solvers.certificate import Certificate, UncertifiedWarning, warn_uncertified


def certificate(violation, gap):
    violation = np.asarray(violation, dtype=float)
    return Certificate(violation, np.asarray(gap, dtype=float), np.full(violation.shape, 7))


def test_both_parts_must_hold_and_the_worst_is_kept():
    mixed = certificate([1e-12, 1e-6, 1e-12, 1e-12], [1e-12, 1e-12, 1e-3, np.nan])
    assert mixed.converged.tolist() == [True, False, False, False]
    assert certificate([1e-12, 1e-6], [1e-3, 0.0]).value == 1e-3
    assert np.isnan(mixed.value)


def test_it_reads_as_a_sentence():
    text = str(certificate([1e-12, 1e-6], [1e-10, 2e-9]))
    assert text == (
        "1 of 2 certified to 1e-08: constraint violation at most 1.0e-06, gap at most 2.0e-09, 7 iterations at most"
    )


def test_only_an_uncertified_answer_warns():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_uncertified("solver", certificate(1e-12, 1e-12))
    with pytest.warns(UncertifiedWarning, match="solver: 0 of 1 certified") as caught:
        warn_uncertified("solver", certificate(1e-12, 1e-2), stacklevel=2)
    assert caught[0].filename == __file__
