"""localbucket: a small S3 server that keeps its objects over a restart."""

import sys
from pathlib import Path

from tests.servers.process import end, free_port, start, wait_for_port

__all__ = ["LocalBucket"]


class LocalBucket:
    """A server that can be killed and started again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir()
        self._folder = folder
        self._port = free_port()
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        log = self._folder / "log"
        command = [sys.executable, "-m", "localbucket", "--port", self._port, self._folder / "data"]
        self._process = start(command, log)
        wait_for_port(self._port, self._process, log)

    def kill(self) -> None:
        end(self._process)
