"""A real S3 server (moto), and a proxy in front of it that fails as networks and services do."""

from __future__ import annotations

import http.client
import logging
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@pytest.fixture(scope="session")
def moto_port() -> Iterator[int]:
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    yield server.get_host_and_port()[1]
    server.stop()


@dataclass
class Proxy:
    """`faults` hold functions (method, path, how many requests before) -> what happens; the first that says so does.

    A number is a status to answer with; "hang": no answer; "cut": the connection breaks in the middle of the
    request's body; "lost": the server does it and its answer never arrives; "expired": as S3 says it.
    """

    port: int = 0
    faults: list[Callable[[str, str, int], object]] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    struck: int = 0
    release: threading.Event = field(default_factory=threading.Event)

    def fate(self, method: str, path: str) -> object:
        before = len(self.requests)
        self.requests.append((method, path))
        for fault in self.faults:
            if (what := fault(method, path, before)) is not None:
                self.struck += 1
                return what
        return None


@pytest.fixture
def proxy(moto_port) -> Iterator[Proxy]:
    state = Proxy()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *words: object) -> None:
            pass

        def forward(self) -> None:
            fate = state.fate(self.command, self.path)
            length = int(self.headers.get("Content-Length") or 0)
            if fate == "hang":
                state.release.wait(30)
                self.close_connection = True
                return
            if fate == "cut":
                self.rfile.read(length // 2)
                self.connection.close()
                self.close_connection = True
                return
            body = self.rfile.read(length)
            if isinstance(fate, int) or fate == "expired":
                self.answer(*((fate, b"<Error><Message>no</Message></Error>") if fate != "expired" else (400, EXPIRED)))
                return
            upstream = http.client.HTTPConnection("127.0.0.1", moto_port, timeout=20)
            upstream.request(self.command, self.path, body, dict(self.headers))
            answer = upstream.getresponse()
            content = answer.read()
            upstream.close()
            if fate == "lost":
                self.connection.close()
                self.close_connection = True
                return
            kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in ("transfer-encoding", "connection")]
            self.answer(answer.status, content, kept)

        def answer(self, status: int, content: bytes, headers: list[tuple[str, str]] | None = None) -> None:
            self.send_response_only(status)
            headers = headers or []
            if not any(name.lower() == "content-length" for name, _ in headers):
                headers = [*headers, ("Content-Length", str(len(content)))]
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = forward

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *words: object) -> None:
            pass  # a client that gave up

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    state.port = server.server_address[1]
    yield state
    state.release.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def bucket(moto_port, proxy, tmp_path, monkeypatch) -> str:
    """s3://<bucket>/lab, reached through the proxy with ordinary environment variables; patience is three seconds."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "INLEARN_RUNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("INLEARN_CACHE", str(tmp_path / "here"))
    monkeypatch.setenv("INLEARN_STORAGE_PATIENCE", "3")
    name = f"test-{uuid.uuid4().hex[:12]}"
    connection = http.client.HTTPConnection("127.0.0.1", moto_port, timeout=10)
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()
    return f"s3://{name}/lab"
