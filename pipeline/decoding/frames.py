"""decode_frames: the page to read first of this package. The frames of one video that a job asks for.

    opened_video -> survey its packets' times -> choose frames and packets -> decode -> deinterlace -> place in time
                 -> sample -> upright RGB pixels, resized and cropped

It runs in a decoder, a child process without torch; `executor.decoders: 0` runs it in the worker, to debug.
"""

from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from typing import IO, Any

import av.error
import av.logging
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decoding.container import check_source, duration_of, opened_video, rate_of, said, source_of
from pipeline.decoding.deinterlace import deinterlaced, is_interlaced
from pipeline.decoding.hdr import TRANSFERS
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pixels import Geometry, Pixels, fit, frame_pixels, turned_matrix
from pipeline.decoding.skipping import Care, plan_packets
from pipeline.decoding.stills import is_picture, picture_frames
from pipeline.decoding.timing import PacketTimes, Timeline, sampled
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame, SourceInfo

__all__ = ["SAMPLER_VERSION", "decode_frames"]

# Enters the fingerprint. Raise it when the same job would take other frames or make other pixels of them.
SAMPLER_VERSION = 2

# Formats whose header lists every packet, so that one that is cut off is seen.
_LISTING_FORMATS = {"mov,mp4,m4a,3gp,3g2,mj2"}
# Decoders that look anew at each packet whether frames that no other refers to are wanted.
_SKIPPING_CODECS = {"h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4"}


def decode_frames(
    file: IO[bytes],
    size_bytes: int,
    options: DecodeOptions,
    on_progress: Callable[[], None] = lambda: None,
    on_probe: Callable[[float | None], None] = lambda _: None,
) -> Iterator[DecodedFrame]:
    """Decodes a video and yields the frames to keep, in the order of their times.

    Args:
        file: the encoded video, seekable.
        size_bytes: its size, for messages.
        options: which frames, and how they are to look.
        on_progress: called for each frame that comes out of the decoder.
        on_probe: called once with the seconds that the container promises, or None.

    Raises:
        SampleError: `no_video`, `unreadable`, `truncated`, `limit` or `filtered`. With a video that breaks off in the
            middle, the frames before come first.
    """
    beginning = file.read(12)
    file.seek(0)
    if is_picture(beginning):
        yield from _picture(file, options)
        return
    with opened_video(file, size_bytes, options) as (container, stream):
        source, rate = source_of(stream), rate_of(stream)
        seconds = duration_of(container, stream)
        check_source(source, seconds, options)
        on_probe(seconds)
        packets, is_cut = _survey(container, stream)
    file.seek(0)
    with opened_video(file, size_bytes, options) as (container, stream):
        cut = SampleError("decode", "truncated", f"{len(packets)} packets are there of {stream.frames} in its index")
        try:
            yield from _Decoding(container, stream, source, rate, options, on_progress).frames(packets)
        except SampleError as error:
            raise cut if is_cut and error.error == "unreadable" else error from None
        if is_cut:
            raise cut


def _picture(file: IO[bytes], options: DecodeOptions) -> Iterator[DecodedFrame]:
    frames = (
        (Fraction(at), (duration, source, pixels)) for at, duration, source, pixels in picture_frames(file, options)
    )
    for at, (duration, source, pixels) in sampled(frames, options, Fraction(0)):
        flags = ["upscaled"] if _is_small(source, options) else []
        yield DecodedFrame(
            pixels_HWC=fit(pixels, options),
            seconds=float(at),
            duration_seconds=duration,
            source=source,
            flags=(*flags, "still") if duration == 0 else tuple(flags),
        )


def _is_small(source: SourceInfo, options: DecodeOptions) -> bool:
    sides = (source.width, source.height)
    return (max(sides) if options.crop == "pad" else min(sides)) < options.size


def _survey(container: InputContainer, stream: VideoStream) -> tuple[list[PacketTimes], bool]:
    """The times of all packets, without decoding one; and whether some are missing at the end."""
    packets = []
    try:
        for packet in container.demux(stream):
            if packet.size:  # the last, empty one only says that there are no more
                packets.append(PacketTimes(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard))
    except av.error.FFmpegError:
        pass  # decoding meets it too, and says it
    is_listing = container.format.name in _LISTING_FORMATS
    return packets, is_listing and len(packets) < stream.frames


