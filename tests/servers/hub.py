"""A small stand-in for the Hugging Face Hub: models with files, some of them closed, as its client asks for them.

It answers what the file system `hf://` sends (a repository, the tree of a folder, a file by ranges) in the Hub's form,
with its error codes, and redirects a file to a signed link elsewhere, as the Hub does.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

__all__ = ["Hub"]

_SIGNATURE = "X-Amz-Signature=hunter2hunter2"


class Hub:
    """Serves while the block runs.

    Attributes:
        url: its address, for HF_ENDPOINT.
        requests: what was asked: method, path, and whether with a token.
        files: by (repository, revision), the files by path.
        private: repositories that are denied to whoever has no token.
        gated: repositories whose files are given to nobody.
        closed: repositories of which nobody is even told what they hold.
        failing: an HTTP status for each coming request, the next first; then all is well.
    """

    def __init__(self) -> None:
        """An empty hub."""
        self.requests: list[tuple[str, str, bool]] = []
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.closed: set[str] = set()
        self.failing: list[int] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, repo: str, path: str, data: bytes, revision: str = "main") -> None:
        """Adds a file, or replaces it."""
        self.files.setdefault((repo, revision), {})[path] = data

    def fetched(self) -> int:
        """How many times a file's bytes were asked for."""
        return sum(path.startswith("/cdn/") for _, path, _ in self.requests)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").startswith("Bearer ")
            hub.requests.append((self.command, self.path, token))
            path, _, query = self.path.partition("?")
            if hub.failing:
                return self._answer(hub.failing.pop(0), b"")
            if path.startswith("/cdn/"):
                return self._send_file(path, query)
            asked = re.fullmatch(
                r"(?:/api/models)?/(?P<repo>[\w.-]+/[\w.-]+)(/(?P<what>revision|tree|resolve)/(?P<revision>[^/]+)/?(?P<path>.*))?",
                path,
            )
            if asked is None:
                return self._refuse(400, "BadRequest")
            repo, revision = asked["repo"], asked["revision"] or "main"
            if repo not in {name for name, _ in hub.files} or (repo in hub.private and not token):
                return self._refuse(404 if token else 401, "RepoNotFound")
            if repo in hub.closed:
                return self._refuse(403, "GatedRepo")
            if (files := hub.files.get((repo, revision))) is None:
                return self._refuse(404, "RevisionNotFound")
            if asked["what"] == "tree":
                return self._send_tree(files, asked["path"])
            if asked["what"] == "resolve":
                return self._redirect(repo, files, asked["path"])
            self._send({"id": repo, "sha": "0" * 40, "siblings": [], "private": repo in hub.private})

        do_HEAD = do_GET

        def _send_tree(self, files: dict[str, bytes], folder: str) -> None:
            inside = {path: data for path, data in files.items() if path.rpartition("/")[0] == folder}
            if not inside:
                return self._refuse(404, "EntryNotFound")
            self._send(
                [
                    {
                        "type": "file",
                        "path": path,
                        "size": len(data),
                        "oid": hashlib.sha1(data).hexdigest(),  # of the pointer, which holds the sha256
                        "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134},
                    }
                    for path, data in inside.items()
                ]
            )

        def _redirect(self, repo: str, files: dict[str, bytes], path: str) -> None:
            if repo in hub.gated:
                return self._refuse(403, "GatedRepo")
            if path not in files:
                return self._refuse(404, "EntryNotFound")
            sha256 = hashlib.sha256(files[path]).hexdigest()
            headers = {
                "Location": f"{hub.url}/cdn/{sha256}?{_SIGNATURE}",
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(files[path])),
                "X-Repo-Commit": "0" * 40,
            }
            self._answer(302, b"", headers)

        def _send_file(self, path: str, query: str) -> None:
            contents = {
                hashlib.sha256(data).hexdigest(): data for files in hub.files.values() for data in files.values()
            }
            data = contents.get(path.removeprefix("/cdn/"))
            asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if data is None or query != _SIGNATURE or asked is None:
                return self._answer(403, b"")
            start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
            self._answer(206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"})

        def _refuse(self, status: int, code: str) -> None:
            self._answer(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

        def _send(self, answer: Any) -> None:
            self._answer(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

    return Handler
