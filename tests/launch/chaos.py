"""Torment drivers of a sweep in every way that a machine may, and compare what they leave with an undisturbed run.

    python tests/launch/chaos.py --faults folder=400,s3=80,ray=20

- ``folder``: three drivers share a sweep in a folder, while another process compacts, collects garbage and merges
  without pause. Faults: ``kill`` and ``stop`` (SIGSTOP for longer than a driver may be silent, so that its work is
  taken over, then SIGCONT) of any of the four; ``full`` and ``read-only``: all writing fails for a while; ``clock``:
  the time that every process and the storage see jumps by hours, either way.
- ``s3``: the same on an S3 endpoint on loopback that fails: ``error`` (500 or 503), ``lost`` (carried out, and answered
  with 500), ``slow``, ``cut`` (the upload ends in its middle), ``short`` (the download does), and ``kill``.
- ``ray``: a cluster of a head and two nodes, and a driver: ``worker``, ``stopped worker``, ``driver``, ``node`` (its
  raylet) and ``gcs`` (the head's, and with it the cluster) are killed, and started again.

A sweep that ends before the last fault is followed by another in a fresh store. The trials and history of each must
equal an undisturbed run's in every result column, bit for bit, with no key missing and none twice; then the script ends
with status 0. Only processes that it started are touched.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

    from flatdist.cells.cell import Cell
    from flatdist.store import Store

FOLDER = ("kill", "kill", "stop", "stop", "full", "read-only", "clock", "clock")
S3 = ("error", "error", "lost", "slow", "cut", "short", "kill")
RAY = ("worker", "worker", "stopped worker", "driver", "node", "gcs")
MEASURED = ("wall_seconds", "finished_at", "host", "git_sha", "git_dirty")  # may differ between two runs
NOT_TRIALS = (b"IDLE", b"Agent", b"Monitor")  # a node dies with its agents, and dying nodes are counted as such
PATIENCE = 600.0  # seconds without any of the wanted progress after which the script gives up
SILENCE = 1.2  # seconds after which a driver counts as dead here
DRIVERS = 3
RAY_STARTS = 5
GCS_PATIENCE = 300.0  # seconds until a driver whose control service died has ended; Ray alone waits for 60
MISSING, CRASHED = 75, 70  # statuses of a process


def make_cells(count: int, steps: int) -> list[Cell]:
    """Small cells with different numbers of measurements."""
    from flatdist.cells.cell import Cell

    return [
        Cell(d_out=8, d_in=8, rank=1 + i % 2, n=20 + i, steps=steps, evaluations=8, learning_rate=0.02)
        for i in range(count)
    ]


def drive(options: argparse.Namespace, executor: str, store: str) -> int:
    """Run what is missing; returns the exit code."""
    from flatdist.launch import launch
    from flatdist.planning import Settings, make_plan
    from flatdist.store import Store
    from flatdist.sweeps import Sweep

    cells = make_cells(options.cells, options.steps)
    sweep = Sweep(name="chaos", description="", replicates=options.replicates, cells=tuple(cells), source="", path=None)
    plan = make_plan([sweep], Store(store), Settings(slots=2, retry_failed=True))
    settings = Settings(
        executor,
        address=options.address,
        checkpoint_seconds=0.5,
        flush_seconds=1.0,
        same_error_limit=10**6,
        gpus_per_trial=0,
    )
    status = launch(plan, store, settings=settings, display="plain").exit_code
    done = Store(store).done(thorough=True)
    missing = any(len(done.get(cell.cell_id, ())) < options.replicates for cell in cells)
    return status or (MISSING if missing else 0)  # another driver may have been left with the last of it


class Children:
    """Processes forked from this one, each running one function."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._pids: list[int] = []

    def start(self, do: Callable[[], int]) -> int:
        """Run a function in a process of its own, whose status is what it returns; returns the process id."""
        pid = os.fork()
        if pid:
            self._pids.append(pid)
            return pid
        from flatdist.errors import FlatdistError

        status = CRASHED
        try:
            handle = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            status = do()
        except FlatdistError as error:  # what a user would be told
            print(f"error: {error}")
            status = 2
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def ended(self, pid: int) -> int | None:
        """Status of a child, None while it runs; asked once."""
        found, status = os.waitpid(pid, os.WNOHANG)
        if found == 0:
            return None
        self._pids.remove(pid)
        return os.waitstatus_to_exitcode(status)

    def run(self, do: Callable[[], int]) -> int:
        """Run a function in a process of its own, and wait for its end."""
        pid = self.start(do)
        self._pids.remove(pid)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def end(self, *pids: int) -> None:
        """Kill children, by default all."""
        for pid in pids or tuple(self._pids):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            self._pids.remove(pid)


