"""The cluster definition: valid by Ray's own checks, spot workers, nothing open to the world."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]


@pytest.fixture
def definition() -> dict[str, Any]:
    return dict(YAML(typ="safe").load((ROOT / "cluster.yaml").read_text()))


def check(definition: dict[str, Any]) -> dict[str, Any]:
    util = pytest.importorskip("ray.autoscaler._private.util")  # private: the version is pinned
    prepared = util.prepare_config(copy.deepcopy(definition))
    util.validate_config(prepared)
    return dict(prepared)


def test_ray_accepts_the_cluster_definition(definition: dict[str, Any]) -> None:
    prepared = check(definition)
    assert prepared["head_node_type"] == "head"
    worker = prepared["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0
    assert worker["max_workers"] == prepared["max_workers"] > 0
    assert worker["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert prepared["available_node_types"]["head"]["resources"]["CPU"] == 0


@pytest.mark.parametrize(
    ("key", "value"), [("max_wokers", 3), ("max_workers", "many"), ("idle_timeout_minutes", "soon")]
)
def test_the_check_sees_mistakes(definition: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(Exception, match=r"max_wokers|many|soon"):
        check(definition | {key: value})


def test_all_nodes_install_the_same_and_report_nothing(definition: dict[str, Any]) -> None:
    commands = definition["setup_commands"]
    (install,) = [command for command in commands if "ray[default,tune]==2.60.0" in command]
    assert "-c constraints.txt" in install, "machines that come later take the same versions"
    assert "search" in install, "the head suggests the cells of a search"
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        starts = [command for command in definition[key] if "ray start" in command]
        assert len(starts) == 1
        assert "RAY_USAGE_STATS_ENABLED=0" in starts[0]
    assert "--dashboard-host=127.0.0.1" in definition["head_start_ray_commands"][1]
    assert not definition["head_setup_commands"]
    assert not definition["worker_setup_commands"]


def test_the_on_premise_definition_of_the_documentation_is_valid() -> None:
    text = (ROOT / "docs" / "cluster.md").read_text()
    blocks = [block.split("```")[0] for block in text.split("```yaml\n")[1:]]
    (block,) = [block for block in blocks if "type: local" in block]
    prepared = check(dict(YAML(typ="safe").load(block)))
    assert prepared["provider"]["type"] == "local"
