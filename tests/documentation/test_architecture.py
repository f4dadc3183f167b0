"""The page of the architecture and the table of rooms name what there is; the graph of rooms is read correctly."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def load_rooms():
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "generate" / "rooms.py")
    module = importlib.util.module_from_spec(spec)
    import sys

    sys.modules["rooms"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", sorted(set(re.findall(r"`(flatdist/[\w/.]+)`", PAGE))))
def test_every_file_of_the_page_exists_and_defines_what_is_named_with_it(path):
    assert (ROOT / path).exists()
    for name in re.findall(rf"`{re.escape(path)}`\s+\(`(\w+)`\)", PAGE):
        assert re.search(rf"^(def|class) {name}\b", (ROOT / path).read_text(), flags=re.M), name


def test_the_table_of_rooms_is_the_order_that_lint_holds():
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]
    layers = {name for layer in contract["layers"] for name in re.split(r"[ :|]+", layer)}
    table = re.findall(r"^\| (`[^|]+`) \|", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.M)
    named = {name.strip("`/").removesuffix(".py").removesuffix("/") for row in table for name in row.split(", ")}
    modules = [
        path for path in (ROOT / "flatdist").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    ]
    there = {path.stem for path in modules} - {"__init__", "__main__"}
    assert named <= there & layers
    assert there <= named


def test_no_import_leads_upward_and_none_goes_in_a_circle():
    house = load_rooms().read_house(ROOT)
    circles = load_rooms().circles
    assert (house.upward, circles(house.rooms), circles(house.imports)) == (frozenset(), [], [])


def test_a_circle_and_an_upward_arrow_are_found(tmp_path):
    rooms = load_rooms()
    texts = {
        "low/__init__.py": "from . import inner\n",
        "low/inner.py": "def f():\n    from flatdist.high import top\n",
        "high/__init__.py": "",
        "high/top.py": "from flatdist.low import inner\nfrom flatdist import middle\n",
        "middle.py": "import flatdist.low.inner\n",
        "__init__.py": "from flatdist import high, low, middle\n",
    }
    for name, text in texts.items():
        path = tmp_path / "flatdist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    house = rooms.read_house(tmp_path)
    assert house.rooms == {"low": {"high"}, "high": {"low", "middle"}, "middle": {"low"}}
    assert house.upward == {("low", "high")}
    assert [house.floors[name] for name in ("low", "middle", "high")] == [0, 1, 2]
    assert sorted(rooms.circles(house.imports)) == [["flatdist.high.top", "flatdist.low.inner", "flatdist.middle"]]
    assert house.figures()["files"] == 6
