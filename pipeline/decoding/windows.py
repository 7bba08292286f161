"""Windows: pieces of memory that the worker owns, which a decoder fills with frames. Both ends of them.

A window goes back to the decoder when nobody holds a frame of it any more, and until then the decoder gets another one.
So a frame is copied once, and a worker that keeps frames keeps no decoder waiting.
"""

import contextlib
import dataclasses
import itertools
import math
import os
import socket
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.decoding.direct import ROOM_BEHIND_BYTES
from pipeline.decoding.wire import Slab, Status, receive, send
from pipeline.records import DecodedFrame

__all__ = ["WINDOWS", "WINDOW_BYTES", "GrantedWindows", "OwnedWindows", "WorkerGone"]

# Of a window (at least one frame), and how many a decoder has: one is read while another is filled.
WINDOW_BYTES, WINDOWS = 4 * 2**20, 3
_FRAMES_AT_MOST = 64


class WorkerGone(Exception):
    """Nobody waits for the frames any more."""


class OwnedWindows:
    """The worker's end: of one decoder."""

    def __init__(self) -> None:
        self._slabs: dict[int, Slab] = {}
        self._idle: deque[int] = deque()  # of which nobody holds a frame
        self._held: dict[int, weakref.ref[Any]] = {}  # of which somebody may; each calls when that ends
        self._size_bytes = 0
        self._granted = 0
        self._numbers = itertools.count()

    def fit(self, control: socket.socket, frame_bytes: int) -> None:
        """Gives the decoder windows in which frames of this size find room."""
        if frame_bytes + ROOM_BEHIND_BYTES > self._size_bytes:
            self.close()
            self._size_bytes, self._granted = max(frame_bytes + ROOM_BEHIND_BYTES, WINDOW_BYTES), 0
        self._grant(control, WINDOWS - self._granted)

    def _grant(self, control: socket.socket, count: int) -> None:
        while len(self._idle) < count:
            number = next(self._numbers)
            self._slabs[number] = Slab(self._size_bytes)
            self._idle.append(number)
        numbers = [self._idle.popleft() for _ in range(count)]
        message = {"windows": numbers, "size_bytes": self._size_bytes}
        with contextlib.suppress(ConnectionError):  # its death is found where an answer is waited for
            send(control, message, [self._slabs[number].fd for number in numbers])
        self._granted += count

    def frames(self, control: socket.socket, number: int, shape: Sequence[int]) -> npt.NDArray[np.uint8]:
        """The frames (N, H, W, 3) of a window that the decoder filled, not copied; it gets another one for it."""
        # What every view of it holds on to.
        flat = np.frombuffer(self._slabs[number].memory, np.uint8, math.prod(shape))
        idle, held = self._idle, self._held

        def let_go(_: object) -> None:
            if held.pop(number, None) is not None:
                idle.append(number)

        held[number] = weakref.ref(flat, let_go)
        self._granted -= 1
        self._grant(control, 1)
        return flat.reshape(shape)

    def close(self) -> None:
        """Gives the memory back as soon as nobody holds a frame in it."""
        self._held.clear()
        self._idle.clear()
        for slab in self._slabs.values():
            slab.close()
        self._slabs.clear()


class GrantedWindows:
    """The decoder's end: the frames on their way to the worker."""

    def __init__(self, control: socket.socket, status: Status) -> None:
        """Asks for nothing yet."""
        self._control = control
        self._status = status
        self._slabs: dict[int, Slab] = {}  # stay mapped: to map them for each video anew costs as much as some frames
        self._free: deque[int] = deque()
        self._size_bytes = 0
        self._window: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._given = self._window
        self.begin()

    def begin(self) -> None:
        """What comes next is another video's."""
        self._shape: tuple[int, ...] = ()
        self._has_said_source = False
        self._frames: list[list[Any]] = []

    def promise(self, seconds: float | None) -> None:
        """Says how long the video is by its container."""
        send(self._control, {"duration": seconds})

    def end(self, reject: list[str] | None) -> None:
        """Says how a span ended."""
        send(self._control, {"end": reject})

    def room(self, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
        """Where the next frame goes, with ROOM_BEHIND_BYTES behind it that are free."""
        if shape != self._shape:
            self.flush()
            self._shape = shape
            send(self._control, {"shape": shape})
            while self._size_bytes < math.prod(shape) + ROOM_BEHIND_BYTES:  # what comes first may have been on its way
                self._wait()
        if not self._frames:
            while not self._free:
                self._wait()
            count = min(_FRAMES_AT_MOST, (self._size_bytes - ROOM_BEHIND_BYTES) // math.prod(shape))
            self._window = self._slabs[self._free[0]].array((count, *shape))
        self._given = self._window[len(self._frames)]
        return self._given

    def put(self, frame: DecodedFrame) -> None:
        """Adds a frame, and sends the window where it is full."""
        if frame.pixels_HWC is not self._given:  # it was not made there
            self.room(frame.pixels_HWC.shape)[:] = frame.pixels_HWC
        if not self._has_said_source:
            send(self._control, {"source": dataclasses.asdict(frame.source)})
            self._has_said_source = True
        self._frames.append([frame.seconds, frame.duration_seconds, frame.flags])
        if len(self._frames) == len(self._window):
            self.flush()

    def flush(self) -> None:
        """Sends what there is."""
        if self._frames:
            send(self._control, {"window": self._free.popleft(), "frames": self._frames})
            self._frames = []

    def _wait(self) -> None:
        self._status.block()
        answer = receive(self._control)
        self._status.unblock()
        if answer is None:
            raise WorkerGone
        self.take(*answer)

    def take(self, message: dict[str, Any], fds: list[int]) -> None:
        """Takes the windows that the worker grants."""
        if message["size_bytes"] != self._size_bytes:
            self._size_bytes = message["size_bytes"]
            self._free.clear()
            self._window = np.empty(0, np.uint8)
            for slab in self._slabs.values():
                slab.close()
            self._slabs.clear()
        for number, fd in zip(message["windows"], fds, strict=True):
            self._free.append(number)
            if number in self._slabs:
                os.close(fd)
            else:
                self._slabs[number] = Slab(self._size_bytes, fd=fd)
