"""A server on the loopback address that speaks as much of the Hugging Face hub's protocol as a download needs."""

import hashlib
import re
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = 10_000  # From this size on a file's ETag is its sha256, as with Git LFS; below it, the sha1 of its Git blob.


def etag_of(content):
    if len(content) >= LARGE:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Hub:
    """The server's files, how it behaves, and the requests it got."""

    files: dict  # "owner/name/file" -> bytes
    url: str = ""
    status: int = 200  # the status of every response, if it is not 200
    cut_after: int | None = None  # the next body of a large file is cut off after this many bytes, once
    cut_always: bool = False  # every later body is cut off too
    damaged: frozenset = frozenset()  # names of files whose bodies have one wrong byte in the middle
    instead: dict = field(default_factory=dict)  # file name -> content sent in its place, with the original ETag
    seconds_a_chunk: float = 0.0
    hold_after: int | None = None  # the body of a large file stops after this many bytes until this is None again
    silent: threading.Event = field(default_factory=threading.Event)  # while set: accept requests, never respond
    commit: str = COMMIT
    requests: list = field(default_factory=list)  # (method, file, Range or None)
    tokens: list = field(default_factory=list)  # the Authorization header of each request that had one

    def ranges_asked(self, file):
        return [bytes_range for method, name, bytes_range in self.requests if (method, name) == ("GET", file)]


@contextmanager
def serving(files):
    """Serve `files` while inside; yield the `Hub`."""
    hub = Hub(files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        repo, revision, file = match.groups() if match else ("", "", "")
        self.hub.requests.append((self.command, file, self.headers.get("Range")))
        self.hub.tokens += self.headers.get_all("Authorization", [])
        content = self.hub.files.get(f"{repo}/{file}")
        while self.hub.silent.is_set():
            time.sleep(0.02)
        if self.hub.status != 200:
            self._refuse(self.hub.status, "")
        elif not any(name.startswith(f"{repo}/") for name in self.hub.files):
            self._refuse(404, "RepoNotFound")
        elif revision not in ("main", self.hub.commit):
            self._refuse(404, "RevisionNotFound")
        elif content is None:
            self._refuse(404, "EntryNotFound")
        else:
            self._send(file, content)

    def _refuse(self, status, code):
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, file, content):
        start, etag = 0, etag_of(content)
        content = self.hub.instead.get(file, content)
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            start = int(asked[1])
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", self.hub.commit)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self._send_body(file, content, start)

    def _send_body(self, file, content, start):
        if file in self.hub.damaged:
            middle = len(content) // 2
            content = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        end = len(content)
        if self.hub.cut_after is not None and len(content) >= LARGE:
            end = min(end, start + self.hub.cut_after)
            self.hub.cut_after = self.hub.cut_after if self.hub.cut_always else None
        for at in range(start, end, 1 << 16):
            while len(content) >= LARGE and self.hub.hold_after is not None and at >= self.hub.hold_after:
                time.sleep(0.02)
            self.wfile.write(content[at : min(at + (1 << 16), end)])
            time.sleep(self.hub.seconds_a_chunk)
        if end < len(content):
            self.wfile.flush()
            self.close_connection = True