class Weather:
    """What disturbs all processes at once, in memory that they share."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self.error: Synchronized[int] = context.Value("i", 0)  # errno of everything that writes; 0 for none
        self.clock: Synchronized[float] = context.Value("d", 0.0)  # seconds that the clocks are ahead
        self.requests = {kind: context.Value("i", 0) for kind in S3}  # next requests that fail so

    def come(self) -> None:
        """Let this process feel it, and drivers take each other for dead soon."""
        from flatdist.store import drivers, filesystem

        weather, real = self, time.time
        time.time = lambda: real() + weather.clock.value

        class Disturbed(filesystem.SystemCalls):
            def __getattribute__(self, name: str) -> Any:
                call = super().__getattribute__(name)

                def disturbed(*arguments: Any, **named: Any) -> Any:
                    problem = weather.error.value
                    if name == "write" and problem == errno.ENOSPC:
                        call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                    if problem and name not in (("close",) if problem == errno.EROFS else ("close", "unlink")):
                        raise OSError(problem, os.strerror(problem))
                    answer = call(*arguments, **named)
                    if name in ("replace", "link") and weather.clock.value:
                        with contextlib.suppress(FileNotFoundError):
                            os.utime(arguments[1], (time.time(), time.time()), dir_fd=named["dst_dir_fd"])
                    return answer

                return disturbed

        filesystem.SystemCalls = Disturbed  # type: ignore[misc]
        drivers.BEAT_SECONDS, drivers.LEASE_SECONDS, drivers.BUSY_LEASES = SILENCE / 6, SILENCE / 2, 2
        drivers.AT_THE_END = 4


def housekeep(store: str, other: str, pause: float) -> int:
    """Compact, collect garbage and merge without end; a store that fails now is tried again."""
    from flatdist.errors import StoreError
    from flatdist.store import Store

    warnings.simplefilter("ignore")
    grace = 2.0  # a clock that jumps makes any grace short
    actions: tuple[Callable[[Store], object], ...] = (
        lambda one: one.compact(grace),
        lambda one: one.merge(other),
        lambda one: one.gc(grace),
    )
    for action in itertools.cycle(actions):
        with contextlib.suppress(StoreError):
            action(Store(store))
        time.sleep(pause)
    raise AssertionError


def storm(
    options: argparse.Namespace, kinds: list[str], weather: Weather, children: Children, store: str
) -> Counter[str]:
    """Run the sweep to its end with three drivers while disturbing them; ``kinds`` are used up from the front.

    Returns:
        How often each kind happened.
    """
    chance, counts = random.Random(f"{options.seed} {len(kinds)}"), Counter[str]()

    def driver() -> int:
        weather.come()
        return drive(options, "inline", store)

    def keeper() -> int:
        weather.come()
        return housekeep(store, options.other, 0.05)

    roles = [driver] * DRIVERS + [keeper]
    running = {children.start(role): role for role in roles}
    stopped: dict[int, float] = {}
    deadline = time.monotonic() + PATIENCE
    calm = next_fault = time.monotonic() + 2 * options.interval
    while True:
        time.sleep(0.02)
        now = time.monotonic()
        if now > deadline:
            raise TimeoutError("the sweep has not ended")
        for pid in list(running):
            status = children.ended(pid)
            if status is not None:
                role = running.pop(pid)
                stopped.pop(pid, None)
                if status == CRASHED:
                    raise AssertionError(f"a process ended with a traceback: {options.folder / 'log.txt'}")
                if status == 0:  # nothing is missing
                    children.end()
                    return counts
                running[children.start(role)] = role
        for pid in [one for one, until in stopped.items() if now > until]:
            os.kill(pid, signal.SIGCONT)
            del stopped[pid]
        if now > calm:
            weather.error.value = 0
        if not kinds:
            weather.clock.value = 0.0
        elif now > next_fault:
            kind = kinds.pop(0)
            counts[kind] += 1
            if kind == "kill":
                victim = chance.choice(list(running))
                role = running.pop(victim)
                stopped.pop(victim, None)
                children.end(victim)
                running[children.start(role)] = role
            elif kind == "stop":
                victim = chance.choice(list(running))
                os.kill(victim, signal.SIGSTOP)
                stopped[victim] = now + chance.uniform(0.5, 2.5) * SILENCE
            elif kind == "clock":
                weather.clock.value = 3600.0 * chance.uniform(-6.0, 6.0)
            elif kind in ("full", "read-only"):
                weather.error.value = errno.ENOSPC if kind == "full" else errno.EROFS
                calm = now + chance.expovariate(2.0 / options.interval)
            else:
                with weather.requests[kind].get_lock():
                    weather.requests[kind].value += 1
            next_fault = now + chance.expovariate(1.0 / options.interval)


def serve(weather: Weather, port: Synchronized[int]) -> int:
    """An S3 endpoint on loopback that fails as the weather says."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = DomainDispatcherApplication(create_backend_app)

    def due(kind: str) -> bool:
        with weather.requests[kind].get_lock():
            found = weather.requests[kind].value > 0
            weather.requests[kind].value -= found
        return bool(found)

    def answer(environ: dict[str, Any], start: Any) -> Any:
        method, size = environ["REQUEST_METHOD"], int(environ.get("CONTENT_LENGTH") or 0)
        if due("slow"):
            time.sleep(2.0)
        if due("error"):
            environ["wsgi.input"].read(size)
            start(random.choice(["500 Failing", "503 Slow Down"]), [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>try again</Message></Error>"]
        if method == "PUT" and size > 1 and due("cut"):
            environ["wsgi.input"].read(size // 2)
            raise ConnectionAbortedError
        if method in ("PUT", "DELETE") and due("lost"):
            list(application(environ, lambda *_: None))
            start("500 Lost", [("Content-Type", "application/xml")])
            return [b"<Error><Code>InternalError</Code><Message>lost</Message></Error>"]
        body = application(environ, start)
        if method == "GET" and due("short"):
            whole = b"".join(body)
            return [whole[: len(whole) // 2]]  # fewer bytes than the header says
        return body

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.0"  # every connection ends with its answer, be it whole or not

        def log(self, *_: Any) -> None:
            pass

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    port.value = server.server_port
    server.serve_forever()
    return 0


@contextlib.contextmanager
def endpoint(weather: Weather, log: Path) -> Iterator[Callable[[int], str]]:
    """A failing S3 endpoint; gives a function that makes a bucket and returns its URI."""
    import boto3

    port: Synchronized[int] = multiprocessing.get_context("fork").Value("i", 0)
    children = Children(log)
    children.start(lambda: serve(weather, port))
    try:
        while not port.value:
            time.sleep(0.1)
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port.value}",
            "AWS_ACCESS_KEY_ID": "chaos",
            "AWS_SECRET_ACCESS_KEY": "chaos",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

        def bucket(number: int) -> str:
            client = boto3.client("s3")
            client.create_bucket(Bucket=f"chaos-{number}")
            client.close()
            return f"s3://chaos-{number}/store"

        yield bucket
    finally:
        children.end()


class Victim:
    """A cluster of a head and two nodes, and a driver, all of which can be killed."""

    def __init__(self, options: argparse.Namespace, store: str, log: Path) -> None:
        self._options = options
        self._store = store
        self._log = log.open("a")
        self._driver: subprocess.Popen[bytes] | None = None
        self._stopped: dict[int, float] = {}
        self._start_cluster()

    def _start_cluster(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "include_dashboard": False}
        self._cluster = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        self._nodes = [self._new_node(), self._new_node()]

    def _new_node(self) -> Any:
        return patiently(lambda: self._cluster.add_node(num_cpus=1))

    def start_driver(self) -> None:
        """Start the driver, again if need be."""
        options = self._options
        command = [sys.executable, __file__, "--drive", self._store, "--address", self._cluster.address]
        for name in ("cells", "steps", "replicates"):
            command += [f"--{name}", str(getattr(options, name))]
        self._driver = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def driver_status(self) -> int | None:
        """Exit code of the driver, None while it runs."""
        assert self._driver is not None
        return self._driver.poll()

    def hurt(self, kind: str, chance: random.Random) -> bool:
        """Kill or stop something of a kind; returns whether there was anything."""
        assert self._driver is not None
        if kind == "driver":
            self._driver.kill()
            self._driver.wait()
        elif kind == "gcs":
            self._cluster.head_node.all_processes["gcs_server"][0].process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._driver.wait(timeout=GCS_PATIENCE)
            status = self._driver.poll()
            if status not in (0, 1):
                raise AssertionError(f"a driver whose GCS died ended with {status}")
            self._cluster.shutdown()
            self._start_cluster()
        elif kind == "node":
            node = chance.choice(self._nodes)
            self._cluster.remove_node(node, allow_graceful=False)
            self._nodes.remove(node)
            self._nodes.append(self._new_node())
        else:
            workers = [pid for node in self._nodes for pid in busy_workers(raylet_pid(node))]
            if not workers:
                return False
            victim = chance.choice(workers)
            os.kill(victim, signal.SIGKILL if kind == "worker" else signal.SIGSTOP)
            if kind != "worker":
                self._stopped[victim] = time.monotonic() + 3.0
        return True

    def mend(self) -> None:
        """Replace nodes that died by themselves, as on a busy machine, and wake workers that have slept enough."""
        for pid in [one for one, until in self._stopped.items() if time.monotonic() > until]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
            del self._stopped[pid]
        for node in list(self._nodes):
            if node.all_processes["raylet"][0].process.poll() is not None:
                self._cluster.remove_node(node, allow_graceful=False)
                self._nodes.remove(node)
                self._nodes.append(self._new_node())

    def close(self) -> None:
        """End the driver and the cluster."""
        if self._driver is not None and self._driver.poll() is None:
            self._driver.kill()
            self._driver.wait()
        self._cluster.shutdown()
        self._log.close()


def patiently(start: Callable[[], Any]) -> Any:
    """Start something of Ray, which gives up after 30 s on a busy machine."""
    for _ in range(RAY_STARTS - 1):
        with contextlib.suppress(Exception):  # a bare one
            return start()
    return start()


def raylet_pid(node: Any) -> int:
    """Process id of a node's raylet."""
    return int(node.all_processes["raylet"][0].process.pid)


def busy_workers(raylet: int) -> list[int]:
    """Worker processes of a raylet that hold an actor: the trials."""
    busy = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                title = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if parent == raylet and title.startswith(b"ray::") and not any(other in title for other in NOT_TRIALS):
                busy.append(int(entry.name))
    return busy


def torment(options: argparse.Namespace, kinds: list[str], store: str, log: Path) -> Counter[str]:
    """Run the sweep to its end on Ray while killing; ``kinds`` are used up from the front.

    Returns:
        How often each kind happened.
    """
    chance, counts = random.Random(options.seed), Counter[str]()
    victim = Victim(options, store, log)
    try:
        victim.start_driver()
        deadline = time.monotonic() + PATIENCE
        while True:
            next_fault = time.monotonic() + chance.expovariate(0.1 / options.interval)
            while victim.driver_status() is None and (not kinds or time.monotonic() < next_fault):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"the sweep has not ended, see {log}")
                time.sleep(0.1)
                victim.mend()
            status = victim.driver_status()
            if status == 0:
                return counts
            if status is not None:  # it may end with failures: what died four times counts as one
                victim.mend()
                victim.start_driver()
                continue
            if kinds and victim.hurt(kinds[0], chance):
                counts[kinds.pop(0)] += 1
                deadline = time.monotonic() + PATIENCE
    finally:
        victim.close()


def results(store: str) -> dict[str, pd.DataFrame]:
    """The tables without what may differ between two runs."""
    from flatdist.store import Store

    opened = Store(store)
    return {"trials": opened.trials().drop(columns=list(MEASURED)), "history": opened.history()}


def differences(found: pd.DataFrame, wanted: pd.DataFrame) -> list[str]:
    """What distinguishes two tables, in words; empty if nothing does."""
    keys = [name for name in ("cell_id", "replicate", "step") if name in wanted]
    problems = []
    if found.duplicated(keys).any():
        problems.append(f"{int(found.duplicated(keys).sum())} keys are there twice")
    if len(found) != len(wanted) or not found[keys].equals(wanted[keys]):
        problems.append(f"{len(found)} rows instead of {len(wanted)}, or other keys")
        return problems
    for column in wanted.columns:
        left, right = found[column].astype(object), wanted[column].astype(object)
        same = [repr(a) == repr(b) for a, b in zip(left, right, strict=True)]
        if not all(same):
            problems.append(f"column {column} differs in {same.count(False)} rows")
    return problems


def compare(store: str, undisturbed: str) -> int:
    """Print in which result columns two stores differ; damage is a difference too."""
    warnings.simplefilter("error")
    found, wanted = results(store), results(undisturbed)
    problems = [f"{name}: {text}" for name in wanted for text in differences(found[name], wanted[name])]
    print(f"{store} differs:", *problems, sep="\n") if problems else None
    return bool(problems)


def some(options: argparse.Namespace) -> int:
    """Write a store with a few of the replicates, for merging."""
    from flatdist.store import Store

    options.cells, options.replicates = max(1, options.cells // 4), 1
    status = drive(options, "inline", options.other)
    Store(options.other).compact()
    return status


def main(arguments: list[str] | None = None) -> int:
    """Run the script; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", default="folder=400,s3=80,ray=20", help="how many of which storm")
    parser.add_argument("--kinds", help="these faults in this order, instead of random ones, for the one storm named")
    parser.add_argument("--cells", type=int, default=24)
    parser.add_argument("--replicates", type=int, default=2)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--interval", type=float, help="mean seconds between faults; by default what the machine bears")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep stores and logs here")
    parser.add_argument("--drive", metavar="STORE", help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.drive:
        return drive(options, "ray", options.drive)

    import flatdist.launch  # so that those who are forked need not
    import flatdist.planning
    import flatdist.sweeps  # noqa: F401

    chance = random.Random(options.seed)
    storms = {name: int(count or 0) for name, _, count in (one.partition("=") for one in options.faults.split(","))}
    with tempfile.TemporaryDirectory(prefix="flatdist-chaos-") as scratch, contextlib.ExitStack() as stack:
        folder = options.folder = options.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        undisturbed, options.other = str(folder / "undisturbed"), str(folder / "other")
        weather, children = Weather(), Children(folder / "log.txt")
        stack.callback(children.end)
        begun = time.monotonic()
        if children.run(lambda: drive(options, "inline", undisturbed)) or children.run(lambda: some(options)):
            raise AssertionError(f"the undisturbed run failed, see {folder / 'log.txt'}")
        undisturbed_seconds = time.monotonic() - begun
        options.interval = options.interval or max(0.2, undisturbed_seconds / 25)
        print(f"undisturbed: {undisturbed_seconds:.0f} s; a fault every {options.interval:.1f} s", flush=True)
        wrong = 0
        for name, count in storms.items():
            every = {"folder": FOLDER, "s3": S3, "ray": RAY}[name]
            kinds = options.kinds.split(",") if options.kinds else [chance.choice(every) for _ in range(count)]
            begun, total, sweeps = time.monotonic(), Counter[str](), 0
            if name == "ray":
                os.environ["RAY_AUTH_MODE"] = "disabled"  # a private cluster on loopback; no token in the user's home
                from flatdist.machine.environment import import_ray

                import_ray(local=True)
            bucket = stack.enter_context(endpoint(weather, folder / "endpoint.txt")) if name == "s3" else None
            while kinds:
                store = bucket(sweeps) if bucket else str(folder / f"{name}-{sweeps}")
                if name == "ray":
                    total += torment(options, kinds, store, folder / f"driver-{sweeps}.log")
                else:
                    total += storm(options, kinds, weather, children, store)
                if name == "ray":  # whose threads would not survive a fork
                    wrong += compare(store, undisturbed)
                else:
                    wrong += bool(children.run(lambda store=store: compare(store, undisturbed)))
                sweeps += 1
                done = f"{name}: {total.total()} faults over {sweeps} sweeps in {time.monotonic() - begun:.0f} s"
                print(f"{done}, {wrong} differ", flush=True)
            print(f"{name}: " + ", ".join(f"{count} x {kind}" for kind, count in sorted(total.items())), flush=True)
        print(f"every result column equal: {not wrong}")
        if wrong:
            print((folder / "log.txt").read_text()[-5000:])
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
