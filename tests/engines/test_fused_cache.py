"""The compiled-code cache: it notices every edit, trusts no stranger's file, and does without a place to write."""

import importlib.util
import os
import subprocess
import sys

import pytest

from flatdist.engines._fused_cache import COMPILING, KernelCache, cache_folder
from flatdist.machine.logs import waits

HELPER = "from numba import njit\n\n@njit\ndef helper(x):\n    return x + {value}\n"
KERNEL = "from numba import njit\nfrom cached_helper import helper\n\n@njit\ndef kernel(x):\n    return helper(x)\n"
MODULES = ("cached_helper", "cached_kernel")


TRAIN = """
import hashlib
import numpy as np
from flatdist.engines.base import TrainingTask
from flatdist.engines._fused_kernel import run_steps
from flatdist.engines.fused import FusedEngine

rng = np.random.default_rng(0)
layers = [rng.standard_normal((12, 12), dtype=np.float32) / 5 for _ in range(3)]
rows, labels = rng.standard_normal((36, 12, 12), dtype=np.float32), rng.standard_normal(36, dtype=np.float32)
keys = np.array([[1, 2]], dtype=np.uint32)
task = TrainingTask((12,) * 4, [rows], [labels], [layers], keys, keys + 2, 13, True, None, "float32")
session = FusedEngine().start(task)
session.advance(0, 50, np.array([0.01]), np.array([0.5]), np.ones(50))
print(sum(run_steps.stats.cache_hits.values()))
print(hashlib.sha256(np.concatenate(session.layers()).tobytes()).hexdigest())
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that writes the two modules, imports them afresh, as a new process would, and gives the kernel."""

    def write_and_import(value):
        for name, text in zip(MODULES, (HELPER.format(value=value), KERNEL), strict=True):
            path = tmp_path / f"{name}.py"
            path.write_text(text)
            spec = importlib.util.spec_from_file_location(name, path)
            module = importlib.util.module_from_spec(spec)
            monkeypatch.setitem(sys.modules, name, module)
            exec(compile(text, path, "exec"), module.__dict__)
        kernel = sys.modules["cached_kernel"].kernel
        kernel._cache = KernelCache("kernel", MODULES)
        return kernel

    return write_and_import


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder."""
    chosen = tmp_path / "cache"
    monkeypatch.setenv("FLATDIST_CACHE_DIR", str(chosen))
    return chosen


def hits(kernel):
    return sum(kernel.stats.cache_hits.values())


def test_the_second_process_compiles_nothing(load, folder):
    first = load(1)
    assert first(1) == 2
    assert hits(first) == 0
    assert len(list(folder.iterdir())) == 1
    second = load(1)
    assert second(1) == 2
    assert hits(second) == 1
    assert second(1.5) == 2.5, "another signature is compiled and kept beside it"
    assert len(list(folder.iterdir())) == 2


def test_who_waits_for_the_compiler_is_told(load, folder, monkeypatch):
    told = []
    monkeypatch.setattr(waits, "_seconds", 0.0)
    with waits.told_to(told.append):
        assert load(1)(1) == 2
        assert told == [COMPILING]
        assert load(1)(1) == 2  # compiled already
    assert told == [COMPILING]


def test_an_edited_helper_is_noticed(load, folder):
    assert load(1)(1) == 2
    edited = load(10)
    assert edited(1) == 11
    assert hits(edited) == 0


@pytest.mark.parametrize("damage", [b"", b"nonsense", None], ids=["empty", "nonsense", "truncated"])
def test_a_damaged_file_is_compiled_again(load, folder, damage):
    load(1)(1)
    (file,) = folder.iterdir()
    file.write_bytes(file.read_bytes()[:-10] if damage is None else damage)
    again = load(1)
    assert again(1) == 2
    assert hits(again) == 0
    assert hits_after_repair(load) == 1


def hits_after_repair(load):
    kernel = load(1)
    kernel(1)
    return hits(kernel)


def test_code_that_others_could_have_written_is_not_loaded(load, folder):
    load(1)(1)
    (file,) = folder.iterdir()
    file.chmod(0o666)
    kernel = load(1)
    assert kernel(1) == 2
    assert hits(kernel) == 0
    folder.chmod(0o777)
    assert cache_folder() is None
    assert load(1)(1) == 2


def test_without_a_place_to_write_the_code_is_compiled_each_time(load, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for name in ("FLATDIST_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv(name, str(tmp_path / "file" / "below"))  # no folder can be made there
        assert cache_folder() is None
        for _ in range(2):
            kernel = load(1)
            assert kernel(1) == 2
            assert hits(kernel) == 0
        monkeypatch.delenv(name)


def test_the_folder_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("FLATDIST_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "flatdist"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "flatdist"


@pytest.mark.slow
def test_fresh_and_cached_code_give_the_same_bits(folder):
    environment = {**os.environ, "FLATDIST_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", TRAIN]
    fresh, cached = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    )
    assert (fresh[0], cached[0]) == ("0", "1")
    assert fresh[1] == cached[1]


def test_every_module_of_the_kernel_is_watched():
    from flatdist.engines import _fused_kernel

    compiled = {
        value.py_func.__module__
        for module in list(sys.modules.values())
        if (module.__name__ if hasattr(module, "__name__") else "").startswith(
            ("flatdist.engines", "flatdist.sensing.draws")
        )
        for value in vars(module).values()
        if hasattr(value, "py_func")
    }
    emitting = {name for name in sys.modules if name.startswith("flatdist.engines._fused_")}
    needed = compiled | emitting - {"flatdist.engines._fused_cache"}
    assert needed <= set(_fused_kernel.KERNEL_MODULES)
