"""The decoders of one worker: child processes that decode the next videos, each of which may hang or die.

A decoder that hangs, dies or takes too much memory costs its own video alone: it is tried once more, in a decoder of
its own, and then rejected as `timeout`, `crash` or `memory`. Frames come back in windows of memory that the worker
owns; a decoder whose windows are full waits, so a long video never stands in memory whole.
"""

import contextlib
import dataclasses
import itertools
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ahead import check_left
from pipeline.decoding.decoder import Decoder, DecoderLost, Decoders
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.wire import Slab
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame, SourceInfo, Video

__all__ = ["DecoderLimits", "DecoderPool"]

_ATTEMPTS = 2
_TICK_SECONDS = 0.2
_SPANS_AT_ONCE = 500  # of one request, which is one message


@dataclass(frozen=True, kw_only=True)
class DecoderLimits:
    """What a decoder may take.

    Attributes:
        memory_bytes: of memory.
        stall_seconds: without reading a byte or giving a frame.
        base_seconds: for any video, and
        seconds_per_second: as much more for each second of its duration.
    """

    memory_bytes: int = 2 * 2**30
    stall_seconds: float = 60.0
    base_seconds: float = 120.0
    seconds_per_second: float = 20.0


class DecoderPool:
    """Decodes videos in order, some at a time."""

    def __init__(self, num_decoders: int, limits: DecoderLimits) -> None:
        """Starts nothing yet.

        Args:
            num_decoders: videos under way at a time, each in a process of its own.
            limits: of each.
        """
        self._num_decoders = num_decoders
        self._limits = limits
        self._decoders = Decoders(limits.memory_bytes)

    def decode(self, videos: Iterable[Video], options: DecodeOptions) -> Iterator[tuple[Video, Iterator[DecodedFrame]]]:
        """Yields each video, in order, without its bytes, and its frames; videos with a reject have none.

        The frames' iterator raises SampleError where the video cannot be decoded. It is done with when the next video
        is asked for.
        """
        tasks: deque[_Task] = deque()
        source = iter(videos)
        try:
            while True:
                while len(tasks) < self._num_decoders and (video := next(source, None)) is not None:
                    spans = [video, *itertools.islice(source, min(video.spans_left, _SPANS_AT_ONCE - 1))]
                    tasks.append(_Task(spans, options, self._decoders, self._limits))
                    tasks[-1].begin()
                if not tasks:
                    return
                head = tasks[0]
                for video in head.videos:
                    yield video, self._frames(head, tasks)
                    for _ in head.leave():
                        check_left()
                        head.watch()
                tasks.popleft().end()
        finally:
            for task in tasks:
                task.end()

    def _frames(self, task: "_Task", tasks: Iterable["_Task"]) -> Iterator[DecodedFrame]:
        if task.is_empty:
            raise SampleError("probe", "unreadable", "the video has 0 bytes")
        while not task.is_done:
            check_left()
            for other in tasks:
                other.watch()
            yield from task.frames(_TICK_SECONDS)

    def close(self) -> None:
        """Ends all decoders."""
        self._decoders.close()


