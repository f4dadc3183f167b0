"""Before a sweep starts: can every node do its part?

What would otherwise show after an hour, on one node of forty: another version, no torch, a store that is a folder of
somebody else's disk.
"""

from __future__ import annotations

import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatdist.errors import LaunchError
from flatdist.launch.ray.cluster import ClusterSession
from flatdist.launch.settings import LaunchSettings
from flatdist.machine.environment import import_ray
from flatdist.store.location import is_local

NODE_SECONDS = 120.0  # a fresh node imports torch for the first time
GPU_SHARE = 0.01  # enough for Ray to show the node's devices to the check


@dataclass(frozen=True)
class NodeReport:
    """What one node says of itself.

    Attributes:
        host: its name.
        versions: flatdist, and the numerics version of every method and of the sampling.
        torch: version of torch.
        devices: names of the CUDA devices that torch sees.
        store_problem: why the store cannot be used from there, or None.
    """

    host: str
    versions: Mapping[str, Any]
    torch: str
    devices: tuple[str, ...]
    store_problem: str | None


def versions() -> dict[str, Any]:
    """What must be equal on all nodes for their results to be one sweep's."""
    from flatdist.machine.provenance import package_version
    from flatdist.methods import METHODS
    from flatdist.sensing.ensembles import SAMPLING_VERSION

    numerics = {f"numerics of {name}": method.numerics_version for name, method in METHODS.items()}
    return {"flatdist": package_version("flatdist"), "sampling": SAMPLING_VERSION, **numerics}


def require_versions(expected: Mapping[str, Any]) -> None:
    """Runs in every trial: a node that joined after the sweep had started was not inspected.

    Raises:
        LaunchError: something is of another version here than where the sweep was started.
    """
    found = versions()
    for what, wanted in expected.items():
        if found.get(what) != wanted:
            raise LaunchError(
                f"{what} is {found.get(what)} on {socket.gethostname()} and {wanted} where the sweep was started; "
                "install the same version there"
            )


def inspect_node(store_uri: str, marker: str | None, look_for_gpus: bool, compile_steps: bool = False) -> NodeReport:
    """Runs on a node: describe it, and write to and read from the store from there.

    Args:
        store_uri: the store.
        marker: a file that the driver has put into a local store, to be seen from here too.
        look_for_gpus: import torch, which takes seconds, and ask it for devices.
        compile_steps: compile the fused engine into the node's cache, once, before all its trials would.
    """
    from flatdist.errors import StoreError
    from flatdist.machine.provenance import package_version
    from flatdist.store import Store

    problem = None
    if marker is not None and not Path(marker).exists():
        problem = "the folder is not the driver's"
    else:
        try:
            Store(store_uri).check_access()
        except (StoreError, OSError) as error:
            problem = str(error)
    torch_version = package_version("torch")
    if torch_version is None:
        raise LaunchError("torch is not installed; pip install 'flatdist[run]'")
    devices = cuda_devices() if look_for_gpus else ()
    if compile_steps and not devices:
        from flatdist.engines.fused import warm

        warm()
    return NodeReport(socket.gethostname(), versions(), torch_version, devices, problem)


def cuda_devices() -> tuple[str, ...]:
    """Names of the CUDA devices that torch sees in this process."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return tuple(torch.cuda.get_device_name(index) for index in range(count))


def check_nodes(session: ClusterSession, store_uri: str, settings: LaunchSettings) -> list[NodeReport]:
    """Inspect every node of the cluster.

    Returns:
        The reports, one for each node.

    Raises:
        LaunchError: lists everything that stands in the way, by node.
    """
    ray = import_ray(local=False)
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    nodes = session.nodes()
    marker = _put_marker(store_uri)
    try:
        pending = {}
        for node in nodes:
            has_gpus = bool(node["Resources"].get("GPU"))
            share = GPU_SHARE if has_gpus else 0
            place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(inspect_node).options(
                num_cpus=0, num_gpus=share, scheduling_strategy=place, max_retries=1
            )
            pending[node_name(node)] = task.remote(store_uri, marker, has_gpus, settings.engine in ("auto", "fused"))
        reports: dict[str, NodeReport] = {}
        problems: list[str] = []
        for name, answer in pending.items():
            try:
                reports[name] = ray.get(answer, timeout=NODE_SECONDS)
            except TimeoutError:
                problems.append(f"{name}: did not answer within {NODE_SECONDS:.0f} s")
            except ray.exceptions.RayError as error:
                if name not in {node_name(node) for node in session.nodes()}:
                    continue  # it was lost just now, which is no reason not to start on the others
                problems.append(f"{name}: flatdist[run] does not work there: {_last_line(error)}")
    finally:
        if marker is not None:
            Path(marker).unlink(missing_ok=True)
    problems += find_problems(reports, versions(), store_uri, settings)
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise LaunchError(f"the cluster is not ready, nothing was started:\n{lines}")
    return list(reports.values())


def node_name(node: Mapping[str, Any]) -> str:
    """How messages name a node."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"


def find_problems(
    reports: Mapping[str, NodeReport], expected: Mapping[str, Any], store_uri: str, settings: LaunchSettings
) -> list[str]:
    """What stands in the way, one line for each node and reason.

    Args:
        reports: node's name -> report.
        expected: the driver's :func:`versions`.
        store_uri: the store.
        settings: the launch's settings.
    """
    problems = []
    for name, report in reports.items():
        for what, wanted in expected.items():
            found = report.versions.get(what)
            if found != wanted:
                problems.append(f"{name}: {what} is {found} there and {wanted} here; install the same version")
        if report.store_problem is not None:
            problems.append(f"{name}: {_store_problem(report, store_uri)}")
    torches = {report.torch for report in reports.values()}
    if len({torch.split("+")[0] for torch in torches}) > 1:
        problems.append(f"torch is {' and '.join(sorted(torches))}: install the same version on all nodes")
    if settings.device == "cuda" and not any(report.devices for report in reports.values()):
        problems.append("device cuda was asked for and torch sees no CUDA device on any node; use --device cpu")
    return problems


def _store_problem(report: NodeReport, store_uri: str) -> str:
    if is_local(store_uri):
        return (
            f"the store {store_uri} is a local path of {socket.gethostname()}, and {report.host} does not share it "
            f"({report.store_problem}); use --store s3://… or gs://…, or a folder that all nodes mount"
        )
    return f"the store {store_uri} cannot be used from there: {report.store_problem}"


def _put_marker(store_uri: str) -> str | None:
    """Put an empty file into a local store that every node must see."""
    if not is_local(store_uri):
        return None
    folder = Path(store_uri)
    marker = folder / f".seen-from-every-node-{uuid.uuid4().hex}"
    try:
        os.makedirs(folder, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise LaunchError(f"the store {store_uri} cannot be written: {error}; choose another with --store") from error
    return str(marker)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
