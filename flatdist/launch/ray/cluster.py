"""The Ray cluster that a sweep runs on: one of its own on this machine, or one to join."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flatdist.cells.plugins import Plugin, loaded_plugins, use_plugins
from flatdist.errors import LaunchError
from flatdist.launch.interrupt import Interrupts
from flatdist.machine.environment import import_ray
from flatdist.machine.extras import remedy
from flatdist.planning.packs import Card
from flatdist.planning.settings import Offer, Settings, cuda_devices
from flatdist.store.location import is_local

log = logging.getLogger(__name__)

NODE_SECONDS = 120.0  # a fresh node imports torch for the first time
GPU_SHARE = 0.01  # enough for Ray to show the node's devices to the check
ERROR_LENGTH = 300
OBJECT_STORE_BYTES = 256 * 2**20  # a sweep keeps only its plan there; Ray would reserve a third of the memory


def is_connected() -> bool:
    """Whether this process is connected to Ray already."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


class ClusterSession:
    """A connection to Ray, opened on entry and closed on exit if it was opened here.

    A process that is already connected to Ray keeps its connection, and the session uses it: rounds of an adaptive
    sweep, or several sweeps in one program, share one.
    """

    _alone = False  # whether this process has started a Ray of its own, for all sessions that use it

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._opened = False

    def __enter__(self) -> ClusterSession:
        address, slots = self._settings.cluster, self._settings.slots
        ray = import_ray(local=address is None)
        if ray.is_initialized():
            return self
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "namespace": "flatdist"}
        if address is None:
            options |= {"num_cpus": slots or os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES}
            options["include_dashboard"] = False
        # What is interrupted while it connects ends this process when it connects again: a notebook's interrupt waits.
        lives_on = hasattr(sys, "ps1")
        try:
            with Interrupts() if lives_on else contextlib.nullcontext() as interrupts:
                ray.init(address=address or "local", **options)  # else Ray joins any cluster that happens to run here
            if interrupts is not None and interrupts.requested:
                ray.shutdown()
                raise KeyboardInterrupt
        except SystemExit as stop:  # Ray's own answer to a SIGTERM that comes while it connects
            ray.shutdown()
            raise KeyboardInterrupt from stop
        except Exception as error:
            if not isinstance(error, (RuntimeError, ValueError, OSError)) and type(error) is not Exception:
                raise  # Ray raises a bare Exception where it does not come up in time
            where = "on this machine" if address is None else f"at {address!r}"
            advice = (
                "rerun the command when the machine is less busy, or use --executor inline"
                if address is None
                else "allowed for --address: auto (a cluster that this machine belongs to), HOST:PORT, "
                "ray://HOST:10001; or leave it out to start one here"
            )
            raise LaunchError(f"Ray could not be reached {where}: {error}; {advice}") from error
        self._opened = True
        ClusterSession._alone = address is None
        return self

    def __exit__(self, *error: object) -> None:
        if self._opened:
            ClusterSession._alone = False
            import_ray(local=False).shutdown()

    @property
    def own(self) -> bool:
        """Whether the cluster is only this machine, started by this process."""
        return ClusterSession._alone

    def nodes(self) -> list[dict[str, Any]]:
        """The nodes that are alive, as Ray describes them."""
        return [node for node in import_ray(local=False).nodes() if node["Alive"]]

    def offer(self) -> Offer:
        """What the nodes have for trials; GPUs that torch can use, and the one with the least free memory."""
        answers = self.ask_nodes(lambda has_gpus: (first_card, ()) if has_gpus else None)
        cards = [card for _, card in answers if isinstance(card, Card) and card.name]
        smallest = min(cards, key=lambda card: card.memory, default=None)
        return Offer(self._total("CPU"), self._total("GPU") if cards else 0.0, smallest)

    def ask_nodes(
        self, ask: Callable[[bool], tuple[Callable[..., Any], tuple[Any, ...]] | None]
    ) -> Iterator[tuple[str, Any]]:
        """Run a function on every node that is alive, skipping nodes lost meanwhile.

        Args:
            ask: whether a node has GPUs -> the function and its arguments, or None to leave the node out.

        Yields:
            The node's name, and what the function returned there or the reason for its failure as text.
        """
        ray = import_ray(local=False)
        strategy = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        pending = {}
        for node in self.nodes():
            has_gpus = bool(node["Resources"].get("GPU"))
            if (asked := ask(has_gpus)) is not None:
                task = ray.remote(asked[0]).options(
                    num_cpus=0, num_gpus=GPU_SHARE if has_gpus else 0, max_retries=1,
                    scheduling_strategy=strategy(node["NodeID"], soft=False),
                )  # fmt: skip
                pending[node_name(node)] = task.remote(*asked[1])
        for name, answer in pending.items():
            try:
                yield name, ray.get(answer, timeout=NODE_SECONDS)
            except TimeoutError:
                yield name, f"it did not answer within {NODE_SECONDS:.0f} s"
            except ray.exceptions.RayError as error:
                if name in {node_name(node) for node in self.nodes()}:
                    yield name, last_line(error)

    def gpus_per_trial(self) -> float:
        """GPUs of one trial: as requested, else one if the cluster has any."""
        if self._settings.gpus_per_trial is not None:
            return self._settings.gpus_per_trial
        if self._settings.device == "cpu":
            return 0.0
        return 1.0 if self._total("GPU") else 0.0

    def slots(self) -> int:
        """Trials that fit on the cluster at a time."""
        slots = int(self._total("CPU") / self._settings.cpus_per_trial)
        if gpus := self.gpus_per_trial():
            slots = min(slots, int(self._total("GPU") / gpus))
        return max(min(slots, self._settings.max_concurrent or slots), 1)

    def check_resources(self) -> str | None:
        """A note for a cluster that is yet to grow a node that fits a trial, or None.

        Raises:
            LaunchError: only this machine runs the sweep, and no trial fits on it.
        """
        settings, gpus = self._settings, self.gpus_per_trial()
        for node in self.nodes():
            has = node["Resources"]
            if has.get("CPU", 0.0) >= settings.cpus_per_trial and has.get("GPU", 0.0) >= gpus:
                return None
        needs = f"a trial asks for {settings.cpus_per_trial:g} CPUs and {gpus:g} GPUs, but no node has them"
        if self.own:
            has = f"{self._total('CPU'):g} CPUs and {self._total('GPU'):g} GPUs"
            raise LaunchError(f"{needs}: this machine offers {has}; lower --cpus-per-trial or --gpus-per-trial")
        return f"{needs} yet: waiting for the autoscaler; without one, lower --cpus-per-trial or --gpus-per-trial"

    def _total(self, resource: str) -> float:
        return sum(float(node["Resources"].get(resource, 0.0)) for node in self.nodes())


