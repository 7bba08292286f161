"""A decoder: one video after another, from memory that the worker wrote to memory that the worker owns."""

import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

from pipeline.decoding.frames import decode_spans
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.windows import GrantedWindows, WorkerGone
from pipeline.decoding.wire import Slab, Status, receive
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame

__all__ = ["serve"]


def serve(control: socket.socket, status: Status) -> None:
    """Decodes what the worker sends, until the worker closes the connection.

    A request is {"options", "spans", "size_bytes"} with the file that holds the video. What follows are {"duration"}
    once the container is open, {"source"} once, {"shape"} before the first frame and before one of another shape,
    {"window", "frames"} for each window that is full, and after each span {"end"}: null, or the reject's stage, class
    and message. The worker answers {"shape"} and {"window"} with {"windows", "size_bytes"} and their memory.
    """
    windows = GrantedWindows(control, status)
    while (request := receive(control)) is not None:
        message, fds = request
        if "windows" in message:  # for those of the video before
            windows.take(message, fds)
            continue
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
    windows: GrantedWindows,
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
        room=windows.room,
    ):
        end = _send_span(frames, windows)
        windows.end(end)
        if end is not None and end[1] in ("memory", "crash"):
            return False
    return True


def _send_span(frames: Iterator[DecodedFrame], windows: GrantedWindows) -> list[str] | None:
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
