"""Posteriors are functions of the runs alone: each is computed once, however often tests restart one search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest

from flatdist.sweeps import rules


def remembered(function: Callable[..., Any]) -> Callable[..., Any]:
    """A pure function of arrays and of dataclasses of them that computes every answer once."""
    answers: dict[str, Any] = {}

    def answer(*arguments: Any, **options: Any) -> Any:
        with np.printoptions(threshold=10**6, floatmode="unique"):
            key = repr((arguments, options))
        if key not in answers:
            answers[key] = function(*arguments, **options)
        return answers[key]

    return answer


@contextmanager
def remembered_posteriors() -> Iterator[None]:
    """The rules of grouped sweeps, with every answer of their statistics kept."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("place", "finished", "search_posterior"):
            patch.setattr(rules, name, remembered(getattr(rules, name)))
        yield
