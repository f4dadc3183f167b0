"""The report as a live page: loopback only, behind a random token, rebuilt when the store has new rows."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from flatdist.errors import FlatdistError, LaunchError
from flatdist.figures.words import counted
from flatdist.report.material import Settings, gather
from flatdist.report.page import build
from flatdist.report.svg import Inliner
from flatdist.store import Store
from flatdist.sweeps import Sweep, open_sweep

HOSTS = ("127.0.0.1", "localhost")
REBUILD_SECONDS = 3.0
_HEADERS: Mapping[str, str] = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Watch:
    """A read-only server of one sweep's page.

    Args:
        sweep: a sweep file, or the name of a sweep recorded in the store; read once here, and for each new state.
        store: folder or URI of its rows.
        port: to listen on; 0 for a free one.
        how: the other fields of :class:`Settings`.

    Raises:
        SweepError, StoreError: the sweep cannot be read.
        LaunchError: the port is taken.
    """

    def __init__(self, sweep: str, store: str, port: int = 0, **how: Any) -> None:
        self._settings = Settings(sweep, store, **how)
        self._sweep: Sweep | None = self._open()
        self._token = secrets.token_urlsafe(16)
        self._parts: dict[str, str] = {}
        self._inliner = Inliner()
        self._version, self._state = 0, "Live: reading the store."
        self._seen: Any = None  # what tells one state of the store from another
        self._ended, self._making = threading.Event(), threading.Lock()
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        except OSError as error:
            why = error.strerror or error
            raise LaunchError(f"port {port}: {why}; give another --port, or 0 for a free one") from error
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        """Where the page is, its token included."""
        return f"http://127.0.0.1:{self._server.server_port}/{self._token}/"

    def serve(self) -> None:
        """Serve until :meth:`close`, or until interrupted."""
        threading.Thread(target=self._follow, daemon=True).start()
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._ended.set()
            self._server.server_close()

    def close(self) -> None:
        """End :meth:`serve` from another thread."""
        self._ended.set()
        self._server.shutdown()

    def refresh(self) -> bool:
        """Rebuild the page if the store has new rows; returns whether it did."""
        with self._making:
            try:
                sweep, self._sweep = self._sweep or self._open(), None
                material = gather(sweep, self._settings)
                trials, cells = material.trials, material.sweep.cells
                last = str(trials["finished_at"].max()) if len(trials) else ""
                seen = last, len(trials), len(material.history), len(material.failures), len(cells)
                if seen == self._seen:
                    return False
                parts = build(material, self._inliner)
            except (FlatdistError, OSError) as error:  # a store that cannot be read now is read again later
                self._state = f"Live: the store could not be read just now ({error}); the page keeps what it shows."
                return False
            self._version, self._parts, self._seen = self._version + 1, parts, seen
            done = counted(len(material.trials), "replicate")
            self._state = f"Live: {done} so far; new ones appear automatically."
            return True

    def _open(self) -> Sweep:
        return open_sweep(self._settings.named, Store(self._settings.store))

    def _follow(self) -> None:
        while not self._ended.is_set():
            self.refresh()
            self._ended.wait(REBUILD_SECONDS)

    def _answer(self, target: str, host: str) -> tuple[int, str, str]:
        """Status, content type and body of a request."""
        url = urlsplit(target)
        _, token, page = (*url.path.split("/", 2), "", "")[:3]
        known = secrets.compare_digest(token.encode(errors="replace"), self._token.encode())
        if host.rpartition(":")[0] not in HOSTS or not known or page not in ("", "news"):
            return 404, "text/plain", "not found"
        if page == "news":
            since = parse_qs(url.query).get("since", ["0"])[0]
            news: dict[str, Any] = {"version": self._version, "state": self._state}
            if since != str(self._version):
                news |= {name: self._parts[name] for name in ("main", "css", "data") if name in self._parts}
            return 200, "application/json", json.dumps(news)
        if not self._parts:
            return 503, "text/plain", "The page is being made; reload it in a moment."
        html = self._parts["html"].replace('data-version="VERSION"', f'data-version="{self._version}"', 1)
        return 200, "text/html", html

    def _handler(watch) -> type[BaseHTTPRequestHandler]:
        class Handler(BaseHTTPRequestHandler):
            server_version, sys_version = "flatdist", ""
            timeout = 30

            def do_GET(self) -> None:
                status, kind, text = watch._answer(self.path, self.headers.get("Host", ""))
                body = text.encode()
                self.send_response(status)
                for name, value in {**_HEADERS, "Content-Type": f"{kind}; charset=utf-8"}.items():
                    self.send_header(name, value)
                if status == 503:
                    self.send_header("Refresh", "1")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing: a token belongs in no log."""

        return Handler
