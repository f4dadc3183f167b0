"""YAML as version 1.2 reads it, with positions, and hostile files refused."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from flatdist.errors import SweepError
from flatdist.sweepfile.yamltree import parse_tree, read_text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("012", 12),
        ("0o14", 12),
        ("0x1F", 31),
        ("1:30", "1:30"),
        ("yes", "yes"),
        ("no", "no"),
        ("1_000", "1_000"),
        ("'12'", "12"),
        ('"true"', "true"),
        ("true", True),
        ("null", None),
        ("", None),
        ("-3", -3),
        (".5", 0.5),
        ("[1, [2, a]]", [1, [2, "a"]]),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    plain = parse_tree(f"key: {text}\n", "f.yaml").plain["key"]
    assert plain == value
    assert type(plain) is type(value)


def test_positions_are_those_of_the_file() -> None:
    tree = parse_tree("a: 1\nb:\n  - x\n  -\n    c: 2\n", "f.yaml")
    assert tree.keys == {"a": 1, "b": 2}
    assert [item.line for item in tree.value["b"].value] == [3, 5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1, 2\nb: 3\n", r"f.yaml:2:2: is not valid YAML"),
        ("a: b: c\n", r"f.yaml:1:5: is not valid YAML"),
        ("\ta: 1\n", r"f.yaml:1:1: is not valid YAML"),
        ("a: 'x\n", r"f.yaml:\d+:\d+: is not valid YAML"),
        ("a: \x00\n", "is not valid YAML"),
        ("a: 1\nb: 2\na: 3\n", r"f.yaml:3:1: the key 'a' is given twice \(first in line 1\)"),
        ("a: &x [1, 1]\nb: [*x, *x]\n", r"f.yaml:2:5: the alias \*x is not allowed"),
        ("a: !!python/object/apply:os.system ['id']\n", "the tag .*os.system is not allowed"),
        ("a: 1\n---\nb: 2\n", "holds one document"),
        ("[" * 50_000, "nested more than 20 deep"),
        ("{a: " * 20_000, "nested more than 20 deep"),
        ("a: " + "1" * 5000, "5000 digits"),
        ("? [1]\n: 2\n", "a key must be a name"),
        ("x" * 200_001, "larger than"),
    ],
)
def test_bad_files_are_refused_with_line_and_column(text: str, message: str) -> None:
    with pytest.raises(SweepError, match=message):
        parse_tree(text, "f.yaml")


def test_a_bomb_of_aliases_is_refused_before_it_grows() -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))
    tracemalloc.start()
    with pytest.raises(SweepError, match="alias"):
        parse_tree(bomb, "bomb.yaml")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * 2**20


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SweepError, match="does not exist"):
        read_text(tmp_path / "missing.yaml")
    with pytest.raises(SweepError, match="is a folder"):
        read_text(tmp_path)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"name: \xff\xfe")
    with pytest.raises(SweepError, match="not UTF-8"):
        read_text(binary)
    large = tmp_path / "large.yaml"
    large.write_bytes(b"#" * 300_000)
    with pytest.raises(SweepError, match="larger than"):
        read_text(large)
