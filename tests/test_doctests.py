"""Examples in docstrings run and say what they say they do; every public function has one."""

from __future__ import annotations

import doctest
import importlib
import inspect
from pathlib import Path

import pytest

import flatdist
import flatdist.theory
import flatdist.tune

PACKAGE = Path(flatdist.__file__).parent
WITH_EXAMPLES = sorted(path for path in PACKAGE.rglob("*.py") if "    >>> " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_examples_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    module = importlib.import_module(name.removesuffix(".__init__"))
    options = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
    failed, attempted = doctest.testmod(module, optionflags=options)
    assert attempted
    assert not failed


def test_every_public_function_has_an_example() -> None:
    public = [getattr(module, name) for module in (flatdist, flatdist.theory, flatdist.tune) for name in module.__all__]
    functions = [one for one in public if inspect.isfunction(one)]
    assert len(functions) > 30
    assert [one.__qualname__ for one in functions if ">>> " not in (one.__doc__ or "")] == []
