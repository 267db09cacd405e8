"""An object store that speaks the S3 protocol over HTTP, as far as a client needs it, with faults on demand.

Objects are kept in memory. A PUT replaces an object atomically; listing is strongly consistent, as S3's is.
Signatures are not checked. Set `LORATUNE_TEST_S3` to the URL of another server, for example MinIO, to run the
tests that need no faults against it.
"""

import hashlib
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "bucket"
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
"""The environment that a client needs."""
_LISTED_AT_MOST = 1000
_CODES = {403: "AccessDenied", 500: "InternalError", 503: "ServiceUnavailable"}


@dataclass
class _Object:
    content: bytes
    changed: float = field(default_factory=time.time)

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.content).hexdigest()}"'


class S3Server:
    """One bucket, served from a thread of this process.

    Attributes:
        objects: by key.
        requests: method and key of each request that was answered, in order.
        failing: the HTTP status that every request is answered with; `None`: as it should be.
        delay_s: how long every answer takes, in seconds.
    """

    def __init__(self, host: str = "127.0.0.1") -> None:
        """Listen on a free port of an address of this machine."""
        self.objects: dict[str, _Object] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.failing: int | None = None
        self.delay_s = 0.0
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer((host, 0), _Handler)
        self._http.daemon_threads = True
        self._http.store = self  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> "S3Server":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    @property
    def address(self) -> str:
        """Host and port."""
        host, port, *_ = self._http.server_address
        return f"{host!s}:{port}"

    def uri(self, path: str) -> str:
        """Return the URI of a path in the bucket."""
        return f"s3://{BUCKET}/{path}?endpoint_override={self.address}&scheme=http"

    def keys(self, prefix: str = "") -> list[str]:
        """Return the keys of all objects under a prefix, sorted, markers of folders left out."""
        with self.lock:
            return sorted(key for key in self.objects if key.startswith(prefix) and not key.endswith("/"))

    @contextmanager
    def outage(self, status: int = 503) -> Iterator[None]:
        """Answer every request with an error inside the `with` block."""
        self.failing = status
        try:
            yield
        finally:
            self.failing = None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Any

    def handle_expect_100(self) -> bool:
        """Let the client send its body at once; what is buffered it would wait for."""
        proceed = super().handle_expect_100()
        self.wfile.flush()
        return proceed

    def log_message(self, format: str, *values: Any) -> None:
        pass

    def _answer(self) -> None:
        store: S3Server = self.server.store
        body = self._body()
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if store.delay_s:
            time.sleep(store.delay_s)
        if store.failing is not None:
            self._error(store.failing, _CODES[store.failing])
            return
        if bucket != BUCKET:
            self._error(404, "NoSuchBucket")
            return
        with store.lock:
            store.requests.append((self.command, key))
            if key:
                getattr(self, f"_{self.command.lower()}")(store, key, query, body)
            else:
                self._bucket(store, query, body)

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _answer

    def _bucket(self, store: S3Server, query: dict[str, str], body: bytes) -> None:
        if self.command == "POST" and "delete" in query:
            for element in ElementTree.fromstring(body).iter():
                if element.tag.endswith("Key"):
                    store.objects.pop(str(element.text), None)
            self._xml("DeleteResult", "")
        elif self.command == "GET" and "list-type" in query:
            self._list(store, query)
        else:
            self._send(200, b"")

    def _list(self, store: S3Server, query: dict[str, str]) -> None:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        after = query.get("continuation-token", query.get("start-after", ""))
        most = min(int(query.get("max-keys", _LISTED_AT_MOST)), _LISTED_AT_MOST)
        entries: dict[str, str] = {}
        for key in sorted(store.objects):
            if not key.startswith(prefix):
                continue
            head, found, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            name = f"{prefix}{head}{delimiter}" if found else key
            if name <= after or name in entries:
                continue
            one = store.objects[key]
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(one.changed))
            entries[name] = (
                f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
                if found
                else f"<Contents><Key>{escape(key)}</Key><LastModified>{stamp}.000Z</LastModified>"
                f"<ETag>{escape(one.etag)}</ETag><Size>{len(one.content)}</Size></Contents>"
            )
        page = list(entries)[:most]
        more = len(entries) > most
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        self._xml(
            "ListBucketResult",
            f"<Name>{BUCKET}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            + "".join(entries[name] for name in page),
        )

    def _put(self, store: S3Server, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploadId" in query:
            store.uploads[query["uploadId"]][int(query["partNumber"])] = body
            self._send(200, b"", ETag=_Object(body).etag)
            return
        if source := self.headers.get("x-amz-copy-source"):
            copied = store.objects.get(unquote(source).lstrip("/").partition("/")[2])
            if copied is None:
                self._error(404, "NoSuchKey")
                return
            store.objects[key] = _Object(copied.content)
            self._xml("CopyObjectResult", f"<ETag>{escape(copied.etag)}</ETag>")
            return
        store.objects[key] = _Object(body)
        self._send(200, b"", ETag=store.objects[key].etag)

    def _post(self, store: S3Server, key: str, query: dict[str, str], body: bytes) -> None:
        if "uploads" in query:
            upload = uuid.uuid4().hex
            store.uploads[upload] = {}
            self._xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")
        else:
            parts = store.uploads.pop(query["uploadId"])
            store.objects[key] = _Object(b"".join(parts[number] for number in sorted(parts)))
            self._xml("CompleteMultipartUploadResult", f"<ETag>{escape(store.objects[key].etag)}</ETag>")

    def _get(self, store: S3Server, key: str, query: dict[str, str], body: bytes) -> None:
        one = store.objects.get(key)
        if one is None:
            self._error(404, "NoSuchKey")
            return
        headers = {"ETag": one.etag, "Last-Modified": formatdate(one.changed, usegmt=True)}
        span = self.headers.get("Range")
        if span is None:
            self._send(200, one.content, **headers)
            return
        first, _, last = span.removeprefix("bytes=").partition("-")
        end = min(int(last) + 1 if last else len(one.content), len(one.content))
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{len(one.content)}"
        self._send(206, one.content[int(first) : end], **headers)

    _head = _get

    def _delete(self, store: S3Server, key: str, query: dict[str, str], body: bytes) -> None:
        store.objects.pop(key, None)
        self._send(204, b"")

    def _body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            raw = b"".join(iter(self._chunk, b""))
        else:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "aws-chunked" not in self.headers.get("Content-Encoding", ""):
            return raw
        content = b""
        while raw:
            size, _, raw = raw.partition(b"\r\n")
            length = int(size.partition(b";")[0], 16)
            if not length:
                break
            content, raw = content + raw[:length], raw[length + 2 :]
        return content

    def _chunk(self) -> bytes:
        content = self.rfile.read(int(self.rfile.readline().strip() or b"0", 16))
        self.rfile.readline()
        return content

    def _xml(self, name: str, inner: str) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{inner}</{name}>'
        self._send(200, text.encode(), **{"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        text = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>-</Message></Error>'
        self._send(status, text.encode(), **{"Content-Type": "application/xml"})

    def _send(self, status: int, content: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
