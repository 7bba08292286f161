"""Child processes that listen on a port."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

__all__ = ["end", "free_port", "start", "wait_for_port"]

_START_SECONDS = 60


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    command: Sequence[object], log: Path, environment: Mapping[str, str] = MappingProxyType({})
) -> subprocess.Popen[bytes]:
    """Starts a server whose output goes to a file; `environment` is added to this process's."""
    words, variables = [str(word) for word in command], {**os.environ, **environment}
    with log.open("ab") as output:
        return subprocess.Popen(words, stdout=output, stderr=output, env=variables, start_new_session=True)


def wait_for_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Waits until the server takes connections."""
    ends = time.monotonic() + _START_SECONDS
    while time.monotonic() < ends:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            raise RuntimeError(f"{process.args} ended with {process.returncode}:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not listen on {port}:\n{log.read_text()[-2000:]}")


def end(process: subprocess.Popen[bytes], *, how: int = signal.SIGKILL) -> None:
    """Ends exactly this process."""
    if process.poll() is None:
        os.kill(process.pid, how)
    process.wait(timeout=30)
