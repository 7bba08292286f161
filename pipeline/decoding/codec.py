"""From packets to frames, each of them whole."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import av.error
import av.logging
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decoding.container import said
from pipeline.decoding.opened import OpenedVideo
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.skipping import Care
from pipeline.errors import SampleError

__all__ = ["Codec"]

# Decoders that look anew at each packet whether frames that no other refers to are wanted.
_SKIPPING_CODECS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"}


class Codec:
    """The decoder of one span.

    Attributes:
        came_out: frames so far.
        said: FFmpeg's log, since the last frame.
    """

    def __init__(
        self, video: OpenedVideo, options: DecodeOptions, flags: dict[str, None], on_progress: Callable[[], None]
    ) -> None:
        """Decodes nothing yet; `flags` gets what is unusual."""
        self.came_out = 0
        self.said: list[tuple[int, str, str]] = []
        self._video = video
        self._name = video.source.codec
        self._options = options
        self._flags = flags
        self._on_progress = on_progress

    def frames(
        self, packets: "Iterable[Packet[VideoStream]]", cares: Mapping[int | None, Care]
    ) -> Iterator[VideoFrame]:
        """What the decoder gives, each frame whole; cares by the packets' times say what is left out."""
        is_first, is_flushed = True, False
        try:
            for packet, care, is_behind_a_gap in self._cared(packets, cares):
                context = self._video.codec
                if is_behind_a_gap and not is_first and not context.codec.intra_only:
                    # As after a seek: the decoder gives what it holds, and must not look for what it did not get.
                    yield from self._checked(context.decode(None))
                    context.flush_buffers()
                is_first, is_flushed = False, not packet.size
                if context.name in _SKIPPING_CODECS:
                    context.skip_frame = "NONREF" if care is Care.REFERENCE else "DEFAULT"
                yield from self._checked(context.decode(packet if packet.size else None))
            if not is_flushed:  # the span ends before the video does
                yield from self._checked(self._video.codec.decode(None))
        except IndexError:  # PyAV's, for a packet of a stream that no header told of
            raise SampleError(
                "decode", "unreadable", f"a packet of {self._name} names a stream that is not there"
            ) from None
        except av.error.FFmpegError as error:
            if isinstance(error, av.error.MemoryError):
                raise
            message = f"decoding {self._name} fails: {said(error)}"
            raise SampleError("decode", "unreadable", message) from None

    def _cared(
        self, packets: "Iterable[Packet[VideoStream]]", cares: Mapping[int | None, Care]
    ) -> "Iterator[tuple[Packet[VideoStream], Care, bool]]":
        """The packets to decode, what is done with each, and whether it is the key behind groups that were dropped."""
        gap = False
        for packet in packets:
            care = Care.DECODE
            if packet.is_corrupt:
                self._flags["damaged_packets"] = None
            if packet.size:
                care = cares.get(packet.pts, Care.DECODE)
            if care is Care.DROP:
                gap = True
            else:
                yield packet, care, gap and packet.is_keyframe  # not behind dropped frames that are shown before a key
                gap = False

    def _checked(self, frames: Iterable[VideoFrame]) -> Iterator[VideoFrame]:
        for frame in frames:
            self._check(frame)
            yield frame

    def _check(self, frame: VideoFrame) -> None:
        self._on_progress()
        self.came_out += 1
        # FFmpeg makes do with what it has, and says so in its log alone.
        if any(level <= av.logging.ERROR and name == self._name for level, name, _ in self.said):
            self._flags["decoder_errors"] = None
        self.said.clear()
        if self.came_out > self._options.max_frames:
            raise SampleError("decode", "limit", f"more than {self._options.max_frames:,} frames come out")
        if frame.is_corrupt:
            raise SampleError(
                "decode",
                "unreadable",
                f"frame {self.came_out} of those that {self._name} gives is damaged",
            )
