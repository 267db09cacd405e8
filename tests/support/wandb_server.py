"""A small W&B server for the real client: it takes what is logged, and can misbehave.

Everything that arrived is read back from `runs` and `artifacts`. Misbehaviour begins and ends in mid-run, on
the same address: `fail`, `refuse_key`, `hang`, `slow`, `lose` and `stop` each replace what was before;
`heal` ends them all.
"""

import base64
import json
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.wandb_chaos import Chaos
from tests.support.wandb_records import Artifact, Run
from tests.support.wandb_store import Store

API_KEY = "0123456789abcdef" * 2 + "01234567"
"""40 hexadecimal characters, the only key that is let in."""


class WandbServer:
    """A server on a free port of this machine; a context manager that stops it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._port = 0
        self._http: _Http | None = None
        self._status: int | None = None
        self._where = ""
        self._times: int | None = None
        self._hanging = False
        self._delay_s = 0.0
        self._losing = False
        self.chaos: Chaos | None = None
        self.refused = 0
        """How many requests were answered with an error, or left hanging, on purpose."""
        self.asked: list[str] = []
        """Every request's method and path, and the GraphQL operations by their text."""
        self.errors: list[str] = []
        """Tracebacks of what this server itself could not do."""
        self._start()
        self.store = Store(self.url)

    @property
    def url(self) -> str:
        """What `WANDB_BASE_URL` must be; it stays the same over `stop` and `heal`."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def runs(self) -> dict[str, Run]:
        """What arrived, by run id."""
        return self.store.runs

    @property
    def artifacts(self) -> list[Artifact]:
        """Every version of every collection, in the order of their creation."""
        return self.store.artifacts

    @property
    def unknown(self) -> list[str]:
        """The operations that were answered with nothing."""
        return self.store.unknown

    def run(self, name: str) -> Run:
        """Return the only run with this display name."""
        (found,) = [run for run in self.runs.values() if run.name == name]
        return found

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 20.0) -> None:
        """Wait until something is true of what arrived.

        Raises:
            TimeoutError: it is not true after `timeout_s` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(holds, timeout_s):
                raise TimeoutError(f"not so after {timeout_s:g} s; the last requests: {self.asked[-10:]}")

    def fail(self, status: int = 500, where: str = "", times: int | None = None) -> None:
        """Answer with an error from now on, or so many times.

        Args:
            status: of the answers.
            where: only requests with this in their path, or in their GraphQL operation.
            times: behave again after so many of them.
        """
        self._misbehave(status=status, where=where, times=times)

    def refuse_key(self) -> None:
        """Let nobody in from now on."""
        self._misbehave(status=401)

    def hang(self) -> None:
        """Take requests from now on and never answer them; `heal` and `stop` cut those connections."""
        self._misbehave(hanging=True)

    def slow(self, delay_s: float) -> None:
        """Take every request from now on, and answer it so much later."""
        self._misbehave(delay_s=delay_s)

    def lose(self, where: str = "", times: int | None = None) -> None:
        """Take requests from now on and cut the connection instead of answering."""
        self._misbehave(losing=True, where=where, times=times)

    def disturb(self, chaos: Chaos) -> None:
        """Let single requests fail from now on."""
        self.chaos = chaos

    def heal(self) -> None:
        """Behave, on the same address as before."""
        self.chaos = None
        self._misbehave()
        if self._http is None:
            self._start()

    def stop(self) -> None:
        """Refuse and cut connections from now on."""
        http, self._http = self._http, None
        self._misbehave()
        if http is not None:
            http.shutdown()
            http.server_close()
            http.cut()

    def __enter__(self) -> "WandbServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def take(self, method: str, path: str, key: str, body: bytes) -> tuple[int, Any] | None:
        """Return status and answer to one request; `None` if there is none to be given."""
        with self._changed:
            if path.startswith("/sdk/otel/"):
                return 200, {}
            self.asked.append(f"{method} {path}")
            self._changed.notify_all()
            if self._hanging:
                self.refused += 1
                self._changed.wait_for(lambda: not self._hanging)
                return None
            if self._status is not None and self._fails(path, body):
                status = self._status
                self._count()
                return status, _errors(status)
            if self._delay_s:
                self._changed.wait_for(lambda: not self._delay_s, self._delay_s)
            if key != API_KEY and not path.startswith("/storage/"):
                return 401, _errors(401)
            if self._losing and self._fails(path, body):
                self._answer(method, path, body)
                self._count()
                return None
            # Whoever waits is woken when the lock is given back: after the request was taken.
            return self._answer(method, path, body)

    def _answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/graphql":
            told = json.loads(body)
            self.asked[-1] = told["query"]
            return 200, {"data": self.store.graphql(told["query"], told.get("variables") or {})}
        if method == "POST" and path.endswith("/file_stream"):
            return 200, self.store.stream(path.split("/")[-2], json.loads(body))
        if method == "PUT" and path.startswith("/storage/"):
            self.store.upload(path, body)
            return 200, {}
        self.store.unknown.append(f"{method} {path}")
        return 404, _errors(404)

    def _count(self) -> None:
        self.refused += 1
        if self._times is not None:
            self._times -= 1
            if self._times == 0:
                self._misbehave()

    def _fails(self, path: str, body: bytes) -> bool:
        return self._where in path or (path == "/graphql" and self._where.encode() in body)

    def _misbehave(
        self,
        status: int | None = None,
        where: str = "",
        hanging: bool = False,
        times: int | None = None,
        delay_s: float = 0.0,
        losing: bool = False,
    ) -> None:
        with self._changed:
            self._status, self._where, self._hanging, self._times = status, where, hanging, times
            self._delay_s, self._losing = delay_s, losing
            self._changed.notify_all()

    def _start(self) -> None:
        self._http = _Http(("127.0.0.1", self._port), self)
        self._port = self._http.server_port
        threading.Thread(
            target=self._http.serve_forever, args=(0.02,), name="wandb-server", daemon=True
        ).start()


class _Http(ThreadingHTTPServer):
    """Threads that nobody waits for, and connections that can be cut."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], server: WandbServer) -> None:
        self.wandb = server
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of connections that were cut; anything else is a defect of this server."""
        if not isinstance(sys.exception(), OSError):
            self.wandb.errors.append(traceback.format_exc())

    def cut(self) -> None:
        for connection in list(self._open):
            self.shutdown_request(connection)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Http

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, *_: Any) -> None:
        """Keep the tests' output clean."""

    def _serve(self) -> None:
        body = self._body()
        path = unquote(urlsplit(self.path).path)
        chaos = self.server.wandb.chaos
        fault = chaos.draw(path, body) if chaos else ""
        if chaos and fault in ("hang", "slow"):
            time.sleep(chaos.hold_s)
        if fault in ("hang", "refuse"):
            self.close_connection = True
            return
        status = int(fault) if fault.isdigit() else None
        taken = None if status else self.server.wandb.take(self.command, path, self._key(), body)
        answer = (status, _errors(status)) if status else taken
        if answer is None or fault == "lose":
            self.close_connection = True
            return
        content = json.dumps(answer[1]).encode()
        self.send_response(answer[0])
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            if len(body) < length:
                raise ConnectionAbortedError("the client left in the middle of a request")
            return body
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _key(self) -> str:
        told = self.headers.get("Authorization", "").removeprefix("Basic ")
        return base64.b64decode(told).decode().partition(":")[2]


def _errors(status: int) -> dict[str, Any]:
    said = {401: "user is not logged in", 404: "not found"}.get(status, "broken on purpose")
    return {"errors": [{"message": said}]}
