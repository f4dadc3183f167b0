"""Running a page's commands in this process, or only parsing those that need what a test does not have."""

from __future__ import annotations

import argparse
import contextlib
import functools
import importlib
import inspect
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import click
import pytest

from flatdist.cli import cli, main
from flatdist.report import write_report
from flatdist.sweeps import load_sweep

ROOT = Path(__file__).parents[2]

# Part of a command -> why it is parsed and not run.
ONLY_PARSED = {
    "s3://": "needs a bucket",
    "--address": "needs a cluster",
    "--gpus-per-trial": "needs a GPU",
    "--device cuda": "needs a GPU",
    "--store A": "trains for three minutes on purpose: it shows the slower engine",
    "--store B": "its twin on the faster engine",
    "sweeps/theorems/": "minutes of computing; tests/fits/test_theorems.py runs the analysis on small sweeps",
    "sweeps/figure": "minutes of computing; tests/figures/test_training_curves.py runs the analysis",
    **{
        f"sweeps/{name}": "minutes to hours of computing; a page of results says what came out"
        for name in (
            "noise",
            "spectral_tail",
            "ensembles",
            "statistical_dimension",
            "init_map",
            "first_success",
            "mean_first_success",
            "sgd_against_flow",
            "which_flatness",
            "ablations/",
        )
    },
    "python -m benchmarks.": "benchmarks measure for minutes",
    "python benchmarks/": "benchmarks measure for minutes",
}
# First word of a command -> why it is only read, or by what it is checked.
OTHER_PROGRAMS = {
    "make": "its targets exist in the Makefile; running them would set up an environment",
    "source": "activates the environment that the tests run in",
    "pip": "installs from a package index",
    "export": "sets a variable of the reader's shell",
    "ray": "starts or asks a cluster; parsed by Ray's own command line",
}


class Parsed(Exception):
    """Raised in place of what would follow a command's parsing."""


def fewer(sweep: str) -> str:
    """The same sweep file with fewer replicates and steps, a smaller budget, and every second value of long axes."""
    sweep = re.sub(r"^(replicates: )\d+$", r"\g<1>2", sweep, flags=re.MULTILINE)
    sweep = re.sub(r"\b(steps: )\d+", r"\g<1>6000", sweep)
    sweep = re.sub(r"(?:^ +- [^\n:]*\n){8,}", lambda m: "".join(m[0].splitlines(keepends=True)[::2]), sweep, flags=re.M)
    sweep = re.sub(r"\[([^][{}]*(?:,[^][{}]*){7,})\]", lambda m: f"[{','.join(m[1].split(',')[::2])}]", sweep)
    return re.sub(r"\b(budget: )\d+", r"\g<1>12", sweep)


def run(command: str) -> None:
    """Run one command line of a page, or parse it where :data:`ONLY_PARSED` says why."""
    words = shlex.split(command, comments=True)
    if any(part in command for part in ONLY_PARSED):
        parse(words)
    elif words[0] == "flatdist":
        run_flatdist(words[1:])
    elif words[:2] == ["python", "-m"]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", words[2:])
            with pytest.raises(SystemExit) as ended:
                main_of(importlib.import_module(words[2]))()
        assert not ended.value.code, f"exit status {ended.value.code}"
    elif words[:2] == ["python", "-c"]:
        exec(words[2], {"__name__": "__main__"})
    else:
        parse(words)


def main_of(module: ModuleType) -> Callable[..., Any]:
    """A module's function ``main``, or the module as a program."""
    return getattr(module, "main", None) or functools.partial(runpy.run_path, str(module.__file__), run_name="__main__")


def run_flatdist(words: Sequence[str]) -> None:
    """Run the command ``flatdist`` in this process, without Ray and without questions."""
    words = list(words)
    if words[0] == "sweep":
        words += [] if "--executor" in words else ["--executor", "inline"]
        words += ["--yes", "--display", "none", "--no-probe"]  # `plan` in the pages does probe
    if words[0] == "watch" and "--once" not in words:
        words.append("--once")  # serving lasts until it is interrupted; tests/report/test_watch.py serves
    if words[0] == "figure" and len(words) > 2 and "--format" not in words:
        words += ["--format", "png"]  # a page's commands are run to see that they work; other tests read every format
    with pytest.MonkeyPatch.context() as patch:
        if words[0] == "report":
            patch.setattr("flatdist.report.write_report", functools.partial(write_report, formats=("png",)))
        status = main(words)
    allowed = (0, 1) if words[0] in ("status", "diff") else (0,)  # 1: some replicates are missing, or something moved
    assert status in allowed, f"exit status {status}"


def parse(words: Sequence[str]) -> None:
    """Check a command without running it: its name, its options, and the sweep files that it names."""
    if words[0] == "flatdist":
        parse_click(cli, words[1:])
    elif words[0] == "ray":
        parse_click(importlib.import_module("ray.scripts.scripts").cli, words[1:])
    elif words[:2] == ["python", "-m"] or (words[0] == "python" and words[1].endswith(".py")):
        parse_module(words[1:])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in (word for word in words[1:] if "=" not in word):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), f"make {target}: no such target"
    else:
        assert words[0] in OTHER_PROGRAMS, f"{words[0]}: no test knows this program"
    for word in words[1:]:
        if word.startswith("sweeps/") and word.endswith(".yaml"):
            load_sweep(ROOT / word)


def parse_click(command: click.Command, words: Sequence[str]) -> None:
    """Parse a command line made with click, subcommands included."""
    path = []
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), words[0]) if words else None
        assert found is not None, f"{' '.join([*path, *words[:1]])}: no such command"
        path.append(words[0])
        command, words = found, words[1:]
    with contextlib.suppress(click.exceptions.Exit):  # --help; wrong usage is another exception
        command.make_context(" ".join(path), list(words))


def parse_module(words: Sequence[str]) -> None:
    """Let a Python program of the repository parse its arguments, and stop it there."""
    name, arguments = (
        (words[1], words[2:]) if words[0] == "-m" else (words[0][: -len(".py")].replace("/", "."), words[1:])
    )
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *given: Any, **more: Any) -> NoReturn:
        original(self, *given, **more)
        raise Parsed

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT))
        module = importlib.import_module(name)
        source = inspect.getsource(module)
        main = main_of(module)
        if not inspect.signature(main).parameters and not re.search("parse_args|run_script", source):
            assert not arguments, f"{name} takes no arguments"
            return
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [name, *arguments])
        with pytest.raises(SystemExit if "--help" in arguments else Parsed) as stopped:
            main()
    assert getattr(stopped.value, "code", 0) == 0
