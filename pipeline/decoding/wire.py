"""What a worker and its decoders share: messages over a socket, and memory that the worker owns.

Nothing here is named in a file system, so nothing is left behind by a process that is killed.
"""

import contextlib
import json
import math
import mmap
import os
import socket
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Slab", "Status", "receive", "send"]

_MESSAGE_BYTES = 2**17
_MAX_FDS = 4


def send(control: socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Sends one message, with open files; ConnectionError where the other side is gone."""
    socket.send_fds(control, [json.dumps(message).encode()], list(fds))


def receive(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """The next message and the files that came with it; None where the other side is gone."""
    try:
        data, fds, _, _ = socket.recv_fds(control, _MESSAGE_BYTES, _MAX_FDS)
    except ConnectionError:
        return None
    return (json.loads(data), fds) if data else None


class Slab:
    """A piece of memory that two processes map, without a name."""

    def __init__(self, size_bytes: int, *, fd: int | None = None) -> None:
        """Makes one of this size, or maps the one behind `fd`, which it takes over."""
        flags = mmap.MAP_SHARED
        if fd is None:
            fd = os.memfd_create("vidtok", os.MFD_CLOEXEC)
            os.ftruncate(fd, size_bytes)
        else:
            flags |= mmap.MAP_POPULATE  # it has its pages, and finding them one by one takes longer
        self.fd = fd
        self.size_bytes = size_bytes
        self.memory = mmap.mmap(fd, size_bytes, flags)

    def array(self, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
        """Its beginning as an array of bytes of this shape: a view."""
        return np.frombuffer(self.memory, np.uint8, math.prod(shape)).reshape(shape)

    def close(self) -> None:
        """Gives the memory back, here."""
        os.close(self.fd)
        with contextlib.suppress(BufferError):  # a view of it lives; it goes with that
            self.memory.close()


class Status:
    """Three numbers that a decoder writes and its worker reads, without either waiting for the other."""

    SIZE_BYTES = 4096
    _PROGRESS, _BLOCKED_SINCE, _BLOCKED_SECONDS = range(3)

    def __init__(self, slab: Slab) -> None:
        self._slab = slab
        self._numbers = np.frombuffer(slab.memory, np.float64, 3)

    @classmethod
    def make(cls) -> "Status":
        """A new one."""
        return cls(Slab(cls.SIZE_BYTES))

    @property
    def fd(self) -> int:
        """The file to send to a decoder."""
        return self._slab.fd

    def begin(self) -> None:
        """A video begins."""
        self._numbers[:] = (time.monotonic(), 0, 0)

    def progress(self) -> None:
        """Bytes were read, or a frame came out."""
        self._numbers[self._PROGRESS] = time.monotonic()

    def block(self) -> None:
        """All windows are full: from here on the worker keeps the decoder waiting."""
        self._numbers[self._BLOCKED_SINCE] = time.monotonic()

    def unblock(self) -> None:
        """A window is free again."""
        now = time.monotonic()
        self._numbers[self._BLOCKED_SECONDS] += now - self._numbers[self._BLOCKED_SINCE]
        self._numbers[:2] = (now, 0)

    @property
    def is_blocked(self) -> bool:
        """Whether the decoder waits for the worker."""
        return bool(self._numbers[self._BLOCKED_SINCE])

    @property
    def silent_seconds(self) -> float:
        """How long nothing was read and no frame came out, the worker's own delay aside."""
        return 0.0 if self.is_blocked else float(time.monotonic() - self._numbers[self._PROGRESS])

    @property
    def blocked_seconds(self) -> float:
        """How long the worker kept the decoder waiting."""
        since = self._numbers[self._BLOCKED_SINCE]
        return float(self._numbers[self._BLOCKED_SECONDS] + (time.monotonic() - since if since else 0))

    def close(self) -> None:
        """Gives the memory back, here."""
        del self._numbers
        self._slab.close()
