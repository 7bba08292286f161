"""A web server over a folder that may give ranges, sizes and index pages, or not."""

import io
import re
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

__all__ = ["WebServer"]


class WebServer:
    """Serves while the block runs; `requests` lists what was asked: method, path, range."""

    def __init__(self, folder: Path, *, ranges: bool = True, sizes: bool = True, index: bool = False) -> None:
        """Serves the files of `folder`, with ranges, sizes and index pages as told."""
        self.requests: list[tuple[str, str, str | None]] = []
        server = self

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def send_header(self, keyword: str, value: str) -> None:
                if sizes or keyword != "Content-Length":
                    super().send_header(keyword, value)

            def end_headers(self) -> None:
                if not ranges:
                    self.send_header("Accept-Ranges", "none")
                super().end_headers()

            def list_directory(self, path: Any) -> Any:
                return super().list_directory(path) if index else self.send_error(403)  # type: ignore[func-returns-value]

            def send_head(self) -> Any:
                server.requests.append((self.command, self.path, self.headers.get("Range")))
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if not ranges or asked is None:
                    return super().send_head()
                data = Path(self.translate_path(self.path)).read_bytes()
                start, end = int(asked[1]), min(int(asked[2]) + 1, len(data))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
                self.send_header("Content-Length", str(end - start))
                self.end_headers()
                return io.BytesIO(data[start:end])

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