class _Task:
    """One video, or some spans of one, and the decoder that it is in."""

    def __init__(self, videos: list[Video], options: DecodeOptions, decoders: Decoders, limits: DecoderLimits) -> None:
        data = videos[0].data
        self.videos = [dataclasses.replace(video, data=b"") for video in videos]
        self.is_empty = not data and videos[0].reject is None
        self.is_done = videos[0].reject is not None or self.is_empty  # with the span whose frames are given
        self._spans = deque(video.span for video in videos)  # that one, and those after it
        self._size_bytes = len(data)
        self._memory: Slab | None = None
        if not self.is_done:
            # Once: from here on the decoder reads it, and a second one if need be.
            self._memory = Slab(self._size_bytes)
            self._memory.memory[:] = data
        self._options = dataclasses.asdict(options)
        self._decoders = decoders
        self._limits = limits
        self._decoder: Decoder | None = None
        self._attempt = 0  # at this span
        self._began = 0.0
        self._spans_begun = 0  # since then
        self._waited = 0.0  # for its next message
        self._given = 0  # frames of this span that the worker has
        self._skip = 0  # of them, those that a second attempt has yet to give again
        self._duration = 0.0
        self._source: SourceInfo | None = None
        self._shape: tuple[int, ...] = ()  # of a frame

    def begin(self) -> None:
        """Sends what is left of the video to a decoder, if there is anything to send."""
        if self._memory is None:
            return
        self._attempt += 1
        self._skip = self._given
        self._decoder = self._decoders.take(fresh=self._attempt > 1)
        self._began, self._waited = time.monotonic(), 0.0
        self._spans_begun = 1
        request = {"options": self._options, "spans": list(self._spans), "size_bytes": self._size_bytes}
        self._decoder.begin(request, self._memory.fd)

    def leave(self) -> Iterator[None]:
        """Goes on to the next span, past what the last one still gives; yields now and then."""
        while not self.is_done:
            with contextlib.suppress(SampleError):
                for _ in self.frames(_TICK_SECONDS):
                    pass
            yield
        self._spans.popleft()
        if not self._spans or self._memory is None:
            return
        self.is_done, self._given, self._skip, self._attempt = False, 0, 0, 1
        self._spans_begun += 1
        if self._decoder is None:  # the last span cost it
            self._attempt = 0
            self.begin()

    def watch(self) -> None:
        """Ends a decoder that hangs, or takes too much."""
        decoder = self._decoder
        if decoder is None or decoder.fault is not None:
            return
        limits = self._limits
        if decoder.status.silent_seconds > limits.stall_seconds:
            decoder.kill("timeout", f"no byte was read and no frame came for {limits.stall_seconds:g} s")
        # Each span may take what a video of its length may; at most all of it.
        budget = self._spans_begun * limits.base_seconds + limits.seconds_per_second * self._duration
        if time.monotonic() - self._began - decoder.status.blocked_seconds > budget:
            decoder.kill("timeout", f"it took more than {budget:,.0f} s for {self._duration:,.1f} s of video")
        if (taken := decoder.memory_bytes()) > limits.memory_bytes:
            decoder.kill("memory", f"it took {taken:,} bytes, {limits.memory_bytes:,} are allowed")

    def frames(self, timeout: float) -> Iterator[DecodedFrame]:
        """The frames of the next message, if one comes in time."""
        assert self._decoder is not None, "begin() took one"
        try:
            message = self._decoder.message(timeout)
            if message is None:
                self._waited += timeout
                if self._waited > self._limits.stall_seconds and self._decoder.status.is_blocked:
                    # It says that it waits for us, and has all that it asked for.
                    self._decoder.kill("timeout", f"no frame came for {self._limits.stall_seconds:g} s")
                return
            self._waited = 0.0
            yield from self._take(message)
        except DecoderLost as lost:
            self._decoder = None
            if self._attempt == _ATTEMPTS:
                self.is_done = True
                raise SampleError("decode", lost.kind, f"twice: {lost}", attempts=_ATTEMPTS) from None
            self.begin()

    def _take(self, message: dict[str, Any]) -> Iterator[DecodedFrame]:
        decoder = self._decoder
        assert decoder is not None, "a message came from it"
        if "duration" in message:
            self._duration = max(0.0, message["duration"] or 0.0)  # a damaged header may say anything
        elif "source" in message:
            self._source = SourceInfo(**message["source"])
        elif "shape" in message:
            self._shape = tuple(message["shape"])
            decoder.expect(math.prod(self._shape))
        elif "window" in message:
            said = message["frames"]
            yield from self._new_frames(said, decoder.frames(message["window"], (len(said), *self._shape)))
        else:
            self._ended(message["end"])

    def _new_frames(self, said: list[Any], pixels: npt.NDArray[np.uint8]) -> Iterator[DecodedFrame]:
        assert self._source is not None, "it came before the first window"
        # A second attempt gives again what the first one gave.
        for (seconds, duration, flags), frame in zip(said, pixels, strict=True):
            if self._skip:
                self._skip -= 1
                continue
            self._given += 1
            yield DecodedFrame(
                pixels_HWC=frame,
                seconds=seconds,
                duration_seconds=duration,
                source=self._source,
                flags=tuple(flags),
            )

    def _ended(self, reject: list[str] | None) -> None:
        """The decoder is done with this span."""
        is_lost = reject is not None and reject[1] in ("memory", "crash")  # it ends by itself then
        if self._decoder is not None and (is_lost or len(self._spans) == 1):
            self._decoders.give_back(self._decoder)
            self._decoder = None
        if is_lost and self._attempt < _ATTEMPTS:
            self.begin()
            return
        self.is_done = True
        if reject is not None:
            raise SampleError(*reject, attempts=self._attempt)

    def end(self) -> None:
        """Gives up whatever is not done."""
        if self._decoder is not None:
            self._decoder.discard()
            self._decoder = None
        if self._memory is not None:
            self._memory.close()
            self._memory = None