def first_card() -> Card:
    """Runs on a node: its GPU, nameless where torch sees none."""
    return Card.here()


@dataclass(frozen=True)
class NodeReport:
    """The report of one node."""

    host: str
    versions: Mapping[str, Any]  # flatdist, and the numerics version of every method and of the sampling
    torch: str
    devices: tuple[str, ...]  # names of the CUDA devices that torch sees
    store_problem: str | None  # why the store cannot be used from there


def versions() -> dict[str, Any]:
    """Versions that must be equal on all nodes."""
    from flatdist.machine.provenance import package_version
    from flatdist.methods import METHODS
    from flatdist.sensing.ensembles import SAMPLING_VERSIONS

    numerics = {f"numerics of {name}": method.numerics_version for name, method in METHODS.items()}
    plugins = {f"plugin {plugin.name}": plugin.digest for plugin in loaded_plugins()}
    return {"flatdist": package_version("flatdist"), "sampling": max(SAMPLING_VERSIONS.values()), **numerics, **plugins}


def require_versions(expected: Mapping[str, Any]) -> None:
    """Runs in every trial: a node that joined after the sweep had started was not inspected.

    Raises:
        LaunchError: a version here differs from that where the sweep was started.
    """
    found = versions()
    for what, wanted in expected.items():
        if found.get(what) != wanted:
            raise LaunchError(
                f"{what} is {found.get(what)} on {socket.gethostname()} and {wanted} where the sweep was started; "
                "install the same version there"
            )


