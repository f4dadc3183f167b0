"""Every code block and every command of every page is run, in order, in a folder where the quickstart has run.

What is not run is parsed: see ``ONLY_PARSED`` and ``OTHER_PROGRAMS`` in commands.py, each with its reason. R is not
at hand, so its block is read, and its answer computed by Arrow from the same file. A bucket is a folder here.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from blocks import PAGES, Block, blocks_of, commands_of, indented_code_of, inline_commands_of, name_of, prose_of
from commands import ONLY_PARSED, OTHER_PROGRAMS, fewer, parse, run
from ruamel.yaml import YAML

from flatdist.errors import SweepError
from flatdist.sweeps import parse_sweep

ELSEWHERE = {"docs/tune.md": "tests/launch/test_tune.py runs it in the one Ray of all tests"}
WITH_BLOCKS = [page for page in PAGES if blocks_of(page) and name_of(page) not in ELSEWHERE]
BUCKET = "s3://my-bucket/flatdist"
MESSAGES = ["flatdist is X there and Y here"]  # what looks like a command and is none
# Page -> commands that its first block takes for granted.
BEFORE = {"docs/figures.md": ["flatdist figure paired quickstart --where 'rank == 2'"]}


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_blocks_run(page: Path, sandbox: Path) -> None:
    for command in BEFORE.get(name_of(page), []):
        run(command)
    namespace: dict[str, Any] = {"__name__": "page"}
    for block in blocks_of(page):
        try:
            run_block(block, namespace)
        except (Exception, SystemExit) as error:
            raise AssertionError(f"{name_of(page)}:{block.line}: {type(error).__name__}: {error}") from error


def run_block(block: Block, namespace: dict[str, Any]) -> None:
    """Run one block in the current directory."""
    match block.language:
        case "python":
            source = block.text.replace(BUCKET, "results")
            exec(compile(source, f"<line {block.line}>", "exec"), namespace)
        case "console":
            commands = commands_of(block)
            assert commands, "a console block without a command"
            for command in commands:
                run(command)
        case "yaml":
            read_yaml(block.text)
        case "sql":
            assert duckdb.sql(block.text).fetchall()
        case "r":
            same_as_r(block.text)
        case "bash":
            check_script(block.text)
        case "text":
            pass  # what a command prints, or a formula
        case _:
            raise AssertionError(f"no test knows the language {block.language!r}")


def read_yaml(text: str) -> None:
    """A sweep file does what its first line claims, and is saved under its name; a cluster's definition can be read."""
    first = text.splitlines()[0]
    if first.startswith("# refused: "):
        with pytest.raises(SweepError, match=re.escape(first.removeprefix("# refused: "))):
            parse_sweep(text, path=Path("f.yaml"))
        return
    content = YAML(typ="safe").load(text)
    if "cluster_name" in content:  # tests/launch/test_cluster_yaml.py lets Ray check it
        return
    sweep = parse_sweep(text)
    if claim := re.match(r"# (\d+ cells(?:, \d+ left out)?)", first):
        left_out = f", {sweep.left_out} left out" if sweep.left_out else ""
        assert f"{len(sweep.cells)} cells{left_out}" == claim[1]
    if "name" in content:
        Path(f"{content['name']}.yaml").write_text(fewer(text), encoding="utf-8")


def same_as_r(text: str) -> None:
    """The R block opens a file that exists, and what it groups and averages are columns of it."""
    (opened,) = re.findall(r"open_dataset\(\"([^\"]+)\"\)", text)
    (keys,) = re.findall(r"group_by\(([^)]+)\)", text)
    (success,) = re.findall(r"success = (\w+) < [\d.]+", text)
    table = pq.read_table(opened)
    table = table.append_column("success", pc.cast(pc.less(table[success], 0.01), "float64"))
    summary = table.group_by(keys.split(", ")).aggregate([("success", "mean"), ([], "count_all")])
    assert summary.num_rows > 10
    assert set(summary["success_mean"].to_pylist()) >= {0.0, 1.0}


def check_script(text: str) -> None:
    """A shell script is one, and the flatdist commands in it can be parsed."""
    subprocess.run(["bash", "-n"], input=text, text=True, check=True, timeout=30)
    commands = re.findall(r"^flatdist .*$", re.sub(r"\\\n\s*", "", text), flags=re.MULTILINE)
    assert commands
    for command in commands:
        parse(shlex.split(command.removesuffix("&")))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_in_the_text_exist(page: Path) -> None:
    if page.name == "CHANGELOG.md":
        return  # it also names what has gone
    for command in inline_commands_of(page):
        words = shlex.split(command)
        if command in MESSAGES:
            continue
        if len(words) == 2 and words[0] == "flatdist":
            words.append("--help")
        if {"NAME", "benchmarks.NAME", "analysis.NAME"} & set(words):
            continue  # stands for any of them
        try:
            parse(words)
        except SystemExit as error:
            raise AssertionError(f"{command}: exit status {error.code}") from error


def test_every_block_names_its_language() -> None:
    for page in PAGES:
        for block in blocks_of(page):
            assert block.language, f"{name_of(page)}:{block.line}"
        assert "```" not in prose_of(page), f"{page.name}: a fence without its end"
        assert not indented_code_of(page), page.name


def test_every_exception_is_used() -> None:
    commands = [command for page in PAGES for block in blocks_of(page) for command in commands_of(block)]
    for part in ONLY_PARSED:
        assert any(part in command for command in commands), f"{part!r} excuses nothing"
    for program in OTHER_PROGRAMS:
        assert any(command.split()[0] == program for command in commands), f"{program!r} excuses nothing"


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "import flatdist\n\nflatdist.load_trails\n"),
        ("console", "$ flatdist plan --no-such-option x.yaml\n"),
        ("console", "$ flatdist sweap x.yaml --gpus-per-trial 1\n"),
        ("console", "$ flatdist sweep x.yaml --gpus-per-trial many\n"),
        ("console", "$ python -m analysis.theorems --tolerence 1 sweeps/theorems/problems.yaml\n"),
        ("console", "$ python -m benchmarks.engines --quik\n"),
        ("console", "$ python -m analysis.no_such_analysis quickstart\n"),
        ("console", "$ flatdist sweep sweeps/theorems/no_such_sweep.yaml\n"),
        ("console", "$ make no-such-target\n"),
        ("console", "$ nosuchprogram\n"),
        ("console", "no command at all\n"),
        ("yaml", "fixed: {d_out: 12, d_in: 12, rank: 1, n: 60, deph: 3}\n"),
        ("yaml", "# 3 cells\nfixed: {d_out: 12, d_in: 12, rank: 1}\naxes: {n: [50, 60]}\n"),
        ("yaml", "# refused: did you mean\nfixed: {d_out: 12, d_in: 12, rank: 1, n: 60}\n"),
        ("sql", "SELECT no_such_column FROM (SELECT 1 AS a)\n"),
        ("bash", "flatdist sweep x.yaml\nif true; then\n"),
        ("bash", "flatdist sweep x.yaml --no-such-option\n"),
        ("pyhton", "1\n"),
    ],
)
def test_a_broken_block_is_noticed(language: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Exception, SystemExit, pytest.fail.Exception)):
        run_block(Block(language, text, 1), {"__name__": "page"})
