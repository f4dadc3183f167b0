"""``flatdist doctor``: what each node has; changes nothing."""

from __future__ import annotations

import platform
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flatdist.cli.options import json_option, plugin_option, store_option
from flatdist.cli.output import print_json
from flatdist.errors import FlatdistError, LaunchError, size
from flatdist.machine.extras import remedy
from flatdist.machine.files import cache_home

if TYPE_CHECKING:
    from flatdist.cells.plugins import Plugin

PACKAGES = ("numpy", "pandas", "pyarrow", "torch", "numba", "ray", "optuna", "matplotlib")


@click.command("doctor")
@store_option
@plugin_option
@click.option("--address", metavar="A", help="Ray cluster: auto, HOST:PORT or ray://HOST:PORT.")
@json_option
def doctor_command(store: str, address: str | None, as_json: bool) -> int:
    """Show what this machine, or every node of a cluster, has: versions, devices, the store, the kernel cache.

    Exit status: 0 a sweep can run, 1 something prevents it.
    """
    from flatdist.store import Store

    uri = Store(store).uri
    nodes = [inspect(uri)] if address is None else _cluster(address, uri)
    for facts in nodes[1:]:
        for what in ("flatdist", "numerics", "torch"):
            here, there = nodes[0].get(what), facts.get(what)
            if here != there:
                facts["problems"].append(f"{what} is {there} there and {here} on the first node")
    if as_json:
        print_json({"nodes": nodes})
    else:
        click.echo("\n\n".join("\n".join(_lines(facts)) for facts in nodes))
    return int(any(facts["problems"] for facts in nodes))


def inspect(store_uri: str, plugins: Iterable[Plugin] = ()) -> dict[str, Any]:
    """What this process finds on its machine; runs on every node of a cluster, with the driver's plugins."""
    from flatdist.cells.plugins import use_plugins
    from flatdist.launch.ray.cluster import versions
    from flatdist.machine.provenance import package_version, revision
    from flatdist.planning.memory import available_bytes
    from flatdist.planning.settings import cuda_devices, processors, unusable_gpus

    use_plugins(plugins)
    problems: list[str] = []
    found = {name: package_version(name) for name in PACKAGES}
    sha, dirty = revision()
    if found["torch"] is None or found["numba"] is None:
        problems.append(f"torch or numba is missing, so no cell can run: {remedy('run')}")
    facts: dict[str, Any] = {
        "host": socket.gethostname(),
        "python": platform.python_version(),
        "flatdist": package_version("flatdist"),
        "revision": None if sha is None else sha[:12] + (" with uncommitted changes" if dirty else ""),
        **found,
        "numerics": {name: version for name, version in versions().items() if name != "flatdist"},
        "processors": processors(),
        "memory_free": available_bytes(),
        "devices": list(cuda_devices()) if found["torch"] is not None else [],
        "kernel_cache": _kernel_cache(),
        "store": _store(store_uri, problems),
        "problems": problems,
    }
    if found["torch"] is not None and (problem := unusable_gpus()):
        problems.append(problem)
    return facts


def _store(uri: str, problems: list[str]) -> str:
    from flatdist.store import Store
    from flatdist.store.location import is_local

    if is_local(uri) and not Path(uri).is_dir():
        return f"{uri}: no such folder yet"
    try:
        Store(uri).check_access()
    except (FlatdistError, OSError) as error:
        problems.append(str(error))
        return f"{uri}: cannot be used"
    return f"{uri}: can be written and read"


def _kernel_cache() -> str:
    folder = cache_home()
    if not folder.is_dir():
        return f"{folder}: none yet, the first sweep compiles for half a minute"
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    return f"{folder}: {len(sizes)} files, {size(sum(sizes))}"


def _cluster(address: str, store_uri: str) -> list[dict[str, Any]]:
    """The same from every node of a Ray cluster, the driver's machine first."""
    from flatdist.cells.plugins import loaded_plugins
    from flatdist.launch import Settings
    from flatdist.launch.ray.cluster import ClusterSession

    nodes = [inspect(store_uri)]
    with ClusterSession(Settings(address=address)) as session:
        for name, answer in session.ask_nodes(lambda _: (inspect, (store_uri, loaded_plugins()))):
            facts = {"problems": [f"flatdist does not work there: {answer}"]} if isinstance(answer, str) else answer
            nodes.append({**facts, "node": name})
    if len(nodes) == 1:
        raise LaunchError(f"the cluster at {address} has no nodes")
    return nodes


def _lines(facts: dict[str, Any]) -> list[str]:
    lines = [facts.get("node") or facts.get("host", "?")]
    for name, value in facts.items():
        if name in ("host", "node", "problems", "numerics") or value is None:
            continue
        text = size(value) if name == "memory_free" else (", ".join(value) or "none") if name == "devices" else value
        lines.append(f"  {name.replace('_', ' '):<13} {text}")
    return [*lines, *(f"  PROBLEM       {problem}" for problem in facts["problems"])]
