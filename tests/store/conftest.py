"""Rows, stores and an S3 endpoint on loopback for the store's tests."""

from __future__ import annotations

import datetime
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flatdist.cells.cell import Cell
from flatdist.store import Store
from flatdist.store.layout import part_path

Rows = tuple[list[dict[str, Any]], list[dict[str, Any]]]
EVALUATIONS = 3


@pytest.fixture(scope="session")
def cells() -> list[Cell]:
    return [Cell(d_out=6, d_in=5, rank=rank, n=n, steps=20) for rank in (1, 2) for n in (10, 20, 30)]


@pytest.fixture(scope="session")
def rows() -> Callable[..., Rows]:
    """Rows as a trial writes them; ``value`` tells runs apart and stands in both tables."""

    def make(cell: Cell, replicates: Any, value: float = 0.5, **extra: Any) -> Rows:
        trials = [
            {
                **cell.row(),
                "cell_id": cell.cell_id,
                "configuration_id": cell.configuration_id,
                "replicate": replicate,
                "status": "converged",
                "relative_error": value + replicate,
                "singular_values": [1.0, 0.5],
                "numerics_version": 1,
                "sampling_version": 1,
                "finished_at": datetime.datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=datetime.UTC),
                **extra,
            }
            for replicate in replicates
        ]
        history = [
            {"cell_id": cell.cell_id, "replicate": replicate, "step": 10 * step, "population_loss": value + replicate}
            for replicate in replicates
            for step in range(EVALUATIONS)
        ]
        return trials, history

    return make


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture(scope="session")
def old_form() -> Callable[..., None]:
    """Puts a part into the form of release 0.1, without digests, after a change of its trials table."""

    def convert(store: Store, name: str, change: Callable[[Any], Any] = lambda table: table) -> None:
        part = name.split("-", maxsplit=1)[0]
        for table in ("history", "trials"):
            data = store.files.read(part_path(table, name))
            if table == "trials":
                sink = pa.BufferOutputStream()
                pq.write_table(change(pq.read_table(pa.BufferReader(data))), sink, write_page_checksum=True)
                data = sink.getvalue().to_pybytes()
            store.files.write(part_path(table, part), data)
        for table in ("trials", "history"):
            store.files.delete(part_path(table, name))

    return convert


@dataclass
class Endpoint:
    """An S3 endpoint whose next requests can be made to fail, and that counts what it is asked."""

    url: str
    failures: list[int] = field(default_factory=list)  # HTTP codes of the next answers
    requests: list[str] = field(default_factory=list)
    lose_answers: int = 0  # this many requests are carried out and answered with 500


@pytest.fixture(scope="session")
def s3_server() -> Iterator[Endpoint]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    application = DomainDispatcherApplication(create_backend_app)
    endpoint = Endpoint("")

    def answer(environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"].startswith("/results-"):
            endpoint.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
            if endpoint.failures:
                code = endpoint.failures.pop(0)
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start(f"{code} Failing", [("Content-Type", "application/xml")])
                return [b"<Error><Code>InternalError</Code><Message>try again</Message></Error>"]
            if endpoint.lose_answers:
                endpoint.lose_answers -= 1
                list(application(environ, lambda *_: None))
                start("500 Lost", [("Content-Type", "application/xml")])
                return [b"<Error><Code>InternalError</Code><Message>lost</Message></Error>"]
        return application(environ, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    yield endpoint
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def s3(s3_server: Endpoint, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Endpoint]:
    """The endpoint with the environment that reaches it, and a bucket of the test's own: ``s3.bucket``."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret-very-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    yield s3_server
    s3_server.failures.clear()
    s3_server.lose_answers = 0


@pytest.fixture
def bucket(s3: Endpoint, tmp_path: Path) -> str:
    """The URI of a new bucket on the endpoint."""
    import boto3

    name = "results-" + tmp_path.name.replace("_", "-").lower()[-40:]
    client = boto3.client("s3", endpoint_url=s3.url)
    client.create_bucket(Bucket=name)
    client.close()
    s3.requests.clear()
    return f"s3://{name}"
