"""A decoder: one video after another, from memory that the worker wrote to memory that the worker owns."""

import dataclasses
import resource
import socket
from collections.abc import Callable
from typing import Any

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.wire import Slab, Status, receive, send
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame

__all__ = ["serve"]


class WorkerGone(Exception):
    """Nobody waits for the frames any more."""


def serve(control: socket.socket, status: Status) -> None:
    """Decodes what the worker sends, until the worker closes the connection.

    A request is {"options", "size_bytes"} with the file that holds the video. What follows are {"duration"} once the
    container is open, {"shape", "source"} before the first window, which the worker answers with {"windows", "frames",
    "size_bytes"} and, where the decoder has none yet or too little, their memory, {"window", "frames", "flags"} for
    each full one, which the worker answers with {} when it is free again, and at last {"end"}: null, or the reject's
    stage, class and message.
    """
    windows = _Windows(control, status)
    while (request := receive(control)) is not None:
        message, fds = request
        if not fds:
            continue  # a window of the video before is free again
        (fd,) = fds
        status.begin()
        try:
            end = _decode(Slab(message["size_bytes"], fd=fd), DecodeOptions(**message["options"]), windows, status)
            send(control, {"end": end})
        except (WorkerGone, ConnectionError):
            return
        if end is not None and end[1] == "memory":
            return  # what is left of its memory may be in pieces


def _decode(video: Slab, options: DecodeOptions, windows: "_Windows", status: Status) -> list[str] | None:
    """The reject's stage, class and message, or None where all went well."""
    try:
        frames = decode_frames(
            _Reader(video, status.progress),  # type: ignore[arg-type]  # all that PyAV and Pillow ask of a file
            video.size_bytes,
            options,
            on_progress=status.progress,
            on_probe=windows.promise,
        )
        for frame in frames:
            windows.put(frame)
        windows.flush()
    except SampleError as error:
        windows.flush()
        return [error.stage, error.error, error.message]
    except MemoryError as error:  # FFmpeg's too
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        return ["decode", "memory", f"a decoder may take {limit:,} bytes, and more were wanted: {error}"]
    finally:
        windows.end()
    return None


class _Reader:
    """The video as a file; reading is progress."""

    def __init__(self, video: Slab, on_progress: Callable[[], None]) -> None:
        self._memory = video.memory
        self._on_progress = on_progress

    def read(self, size: int = -1) -> bytes:
        self._on_progress()
        return self._memory.read(None if size < 0 else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        size = len(self._memory)
        base = (0, self._memory.tell(), size)[whence]
        self._memory.seek(min(size, max(0, base + offset)))
        return self._memory.tell()

    def tell(self) -> int:
        return self._memory.tell()


class _Windows:
    """The frames on their way to the worker: windows of a slab that the worker owns, filled in turn."""

    def __init__(self, control: socket.socket, status: Status) -> None:
        self._control = control
        self._status = status
        self._slab: Slab | None = None  # stays mapped: to map it for each video anew costs as much as some frames
        self.end()

    def end(self) -> None:
        """What comes next is another video's."""
        self._shape: tuple[int, ...] = ()
        self._window = 0
        self._free = 0
        self._count = 0
        self._frames: list[list[Any]] = []

    def promise(self, seconds: float | None) -> None:
        """Says how long the video is by its container."""
        send(self._control, {"duration": seconds})

    def put(self, frame: DecodedFrame) -> None:
        """Adds a frame, and sends the window where it is full."""
        if not self._shape:
            self._begin(frame)
        assert self._slab is not None, "_begin made it"
        if not self._frames and not self._free:
            self._wait()
        window = self._slab.window(self._window, (self._size, *self._shape))
        window[len(self._frames)] = frame.pixels_HWC
        self._frames.append([frame.seconds, frame.duration_seconds, frame.flags])
        if len(self._frames) == self._size:
            self.flush()

    def flush(self) -> None:
        """Sends what there is."""
        if self._frames:
            send(self._control, {"window": self._window, "frames": self._frames})
            self._window, self._free = (self._window + 1) % self._count, self._free - 1
            self._frames = []

    def _begin(self, frame: DecodedFrame) -> None:
        self._shape = frame.pixels_HWC.shape
        send(self._control, {"shape": self._shape, "source": dataclasses.asdict(frame.source)})
        message, fds = self._answer()
        self._count = self._free = message["windows"]
        self._size = message["frames"]
        if fds:
            if self._slab is not None:
                self._slab.close()
            self._slab = Slab(message["size_bytes"], fd=fds[0])

    def _wait(self) -> None:
        self._answer()
        self._free += 1

    def _answer(self) -> tuple[dict[str, Any], list[int]]:
        self._status.block()
        answer = receive(self._control)
        self._status.unblock()
        if answer is None:
            raise WorkerGone
        return answer
