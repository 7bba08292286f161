"""One decoder as its worker sees it, and the fork server that they come from."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.decoding.windows import OwnedWindows
from pipeline.decoding.wire import Status, receive, send

__all__ = ["Decoder", "DecoderLost", "Decoders"]

# So many videos, and a decoder is replaced: what FFmpeg's libraries lose on the way does not add up.
_VIDEOS_OF_ONE = 200
_LAST_WORDS_SECONDS, _FORK_SECONDS = 10.0, 60.0
# Memory that a frame gives back is kept for the next one: to the kernel and back is a page fault every 4 KiB.
_ENVIRONMENT = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
    # And a frame of a large video is copied past the caches, from which it would drive what is decoded next.
    "GLIBC_TUNABLES": f"glibc.cpu.x86_non_temporal_threshold={2**19}",
}
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from pipeline.decoding.forkserver import main
main(int(sys.argv[1]))
"""


class DecoderLost(Exception):
    """A decoder ended without an answer; `kind` is the class of the reject that it may become."""

    def __init__(self, kind: str, message: str) -> None:
        self.kind = kind
        super().__init__(message)


class Decoder:
    """One child process."""

    def __init__(self, pid: int, control: socket.socket, status: Status, server: "_ForkServer") -> None:
        """Takes over a process that was just forked."""
        self.pid = pid
        self.status = status
        self.fault: tuple[str, str] | None = None
        self.videos = 0
        self._control = control
        self._server = server
        self._windows = OwnedWindows()
        try:
            self._pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._pidfd = -1  # it is gone already, which its socket says too

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._pidfd >= 0 and not select.select([self._pidfd], [], [], 0)[0]

    def begin(self, request: dict[str, Any], fd: int) -> None:
        """Sends a video."""
        self.videos += 1
        self.status.begin()
        with contextlib.suppress(ConnectionError):  # its death is found where an answer is waited for
            send(self._control, request, [fd])

    def message(self, timeout: float) -> dict[str, Any] | None:
        """Its next message; None where none comes in time.

        Raises:
            DecoderLost: it ended.
        """
        ready, _, _ = select.select([self._control], [], [], timeout)
        if not ready:
            return None
        received = receive(self._control)
        if received is None:
            raise self._lost()
        return received[0]

    def _lost(self) -> DecoderLost:
        status = self._server.status_of(self.pid)
        self.discard()
        if self.fault is not None:
            return DecoderLost(*self.fault)
        if status is None:
            return DecoderLost("crash", "the decoder is gone")
        code = os.waitstatus_to_exitcode(status)
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return DecoderLost("crash", f"the decoder {how}")

    def expect(self, frame_bytes: int) -> None:
        """Gives it memory for frames of this size."""
        self._windows.fit(self._control, frame_bytes)

    def frames(self, number: int, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The frames (N, H, W, 3) of a window that it filled; it is filled again when nobody holds one of them."""
        return self._windows.frames(self._control, number, shape)

    def memory_bytes(self) -> int:
        """Memory of its own that is resident."""
        try:
            with open(f"/proc/{self.pid}/statm") as file:
                _, resident, shared, *_ = file.read().split()
        except OSError:
            return 0
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

    def kill(self, kind: str, message: str) -> None:
        """Ends it; what was waited for comes out as DecoderLost of this kind."""
        self.fault = (kind, message)
        self._signal()

    def _signal(self) -> None:
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def discard(self) -> None:
        """Ends it, and gives back what it had."""
        self._signal()
        self._control.close()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self.status.close()
        self._windows.close()


class Decoders:
    """The decoders of a worker that are free, and where more come from."""

    def __init__(self, memory_bytes: int) -> None:
        """Starts nothing yet; each decoder may take `memory_bytes`."""
        self._memory_bytes = memory_bytes
        self._free: list[Decoder] = []
        self._server: _ForkServer | None = None

    def take(self, *, fresh: bool) -> Decoder:
        """A free decoder; one that never decoded anything, where `fresh`."""
        while self._free and not fresh:
            decoder = self._free.pop()
            if decoder.is_alive:
                return decoder
            decoder.discard()
        for _ in range(2):
            if self._server is None:
                self._server = _ForkServer()
            try:
                return self._server.fork(self._memory_bytes)
            except (ConnectionError, TimeoutError):  # somebody ended it, and with it all its decoders
                self._server.close()
                self._server = None
        raise RuntimeError("the fork server of the decoders ends as soon as it is started")

    def give_back(self, decoder: Decoder) -> None:
        """Takes back one that is done with a video."""
        if decoder.videos >= _VIDEOS_OF_ONE:
            decoder.discard()
        else:
            self._free.append(decoder)

    def close(self) -> None:
        """Ends all of them."""
        for decoder in self._free:
            decoder.discard()
        self._free.clear()
        if self._server is not None:
            self._server.close()
            self._server = None


class _ForkServer:
    """The process that forks decoders; see forkserver.py."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ended: dict[int, int] = {}
        environment = {**os.environ, **_ENVIRONMENT}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a person's Ctrl-C is for the worker to deal with
            )
        self.close = weakref.finalize(self, _end, self._control, self._process)

    def fork(self, memory_bytes: int) -> Decoder:
        """A new decoder; ConnectionError where the server is gone, TimeoutError where it hangs."""
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        status = Status.make()
        try:
            self._control.settimeout(_FORK_SECONDS)
            with theirs:
                send(self._control, {"memory_bytes": memory_bytes}, [theirs.fileno(), status.fd])
            while "forked" not in (message := self._next()):
                self._ended[message["ended"]] = message["status"]
        except (ConnectionError, TimeoutError):
            control.close()
            status.close()
            raise
        return Decoder(message["forked"], control, status, self)

    def status_of(self, pid: int) -> int | None:
        """How a decoder ended, as waitpid has it; None where the server is gone too."""
        with contextlib.suppress(OSError):  # it is gone, was closed here, or says nothing in time
            self._control.settimeout(_LAST_WORDS_SECONDS)
            while pid not in self._ended:
                message = self._next()
                self._ended[message["ended"]] = message["status"]
        return self._ended.pop(pid, None)

    def _next(self) -> dict[str, Any]:
        received = receive(self._control)
        if received is None:
            raise ConnectionError("the fork server is gone")
        return received[0]


def _end(control: socket.socket, process: "subprocess.Popen[bytes]") -> None:
    control.close()
    process.kill()
    process.wait()
