"""A decoder: one video after another, from memory that the worker wrote to memory that the worker owns."""

import dataclasses
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from pipeline.decoding.frames import decode_spans
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.wire import Slab, Status, receive, send
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame

__all__ = ["serve"]


class WorkerGone(Exception):
    """Nobody waits for the frames any more."""


def serve(control: socket.socket, status: Status) -> None:
    """Decodes what the worker sends, until the worker closes the connection.

    A request is {"options", "spans", "size_bytes"} with the file that holds the video. What follows are {"duration"}
    once the container is open, {"shape", "source"} before the first window and before one of other frames, which the
    worker answers with {"windows", "frames", "size_bytes"} and their memory, where that is not what it was, {"window",
    "frames"} for each full one, which the worker answers with {} when it is free again, and after each span {"end"}:
    null, or the reject's stage, class and message.
    """
    windows = _Windows(control, status)
    while (request := receive(control)) is not None:
        message, fds = request
        if not fds:
            continue  # a window of the video before is free again
        status.begin()
        with closing(Slab(message["size_bytes"], fd=fds[0])) as video:
            try:
                is_well = _decode(video, DecodeOptions(**message["options"]), message["spans"], windows, status)
            except (WorkerGone, ConnectionError):
                return
        if not is_well:
            return  # what is left of its memory may be in pieces, or of a library's state


def _decode(
    video: Slab,
    options: DecodeOptions,
    spans: list[tuple[float | None, float | None]],
    windows: "_Windows",
    status: Status,
) -> bool:
    """Sends the frames and the end of each span; False where this process is better replaced."""
    windows.begin()
    for frames in decode_spans(
        _Reader(video, status.progress),  # type: ignore[arg-type]  # all that PyAV and Pillow ask of a file
        video.size_bytes,
        options,
        spans,
        on_progress=status.progress,
        on_probe=windows.promise,
    ):
        end = _send_span(frames, windows)
        windows.end(end)
        if end is not None and end[1] in ("memory", "crash"):
            return False
    return True


def _send_span(frames: Iterator[DecodedFrame], windows: "_Windows") -> list[str] | None:
    """The reject's stage, class and message, or None where all went well."""
    try:
        for frame in frames:
            windows.put(frame)
        windows.flush()
    except SampleError as error:
        windows.flush()
        return [error.stage, error.error, error.message]
    except MemoryError as error:  # FFmpeg's too
        limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        return ["decode", "memory", f"a decoder may take {limit:,} bytes, and more were wanted: {error}"]
    except (WorkerGone, ConnectionError):
        raise
    except Exception as error:  # the video's boundary: a fault of ours or of a library's, which costs it alone
        return ["decode", "crash", f"{type(error).__name__}: {error}"]
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
        self.begin()

    def begin(self) -> None:
        """What comes next is another video's."""
        self._shape: tuple[int, ...] = ()
        self._window = 0
        self._free = 0
        self._count = 0
        self._frames: list[list[Any]] = []

    def promise(self, seconds: float | None) -> None:
        """Says how long the video is by its container."""
        send(self._control, {"duration": seconds})

    def end(self, reject: list[str] | None) -> None:
        """Says how a span ended."""
        send(self._control, {"end": reject})

    def put(self, frame: DecodedFrame) -> None:
        """Adds a frame, and sends the window where it is full."""
        if frame.pixels_HWC.shape != self._shape:
            self._ask_for_windows(frame)
        assert self._slab is not None, "it was asked for"
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

    def _ask_for_windows(self, frame: DecodedFrame) -> None:
        self.flush()
        self._shape = frame.pixels_HWC.shape
        send(self._control, {"shape": self._shape, "source": dataclasses.asdict(frame.source)})
        message, fds = self._answer()
        while "windows" not in message:  # windows of before, that are free again
            message, fds = self._answer()
        self._window, self._count = 0, message["windows"]
        self._free = self._count
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
