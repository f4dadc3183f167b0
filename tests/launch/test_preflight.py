from __future__ import annotations

import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from flatdist.errors import LaunchError
from flatdist.launch import Settings, launch
from flatdist.launch.ray import cluster as preflight
from flatdist.launch.ray.cluster import ClusterSession, NodeReport, check_nodes, find_problems, inspect_node, versions

EXPECTED = {"flatdist": "1.0", "numerics of sam": 2}


def test_ray_that_does_not_start_is_one_message_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise Exception("The current node timed out during startup")  # what Ray raises

    monkeypatch.setattr(preflight, "import_ray", lambda **_: SimpleNamespace(is_initialized=lambda: False, init=init))
    with (
        pytest.raises(LaunchError, match=r"could not be reached on this machine: The current .*--executor inline"),
        ClusterSession(Settings()),
    ):
        pass


def report(**changes: Any) -> NodeReport:
    values = {"host": "b", "versions": EXPECTED, "torch": "2.13.0+cpu", "devices": (), "store_problem": None}
    return NodeReport(**(values | changes))


def problems(store: str = "s3://bucket/x", settings: Settings | None = None, **changes: Any) -> list[str]:
    reports = {"a (10.0.0.1)": report(host="a"), "b (10.0.0.2)": report(**changes)}
    return find_problems(reports, EXPECTED, store, settings or Settings())


def test_equal_nodes_are_ready() -> None:
    assert problems() == []
    assert problems(torch="2.13.0+cu130", devices=("H200",)) == []  # heads without a GPU carry a CPU build


@pytest.mark.parametrize(
    ("changes", "texts"),
    [
        ({"versions": EXPECTED | {"flatdist": "0.9"}}, ["b (10.0.0.2): flatdist is 0.9 there and 1.0 here"]),
        ({"versions": {"flatdist": "1.0"}}, ["numerics of sam is None there and 2 here"]),
        ({"torch": "2.6.0"}, ["torch is 2.13.0+cpu and 2.6.0: install the same version on all nodes"]),
        ({"store_problem": "403 Forbidden"}, ["store s3://bucket/x cannot be used from there: 403 Forbidden"]),
    ],
)
def test_each_difference_is_named_with_its_node(changes: dict[str, Any], texts: list[str]) -> None:
    found = problems(**changes)
    assert len(found) == len(texts)
    for line, text in zip(found, texts, strict=True):
        assert text in line


def test_a_local_path_that_a_node_does_not_share_is_refused_with_the_reason() -> None:
    (line,) = problems("/data/results", store_problem="the folder is not the driver's")
    assert "/data/results is a local path of" in line
    assert "b does not share it" in line
    assert "s3://" in line


def test_a_gpu_that_nobody_has_is_refused() -> None:
    (line,) = problems(settings=Settings(device="cuda"))
    assert "no CUDA device on any node" in line


def test_a_node_describes_itself_and_misses_the_drivers_marker(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    seen = inspect_node(str(tmp_path), str(marker), look_for_gpus=True)
    assert seen.store_problem == "the folder is not the driver's"
    marker.touch()
    seen = inspect_node(str(tmp_path), str(marker), look_for_gpus=True)
    assert seen.store_problem is None
    assert seen.versions == versions()


def test_a_file_in_the_place_of_the_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(LaunchError, match="cannot be written"):
        preflight._put_marker(str(tmp_path / "store"))


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_nodes_of_a_cluster_are_inspected_and_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ClusterSession(Settings()) as session:
        (seen,) = check_nodes(session, str(tmp_path), Settings())
        assert seen.versions == versions()
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
        newer = versions() | {"sampling": 99}
        monkeypatch.setattr(preflight, "versions", lambda: newer)
        with pytest.raises(LaunchError, match=r"nothing was started:\n.*sampling is \d+ there and 99 here"):
            check_nodes(session, str(tmp_path), Settings())


@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_a_trial_that_does_not_fit_on_this_machine_is_refused_in_a_session_within_a_session() -> None:
    """As in the rounds of a search, which would else wait for an autoscaler for ever."""
    with ClusterSession(Settings(cpus_per_trial=64.0)) as session:
        assert session.own
        with pytest.raises(LaunchError, match="this machine offers 2 CPUs"):
            session.check_resources()


def test_a_session_joins_the_cluster_of_the_ray_job_it_runs_in(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    joined = []
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda address, **_: joined.append(address))
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with ClusterSession(Settings()) as session:
        assert not session.own
    assert joined == ["10.0.0.1:6379"]


def test_a_sigterm_that_ray_answers_while_it_connects_is_an_interrupt(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_cell: Any, make_plan: Any
) -> None:
    import ray

    def end(**_: Any) -> None:
        raise SystemExit(15)

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", end)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    result = launch(make_plan([make_cell()]), tmp_path / "store", display="none")
    assert (result.exit_code, result.missing) == (130, 2)


def test_an_interrupt_in_a_notebook_waits_until_ray_has_connected(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, make_cell: Any, make_plan: Any
) -> None:
    """Ray's C++ code ends a process that connects anew after a connection that was broken off half-way."""
    import ray

    steps: list[str] = []

    def connect(**_: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)  # where a handler of Python's would raise
        steps.append("connected")

    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", connect)
    monkeypatch.setattr(ray, "shutdown", lambda: steps.append("left"))
    result = launch(make_plan([make_cell()]), tmp_path / "store", display="none")
    assert (result.exit_code, result.missing) == (130, 2)
    assert steps == ["connected", "left"]


def test_without_ray_the_message_says_what_to_install(monkeypatch):
    from flatdist.machine.environment import import_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LaunchError, match=r"needs ray, which is not installed; in .*pip install '\.\[run\]'"):
        import_ray(local=True)


def test_a_control_service_that_has_ended_stops_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself says nothing for a minute, and then ends the process."""
    from flatdist.launch.ray import tune

    monkeypatch.setattr(tune, "HEAD_SECONDS", 0.04)
    with socket.create_server(("127.0.0.1", 0)) as service:
        address = "{}:{}".format(*service.getsockname())
        head = tune.Head(address)
        time.sleep(0.02)
        assert head.problem() is None
    time.sleep(0.02)
    assert head.problem() is None  # not at the first refusal
    assert not head.answers
    time.sleep(0.05)
    problem = head.problem()
    assert problem is not None
    assert f"Ray's control service at {address} has ended; what was finished is stored" in problem
    assert tune.Head(None).problem() is None