def inspect_node(
    store_uri: str, marker: str | None, look_for_gpus: bool, compile_steps: bool = False, plugins: Sequence[Plugin] = ()
) -> NodeReport:
    """Runs on a node: describe it, and write to and read from the store from there.

    Args:
        store_uri: the store.
        marker: a file that the driver has put into a local store and that must be visible here.
        look_for_gpus: import torch, which takes seconds, and ask it for devices.
        compile_steps: compile the fused engine into the node's cache once, so that its trials need not.
        plugins: of the driver; loaded there.
    """
    from flatdist.errors import StoreError
    from flatdist.machine.provenance import package_version
    from flatdist.store import Store

    use_plugins(plugins)
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
        raise LaunchError(f"torch is not installed on {socket.gethostname()}; {remedy('run')}")
    devices = cuda_devices() if look_for_gpus else ()
    if compile_steps and not devices:
        from flatdist.engines.fused import warm

        warm()
    return NodeReport(socket.gethostname(), versions(), torch_version, devices, problem)


def check_nodes(session: ClusterSession, store_uri: str, settings: Settings) -> list[NodeReport]:
    """Inspect every node of the cluster; returns a report for each.

    Raises:
        LaunchError: lists every problem, by node.
    """
    marker = _put_marker(store_uri)
    compiles = settings.engine in ("auto", "fused")
    try:
        answers = dict(
            session.ask_nodes(lambda gpus: (inspect_node, (store_uri, marker, gpus, compiles, settings.plugins)))
        )
    finally:
        if marker is not None:
            Path(marker).unlink(missing_ok=True)
    reports = {name: answer for name, answer in answers.items() if isinstance(answer, NodeReport)}
    problems = [f"{n}: flatdist[run] does not work there: {why}" for n, why in answers.items() if n not in reports]
    problems += find_problems(reports, versions(), store_uri, settings)
    if problems:
        for problem in problems:
            log.error("node refused: %s", problem)
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise LaunchError(f"the cluster is not ready, nothing was started:\n{lines}")
    return list(reports.values())


def node_name(node: Mapping[str, Any]) -> str:
    """How messages name a node."""
    return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:8]})"


def find_problems(
    reports: Mapping[str, NodeReport], expected: Mapping[str, Any], store_uri: str, settings: Settings
) -> list[str]:
    """The problems of nodes by name, one line per node and reason, where the driver has the ``expected`` versions."""
    problems = []
    for name, report in reports.items():
        for what, wanted in expected.items():
            found = report.versions.get(what)
            if found != wanted:
                problems.append(f"{name}: {what} is {found} there and {wanted} here; install the same version")
        if report.store_problem is not None and is_local(store_uri):
            problems.append(
                f"{name}: the store {store_uri} is a local path of {socket.gethostname()}, and {report.host} does not "
                f"share it ({report.store_problem}); use --store s3://… or gs://…, or a folder that all nodes mount"
            )
        elif report.store_problem is not None:
            problems.append(f"{name}: the store {store_uri} cannot be used from there: {report.store_problem}")
    torches = {report.torch for report in reports.values()}
    if len({torch.split("+")[0] for torch in torches}) > 1:
        problems.append(f"torch is {' and '.join(sorted(torches))}: install the same version on all nodes")
    if settings.device == "cuda" and not any(report.devices for report in reports.values()):
        problems.append("device cuda was requested, but torch sees no CUDA device on any node; use --device cpu")
    return problems


def _put_marker(store_uri: str) -> str | None:
    if not is_local(store_uri):
        return None
    marker = Path(store_uri) / f".seen-from-every-node-{uuid.uuid4().hex}"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
    except OSError as error:
        raise LaunchError(f"the store {store_uri} cannot be written: {error}; choose another with --store") from error
    return str(marker)


def last_line(error: BaseException) -> str:
    """The line of an error from Ray that says what happened there."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:ERROR_LENGTH]
