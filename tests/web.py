"""A real HTTP server of a folder, with ranges. It can fail as servers and networks do."""

import contextlib
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

os.environ["NO_PROXY"] = "127.0.0.1"  # bypass the proxy of this machine, if any


class FolderServer(ThreadingHTTPServer):
    """Serves `folder` under /corpus, with a page of links for each folder, and counts what it does.

    Attributes
    ----------
    sent, requests : Counter
        Bytes of bodies that were sent, and number of requests, by path.
    drop_after : int, optional
        Bytes after which a connection is cut in the middle of a body.
    errors : Counter
        How many more requests for a path are answered with `status`.
    flips : Counter
        How many more bodies of a path are sent with one flipped byte.
    ranges, lengths, chunks : bool
        Whether the server supports Range, sends Content-Length, or (without a length) sends chunks.
    retry_after : int
        Seconds that an answer with `status` asks the client to wait; 0 = none.
    pause : float
        Seconds that the server waits after each 16 KiB.
    busy : int
        Number of requests that are being answered.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()
        self.flips: Counter[str] = Counter()
        self.drop_after: int | None = None
        self.ranges, self.lengths, self.chunks = True, True, False
        self.status, self.retry_after, self.pause = 500, 0, 0.0
        self.busy = 0
        self.connections: set[socket.socket] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/corpus"

    def die(self) -> None:
        """Stop listening and cut all connections, as a machine does that goes down."""
        self.shutdown()
        self.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request, client_address) -> None:
        """Ignore clients that disconnect."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FolderServer

    def setup(self) -> None:
        super().setup()
        self.server.connections.add(self.connection)

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.busy += 1
        try:
            self._get()
        finally:
            self.server.busy -= 1

    def _get(self) -> None:
        server = self.server
        name = unquote(urlsplit(self.path).path).removeprefix("/corpus/")
        server.requests[name] += 1
        path = server.folder / name
        if server.errors[name] > 0 and self.command == "GET":
            server.errors[name] -= 1
            return self._answer(server.status, b"")
        if path.is_dir():
            inside = [f"{p.name}/" if p.is_dir() else p.name for p in sorted(path.iterdir())]
            links = "".join(f'<a href="{quote(link)}">{link}</a>' for link in inside)
            return self._answer(200, f'<a href="?C=N">Name</a><a href="../">up</a>{links}'.encode())
        if not path.is_file():
            return self._answer(404, b"")
        data = path.read_bytes()
        if server.flips[name] > 0:
            server.flips[name] -= 1
            data = data[:700] + bytes([data[700] ^ 1]) + data[701:]
        first = 0
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found and server.ranges:
            first = int(found[1])
            if first >= len(data):
                return self._answer(416, b"")
            return self._answer(206, data[first:], f"bytes {first}-{len(data) - 1}/{len(data)}", name)
        return self._answer(200, data, None, name)

    def _answer(self, status: int, body: bytes, content_range: str | None = None, name: str = "") -> None:
        self.send_response(status)
        if self.server.retry_after and status == self.server.status:
            self.send_header("Retry-After", str(self.server.retry_after))
        if content_range:
            self.send_header("Content-Range", content_range)
        if self.server.lengths:
            self.send_header("Content-Length", str(len(body)))
        elif self.server.chunks:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        if name:
            self.send_header(
                "Last-Modified", formatdate((self.server.folder / name).stat().st_mtime, usegmt=True)
            )
        self.end_headers()
        if self.command == "HEAD":
            return
        step = 1 << 14 if self.server.pause or self.server.drop_after else 1 << 20
        for at in range(0, len(body), step):
            if self.server.drop_after is not None and at >= self.server.drop_after:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.server.sent[name] += len(body[at : at + step])  # before sending: tests may read it
            chunk = body[at : at + step]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self.server.chunks else chunk)
            if self.server.pause:
                time.sleep(self.server.pause)
        if self.server.chunks:
            self.wfile.write(b"0\r\n\r\n")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[FolderServer]:
    """Serve a folder in a thread."""
    server = FolderServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.die()
        thread.join()


class _Network:
    """Forwards bytes to a server, and cuts connections in the middle of large answers.

    Attributes
    ----------
    cuts : int
        How many more connections are cut, each after 4 KiB of an answer.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.server, self.cuts = server, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def die(self) -> None:
        """Refuse new connections, and cut all open ones."""
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self.server)
                self._open += [client, server]
                for source, target in ((client, server), (server, client)):
                    passing = (source, target, source is server)
                    threading.Thread(target=self._pass, args=passing, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
                if answers and len(data) == 4096 and self.cuts > 0:
                    self.cuts -= 1
                    break
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def cutting_network(server: tuple[str, int]) -> Iterator[_Network]:
    """Reach a server through a network that can be cut."""
    network = _Network(server)
    try:
        yield network
    finally:
        network.die()
