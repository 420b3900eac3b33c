"""A Hugging Face Hub on this machine: one model, and every kind of bad day."""

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_a_test"
LARGE = (".safetensors", ".pth")
"""Kept outside of git, on another host, as on the Hub."""


@dataclass(slots=True)
class FakeHub:
    """What it has, what goes wrong, and what it was asked for."""

    folder: Path
    repository: str = "someone/speaker"
    address: str = ""
    storage_address: str = ""
    """The same server under another name."""
    refusal: tuple[int, str] | None = None
    """Status and error code of every answer about the model."""
    needs_token: bool = False
    knows_ranges: bool = True
    cut_after: dict[str, int] = field(default_factory=dict)
    """Bytes of a path after which its next connection breaks."""
    damaged: Counter[str] = field(default_factory=Counter)
    """How many more times a path is sent with a wrong byte."""
    failing: Counter[str] = field(default_factory=Counter)
    """How many more times a path is answered with 503, once its connection has been cut."""
    num_bytes: Counter[str] = field(default_factory=Counter)
    """Sent, by path."""
    num_requests: int = 0
    storage_authorizations: list[str | None] = field(default_factory=list)

    def described(self) -> dict[str, object]:
        """The model as the API describes it."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {
            "id": self.repository,
            "sha": COMMIT,
            "siblings": [self._described_file(path) for path in files],
        }

    def _described_file(self, path: Path) -> dict[str, object]:
        content = path.read_bytes()
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        name = path.relative_to(self.folder).as_posix()
        stated = {"rfilename": name, "size": len(content), "blobId": blob}
        if name.endswith(LARGE):
            sha256 = hashlib.sha256(content).hexdigest()
            stated["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
        return stated


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer as the Hub does."""
        hub = self.hub
        hub.num_requests += 1
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/storage/"):
            hub.storage_authorizations.append(self.headers.get("Authorization"))
            self._send_file(path.removeprefix("/storage/"))
        elif hub.refusal is not None:
            self._send(hub.refusal[0], b"{}", {"X-Error-Code": hub.refusal[1]})
        elif hub.needs_token and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif path == f"/api/models/{hub.repository}/revision/main":
            self._send(200, json.dumps(hub.described()).encode())
        elif path.startswith(f"/api/models/{hub.repository}/revision/"):
            self._send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith(prefix := f"/{hub.repository}/resolve/{COMMIT}/"):
            name = path.removeprefix(prefix)
            if name.endswith(LARGE):
                self._send(302, b"", {"Location": f"{hub.storage_address}/storage/{name}"})
            else:
                self._send_file(name)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def _send_file(self, name: str) -> None:
        hub = self.hub
        cut = hub.cut_after.pop(name, None)
        if cut is None and hub.failing[name] > 0:
            hub.failing[name] -= 1
            self._send(503, b"")
            return
        content = bytearray((hub.folder / name).read_bytes())
        if hub.damaged[name] > 0:
            hub.damaged[name] -= 1
            content[-1] ^= 1
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        begin = int(asked[1]) if asked and hub.knows_ranges else 0
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        sent = bytes(content[begin:][:cut])
        hub.num_bytes[name] += len(sent)
        self.wfile.write(sent)
        self.close_connection = cut is not None

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        """Say nothing."""


@contextmanager
def fake_hub(folder: Path) -> Iterator[FakeHub]:
    """Serve the files of `folder` as a model while the block runs."""
    hub = FakeHub(folder)
    handler = type("Handler", (_Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        hub.storage_address = f"http://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
