"""decode_frames: the page to read first of this package. The frames of one video that a job asks for.

    OpenedVideo: survey its packets' times -> choose frames and packets -> seek, decode -> deinterlace -> place in time
                 -> sample -> upright RGB pixels, resized and cropped

It runs in a decoder, a child process without torch; `executor.decoders: 0` runs it in the worker, to debug.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from fractions import Fraction
from typing import IO, Any

import numpy as np
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipeline.decoding.codec import Codec
from pipeline.decoding.container import check_source, ffmpeg_log
from pipeline.decoding.deinterlace import deinterlaced, is_interlaced
from pipeline.decoding.direct import ROOM_BEHIND_BYTES
from pipeline.decoding.hdr import TRANSFERS
from pipeline.decoding.opened import OpenedVideo
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pixels import Geometry, Pixels, Room, fit, frame_pixels, turned_matrix
from pipeline.decoding.skipping import Care, plan_packets
from pipeline.decoding.stills import is_picture, picture_frames
from pipeline.decoding.timing import Timeline, sampled
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame, SourceInfo

__all__ = ["SAMPLER_VERSION", "decode_frames", "decode_spans"]

# Enters the fingerprint. Raise it when the same job would take other frames or make other pixels of them.
SAMPLER_VERSION = 3


def _fresh(shape: tuple[int, int, int]) -> Pixels:
    size = math.prod(shape)
    return np.empty(size + ROOM_BEHIND_BYTES, np.uint8)[:size].reshape(shape)


Span = tuple[float | None, float | None]


def decode_frames(
    file: IO[bytes],
    size_bytes: int,
    options: DecodeOptions,
    on_progress: Callable[[], None] = lambda: None,
    on_probe: Callable[[float | None], None] = lambda _: None,
) -> Iterator[DecodedFrame]:
    """Decodes a video and yields the frames to keep; see `decode_spans`, of which this is the form for one span."""
    spans = [(options.start_seconds, options.end_seconds)]
    for frames in decode_spans(file, size_bytes, options, spans, on_progress, on_probe):
        yield from frames


def decode_spans(
    file: IO[bytes],
    size_bytes: int,
    options: DecodeOptions,
    spans: Sequence[Span],
    on_progress: Callable[[], None] = lambda: None,
    on_probe: Callable[[float | None], None] = lambda _: None,
    room: Room = _fresh,
) -> Iterator[Iterator[DecodedFrame]]:
    """Decodes spans of a video, which is opened once, and yields for each the frames to keep, in the order of time.

    Args:
        file: the encoded video, seekable.
        size_bytes: its size, for messages.
        options: which frames, and how they are to look.
        spans: from and to which second; None: from the beginning, to the end. The quickest order is that of time.
        on_progress: called for each frame that comes out of the decoder.
        on_probe: called once with the seconds that the container promises, or None.
        room: gives memory for the next frame, with ROOM_BEHIND_BYTES that are free behind it; not every frame uses it.

    Raises:
        SampleError: by the frames of a span: `no_video`, `unreadable`, `truncated`, `limit`, `filtered` or `invalid`
            (no such span). With a video that breaks off in the middle, the frames before come first.
    """
    beginning = file.read(12)
    file.seek(0)
    with closing(OpenedVideo(file, size_bytes, options)) as video:
        for start, end in spans:
            of_span = dataclasses.replace(options, start_seconds=start, end_seconds=end)
            if is_picture(beginning):
                yield _picture(file, of_span)
            else:
                yield _frames_of(video, of_span, on_progress, on_probe, room)


def _frames_of(
    video: OpenedVideo,
    options: DecodeOptions,
    on_progress: Callable[[], None],
    on_probe: Callable[[float | None], None],
    room: Room,
) -> Iterator[DecodedFrame]:
    if not video.is_surveyed:
        video.survey()
        on_probe(video.seconds)
    check_source(video.source, video.seconds, options)
    promised = f" of {video.promised} in its index" if video.promised > len(video.packets) else ""
    cut = SampleError("decode", "truncated", f"{len(video.packets)} packets are there{promised}, and it breaks off")
    try:
        yield from _Decoding(video, options, on_progress, room).frames()
    except SampleError as error:
        raise cut if video.is_cut and error.error in ("unreadable", "invalid") else error from None
    if video.is_cut and not video.holds(options.end_seconds):
        raise cut


def _picture(file: IO[bytes], options: DecodeOptions) -> Iterator[DecodedFrame]:
    frames = (
        (Fraction(at), (duration, source, pixels)) for at, duration, source, pixels in picture_frames(file, options)
    )
    number = 0
    for at, (duration, source, pixels) in sampled(frames, options, Fraction(0)):
        number += 1
        flags = ["upscaled"] if _is_small(source, options) else []
        yield DecodedFrame(
            pixels_HWC=fit(pixels, options),
            seconds=float(at),
            duration_seconds=duration,
            source=source,
            flags=(*flags, "still") if duration == 0 else tuple(flags),
        )
    if number == 0:
        raise SampleError("probe", "invalid", f"no frame is in the span from {options.start_seconds or 0:g} s")


def _is_small(source: SourceInfo, options: DecodeOptions) -> bool:
    if options.size is None:
        return False
    sides = (source.width, source.height)
    return (max(sides) if options.crop == "pad" else min(sides)) < options.size


class _Decoding:
    """One span of a video on its way from packets to frames."""

    def __init__(self, video: OpenedVideo, options: DecodeOptions, on_progress: Callable[[], None], room: Room) -> None:
        self._video = video
        self._options = options
        self._room = room
        self._flags: dict[str, None] = {}  # in the order of their appearance
        self._codec = Codec(video, options, self._flags, on_progress)

    def frames(self) -> Iterator[DecodedFrame]:
        """Yields the frames to keep."""
        if self._options.threads > 1:
            yield from self._frames()
            return
        with ffmpeg_log() as self._codec.said:
            yield from self._frames()

    def _frames(self) -> Iterator[DecodedFrame]:
        source, rate = self._video.source, self._video.rate
        if _is_small(source, self._options):
            self._flags["upscaled"] = None
        number = 0  # of those that are kept
        geometry: Geometry | None = None
        start, duration = self._options.start_seconds or 0.0, float(1 / rate) if rate else 0.0
        for time, frame in self._taken():
            seconds = float(time)
            if seconds - start > self._options.max_seconds:
                message = f"a frame at {seconds - start:,.1f} s is beyond {self._options.max_seconds:,.1f} s"
                raise SampleError("decode", "limit", message)
            if geometry is None:
                geometry = _geometry(self._video.stream, frame)
            pixels = self._pixels(frame, geometry)
            number += 1
            yield DecodedFrame(
                pixels_HWC=pixels,
                seconds=seconds,
                duration_seconds=duration,
                source=source,
                flags=tuple(self._flags),
            )
        if number == 0:
            what = f"{self._codec.came_out} frames come out of {len(self._video.packets)} packets of {source.codec}"
            raise SampleError("decode", "unreadable", f"{what}, and none is among those asked for")

    def _taken(self) -> Iterator[tuple[Fraction, VideoFrame]]:
        """The frames to keep, as decoded, and their times."""
        timeline, rate = self._video.timeline(), self._video.rate
        last: Fraction | None = None
        # A deinterlacer looks at the frames around, so that none may be left out.
        if timeline.is_sure and not is_interlaced(self._video.stream):
            chosen = self._chosen(timeline)
            expected = iter(chosen)
            for frame in self._decoded_for(chosen):
                if frame.pts != next(expected):
                    break  # in another order, or one did not come out: a key that is none, or damage
                last = chosen[frame.pts]
                yield last, frame
            else:
                if next(expected, None) is None:
                    return
        # All of it, in the order in which it comes out; from where the other way ended.
        decoded = deinterlaced(self._codec.frames(self._video.all_packets(), {}), self._video.stream, self._flags)
        for time, frame in sampled(self._placed(decoded, self._video.timeline()), self._options, rate):
            if last is None or time > last:
                yield time, frame

    def _chosen(self, timeline: Timeline) -> dict[int, Fraction]:
        """The times of the frames to keep, in their order, by those of their packets."""
        times = timeline.times()
        chosen = {pts: time for time, pts in sampled(times, self._options, self._video.rate)}
        if times and not chosen:
            asked = f"from {self._options.start_seconds or 0:g} s"
            message = f"no frame is in the span {asked}; the last one is at {float(times[-1][0]):g} s"
            raise SampleError("probe", "invalid", message)
        return chosen

    def _decoded_for(self, chosen: Mapping[int, Fraction]) -> Iterator[VideoFrame]:
        """Those frames, without decoding more than they need."""
        if not chosen:
            return
        cares = plan_packets(self._video.trusted_packets(), chosen)
        first = next(number for number, care in enumerate(cares) if care is not Care.DROP)
        last = max(number for number, care in enumerate(cares) if care is Care.DECODE)
        packets = self._video.packets_from(first, None if self._options.end_seconds is None else last)
        by_pts = {packet.pts: care for packet, care in zip(self._video.packets, cares, strict=True)}
        decoded = deinterlaced(self._codec.frames(packets, by_pts), self._video.stream, self._flags)
        yield from (frame for frame in decoded if frame.pts in chosen)

    def _pixels(self, frame: VideoFrame, geometry: Geometry) -> Pixels:
        if frame.color_trc in TRANSFERS:
            self._flags["tone_mapped"] = None
        return frame_pixels(frame, self._options, geometry, self._room)

    def _placed(self, frames: Iterator[VideoFrame], timeline: Timeline) -> Iterator[tuple[Fraction, VideoFrame]]:
        for frame in frames:
            time = timeline.place(frame.pts, frame.dts)
            self._flags |= timeline.flags
            if time is not None:
                yield time, frame


def _geometry(stream: VideoStream, frame: VideoFrame) -> Geometry:
    aspect = stream.sample_aspect_ratio or Fraction(1)
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    turn = turned_matrix(bytes(matrix)) if matrix is not None else (1, 0, 0, 1)
    return Geometry(aspect=aspect if aspect > 0 else Fraction(1), turn=turn)
