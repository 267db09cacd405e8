"""A server with the part of the Hugging Face hub's protocol that creates a repository and commits to it.

Files are kept in memory. Tensors go through git LFS's batch protocol, as on the hub; other files are in the
commit itself.
"""

import base64
import json
import threading
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

TOKEN = "hf_of_a_test"


@dataclass
class Repo:
    """A repository.

    Attributes:
        private: whether its owner alone sees it.
        files: the content of each by path.
        commits: the summary of each.
    """

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)


class HubServer:
    """A hub, served from a thread of this process.

    Attributes:
        repos: by `owner/name`.
        objects: what was uploaded through LFS, by SHA-256.
        refusing: parts of the paths that are answered with 403.
    """

    def __init__(self) -> None:
        """Listen on a free port of this machine."""
        self.repos: dict[str, Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.refusing: tuple[str, ...] = ()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.hub = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    @property
    def url(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self) -> Self:
        """Begin to serve."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop, and leave nothing that listens."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    @property
    def _hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the terminal clean."""

    def do_PUT(self) -> None:
        """Take an object that a batch request announced."""
        content = self._body()
        name = self.path.rpartition("/")[2]
        if sha256(content).hexdigest() != name:
            self._answer(400, {"error": "the content has another hash"})
            return
        self._hub.objects[name] = content
        self._answer(200, {})

    def do_POST(self) -> None:
        """Answer one call of the API."""
        body, path = self._body(), self.path.partition("?")[0]
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        elif any(part in path for part in self._hub.refusing):
            self._answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._batch(json.loads(body))
        else:
            _, kind, models, owner, name, action, branch = path.split("/")
            assert (kind, models, branch) == ("api", "models", "main"), path
            repo = self._hub.repos[f"{owner}/{name}"]
            if action == "preupload":
                self._answer(200, {"files": [_mode(file["path"]) for file in json.loads(body)["files"]]})
            else:
                assert action == "commit", path
                self._commit(f"{owner}/{name}", repo, body)

    def _create(self, wanted: dict[str, Any]) -> None:
        name = "/".join(part for part in (wanted.get("organization"), wanted["name"]) if part)
        url = {"url": f"{self._hub.url}/{name}"}
        if name in self._hub.repos:
            self._answer(409, {"error": "You already created this model repo", **url})
            return
        self._hub.repos[name] = Repo(wanted.get("private", wanted.get("visibility") == "private"))
        self._answer(200, url)

    def _batch(self, wanted: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self._hub.url}/objects/{one['oid']}"}}}
            for one in wanted["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repo: Repo, body: bytes) -> None:
        lines = [json.loads(line) for line in body.splitlines()]
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repo.commits.append(value["summary"])
            elif line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            else:
                assert line["key"] == "lfsFile", line
                repo.files[value["path"]] = self._hub.objects[value["oid"]]
        oid = f"{len(repo.commits):040x}"
        self._answer(200, {"commitOid": oid, "commitUrl": f"{self._hub.url}/{name}/commit/{oid}"})

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def _mode(path: str) -> dict[str, Any]:
    mode = "lfs" if path.endswith(".safetensors") else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False}
