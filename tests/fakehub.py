"""A server that speaks as much of the Hugging Face Hub as publishing and reading an encoder needs."""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


class FakeHub(ThreadingHTTPServer):
    """Keeps repositories in memory.

    Attributes
    ----------
    repositories : dict
        By name a dict of commits: {hash: {path: bytes}}; the last is `main`.
    requests : list of str
        What was asked, method and path.
    private : set of str
        Repositories that were made private.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}
        self.requests: list[str] = []
        self.private: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: object) -> None: ...

    def do_POST(self) -> None:
        path, hub = urlsplit(self.path).path, self.server
        hub.requests.append(f"POST {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            hub.repositories.setdefault(name, {})
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(name)
            return self._json({"url": f"{hub.url}/{name}"})
        if path == "/api/validate-yaml":
            return self._json({"errors": [], "warnings": []})
        name, _, action = path.removeprefix("/api/models/").rpartition("/")[0].rpartition("/")
        if action == "preupload":
            files = [f["path"] for f in json.loads(body)["files"]]
            regular = {"uploadMode": "regular", "shouldIgnore": False}
            return self._json({"files": [{"path": file, **regular} for file in files]})
        lines = [json.loads(line) for line in body.splitlines()]
        added = {
            x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"
        }
        commits = hub.repositories[name]
        before = list(commits.values())[-1] if commits else {}
        commit = hashlib.sha1(body).hexdigest()
        commits[commit] = before | added
        self._json({"commitUrl": f"{hub.url}/{name}/commit/{commit}", "commitOid": commit})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path, hub = unquote(urlsplit(self.path).path), self.server
        hub.requests.append(f"{self.command} {path}")
        name, _, rest = path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        commits = hub.repositories.get(name)
        if commits is None:
            return self._answer(404, b"", {"X-Error-Code": "RepoNotFound"})
        commit = list(commits)[-1] if revision == "main" else revision
        if commit not in commits:
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if file not in commits[commit]:
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        data = commits[commit][file]
        self._answer(200, data, {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'})

    def _json(self, content: object) -> None:
        self._answer(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextlib.contextmanager
def hub() -> Iterator[FakeHub]:
    """Run the server in a thread."""
    server = FakeHub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