class _Decoding:
    """One video on its way from packets to frames."""

    def __init__(
        self,
        container: InputContainer,
        stream: VideoStream,
        source: SourceInfo,
        rate: Fraction,
        options: DecodeOptions,
        on_progress: Callable[[], None],
    ) -> None:
        self._container = container
        self._stream = stream
        self._source = source
        self._rate = rate
        self._options = options
        self._on_progress = on_progress
        self._flags: dict[str, None] = {}  # in the order of their appearance
        self._came_out = 0
        self._said: list[tuple[int, str, str]] = []  # FFmpeg's log

    def frames(self, packets: list[PacketTimes]) -> Iterator[DecodedFrame]:
        """Yields the frames to keep."""
        if self._options.threads > 1:
            # FFmpeg's threads would wait for Python's lock to write to the log, and may do so for ever.
            yield from self._frames(packets)
            return
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture(local=False) as self._said:
                yield from self._frames(packets)
        finally:
            av.logging.set_level(None)

    def _frames(self, packets: list[PacketTimes]) -> Iterator[DecodedFrame]:
        if _is_small(self._source, self._options):
            self._flags["upscaled"] = None
        base = self._stream.time_base or Fraction(1)
        timeline = Timeline(packets, base, self._rate, reorders=bool(self._stream.codec_context.has_b_frames))
        # A deinterlacer looks at the frames around, so that none may be left out.
        if timeline.is_sure and not is_interlaced(self._stream):
            chosen = {pts: time for time, pts in sampled(timeline.times(), self._options, self._rate)}
            cares = plan_packets(packets, chosen)
            decoded = deinterlaced(self._decoded(cares), self._stream, self._flags)
            taken: Iterator[tuple[Fraction, VideoFrame]] = (
                (chosen[frame.pts], frame) for frame in decoded if frame.pts in chosen
            )
        else:
            decoded = deinterlaced(self._decoded(None), self._stream, self._flags)
            taken = sampled(self._placed(decoded, timeline), self._options, self._rate)
        number = 0  # of those that are kept
        geometry: Geometry | None = None
        for time, frame in taken:
            if time > self._options.max_seconds:
                raise SampleError(
                    "decode", "limit", f"a frame at {float(time):,.1f} s is beyond {self._options.max_seconds:,.1f} s"
                )
            if geometry is None:
                geometry = _geometry(self._stream, frame)
            pixels = self._pixels(frame, geometry)
            number += 1
            yield DecodedFrame(
                pixels_HWC=pixels,
                seconds=float(time),
                duration_seconds=float(1 / self._rate) if self._rate else 0.0,
                source=self._source,
                flags=tuple(self._flags),
            )
        if number == 0:
            what = f"{self._came_out} frames come out of {len(packets)} packets of {self._source.codec}"
            raise SampleError("decode", "unreadable", f"{what}, and none is among those asked for")

    def _pixels(self, frame: VideoFrame, geometry: Geometry) -> Pixels:
        if frame.color_trc in TRANSFERS:
            self._flags["tone_mapped"] = None
        return frame_pixels(frame, self._options, geometry)

    def _placed(self, frames: Iterator[VideoFrame], timeline: Timeline) -> Iterator[tuple[Fraction, VideoFrame]]:
        for frame in frames:
            time = timeline.place(frame.pts, frame.dts)
            self._flags |= timeline.flags
            if time is not None:
                yield time, frame

    def _decoded(self, cares: list[Care] | None) -> Iterator[VideoFrame]:
        """What the decoder gives, each frame whole."""
        context = self._stream.codec_context
        try:
            for packet, care, is_behind_a_gap in self._packets(cares):
                if is_behind_a_gap and not context.codec.intra_only:
                    # As after a seek: the decoder gives what it holds, and must not look for what it did not get.
                    yield from self._checked(context.decode(None))
                    context.flush_buffers()
                if cares is not None and context.name in _SKIPPING_CODECS:
                    context.skip_frame = "NONREF" if care is Care.REFERENCE else "DEFAULT"
                yield from self._checked(packet.decode())
        except av.error.FFmpegError as error:
            if isinstance(error, av.error.MemoryError):
                raise
            raise SampleError("decode", "unreadable", f"decoding {context.name} fails: {said(error)}") from None

    def _packets(self, cares: list[Care] | None) -> Iterator[tuple["Packet[VideoStream]", Care, bool]]:
        """The packets to decode, what is done with each, and whether it is the key behind groups that were dropped."""
        gap = False
        number = 0
        for packet in self._container.demux(self._stream):
            care = Care.DECODE
            if packet.is_corrupt:
                self._flags["damaged_packets"] = None
            if cares is not None and packet.size and number < len(cares):
                care = cares[number]
                number += 1
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
        self._came_out += 1
        # FFmpeg makes do with what it has, and says so in its log alone.
        if any(level <= av.logging.ERROR and name == self._source.codec for level, name, _ in self._said):
            self._flags["decoder_errors"] = None
        if self._came_out > self._options.max_frames:
            raise SampleError("decode", "limit", f"more than {self._options.max_frames:,} frames come out")
        if frame.is_corrupt:
            raise SampleError(
                "decode", "unreadable", f"frame {self._came_out} of those that {self._source.codec} gives is damaged"
            )


def _geometry(stream: VideoStream, frame: VideoFrame) -> Geometry:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    turn = turned_matrix(bytes(matrix)) if matrix is not None else (1, 0, 0, 1)
    return Geometry(aspect=aspect if aspect > 0 else Fraction(1), turn=turn)
