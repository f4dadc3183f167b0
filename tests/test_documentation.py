"""What the README and the docs show is true: sweeps load, Python runs, links lead somewhere."""

import re
from pathlib import Path

import pytest

from flatdist.cli import main
from flatdist.sweepfile import load_sweep, parse_sweep

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    """Fenced code blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    targets = [link.split("#")[0] for link in links if not re.match(r"[a-z]+:|#", link)]
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("path", sorted(ROOT.glob("sweeps/**/*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_file_loads_under_its_own_name(path):
    sweep = load_sweep(path)
    assert sweep.name.endswith(path.stem)
    assert sweep.description


def test_the_sweep_in_the_readme_is_one():
    (text,) = blocks(README, "yaml")
    sweep = parse_sweep(text)
    assert len(sweep.cells) == 2 * 5 * (2 + 1), "the norm minimiser has no depth"


def test_the_python_in_the_readme_runs_on_the_quickstart(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = ["sweep", str(ROOT / "sweeps/quickstart.yaml"), "--executor", "inline", "--store", "results", "--yes"]
    assert main([*command, "--limit", "6"]) == 0
    capsys.readouterr()
    namespace = {}
    for block in blocks(README, "python"):
        exec(block, namespace)
    assert len(namespace["trials"]) == 6 * 8
    assert namespace["history"]["step"].max() == 12000


def test_commands_in_the_readme_exist(capsys):
    commands = [line[2:].split("#")[0].split() for block in blocks(README, "console") for line in block.splitlines()]
    flatdist = [command for command in commands if command[0] == "flatdist"]
    assert len(flatdist) >= 3
    for _, verb, *_ in flatdist:
        assert main([verb, "--help"]) == 0
        capsys.readouterr()
    targets = {command[1] for command in commands if command[0] == "make"}
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
    for command in commands:
        if command[:2] == ["python", "-m"]:
            assert (ROOT / command[2].replace(".", "/")).with_suffix(".py").exists()
