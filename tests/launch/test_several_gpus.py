"""A cluster with two GPUs, which are logical ones here: what it is asked, what is planned for it, who gets which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HELPERS = Path(__file__).parents[1] / "helpers"
SCRIPT = """
import dataclasses, json, sys
import ray
import launch_fakes
from flatdist import engines
from flatdist.cells.cell import Cell
from flatdist.launch import Settings, launch, plan_sweeps
from flatdist.launch.ray import cluster
from flatdist.launch.ray.cluster import ClusterSession
from flatdist.planning import Shard, WorkItem, plan_items
from flatdist.store import Store
from flatdist.sweeps import parse_sweep

ray.init(address="local", num_cpus=3, num_gpus=2, include_dashboard=False, log_to_driver=False,
         object_store_memory=100 * 2**20)
settings = Settings(address=ray.get_runtime_context().gcs_address)
with ClusterSession(settings) as session:
    unseen = session.offer()
cluster.first_card = launch_fakes.standing_card
engines.why_absent = lambda name: None
sweep = parse_sweep(json.dumps({"name": "two", "replicates": 400, "fixed": {"d_out": 8, "d_in": 8, "rank": 1},
                                "axes": {"n": [40, 50]}}))
store = Store(sys.argv[1])
plan = plan_sweeps([sweep], store, settings)

items = [WorkItem(Cell(d_out=8, d_in=8, rank=1, n=n, steps=10), (0,)) for n in (40, 50, 60, 64)]
how = Settings(device="cpu", engine="batched", gpus_per_trial=1.0, runner="launch_fakes:on_card", reuse_actors=False)
each = dataclasses.replace(plan_items(items, store, how), shards=tuple(Shard((item,), 1.0) for item in items))
launch(each, store.uri, display="none")
print(json.dumps({
    "unseen": [unseen.cpus, unseen.gpus], "lines": plan.lines(), "device": plan.settings.device,
    "slots": plan.slots, "packs": sorted(shard.replicates for shard in plan.shards if shard.together),
    "devices": sorted(set(store.trials()["device"]))}))
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_is_asked_for_its_gpus_and_each_takes_a_trial(tmp_path: Path) -> None:
    paths = os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "store")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["unseen"] == [3.0, 0.0], "GPUs that torch does not see are not offered"
    assert (found["device"], found["slots"]) == ("cuda", 2)
    assert len(found["packs"]) >= 2, "a pack for each card"
    assert sum(found["packs"]) == 800
    assert any("on stand-in: " in line and "full on average" in line for line in found["lines"])
    assert found["devices"] == ["card 0", "card 1"]
