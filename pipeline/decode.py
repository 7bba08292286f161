"""decode_video: the frames of one video that the job asks for, each with its own presentation time.

Frames come from PyAV. Presentation times decide which frames are taken; nothing is derived from an assumed rate.
"""

import io
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

import av
import av.error
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from PIL import Image

from pipeline.config import ClipsConfig
from pipeline.errors import SampleError
from pipeline.records import Frames, SourceInfo, Video

__all__ = ["SAMPLER_VERSION", "DecodedFrame", "decode_video", "resize_and_crop"]

# Enters the fingerprint. Raise it when the same job would take other frames or make other pixels of them.
SAMPLER_VERSION = 1
# A "video" may be a playlist, which must not open the files or links that it names.
_NO_FILES = {"protocol_whitelist": "none"}


@dataclass(frozen=True, kw_only=True)
class DecodedFrame:
    """One frame of a video, sampled, resized and cropped.

    Attributes:
        pixels_HWC: uint8 RGB.
        seconds: presentation time from the video's first frame.
        duration_seconds: how long it is shown, by the source's rate (0 where that is not known).
        source: the video's size, rate and codec.
        flags: what was unusual up to this frame.
    """

    pixels_HWC: Frames
    seconds: float
    duration_seconds: float
    source: SourceInfo
    flags: tuple[str, ...]


def decode_video(video: Video, clips: ClipsConfig, *, threads: int = 1) -> Iterator[DecodedFrame]:
    """Decodes a video and yields the frames to keep, in the order of their times.

    With `clips.fps`, time is cut into slots of 1/fps and the first frame of each slot is taken, so a frame is
    never taken twice and a slower source keeps its own rate. The slots begin half a source frame early, which
    makes the choice that of the nearest frame, and indifferent to times rounded to a coarse time base. With
    `clips.every`, every n-th frame is taken; with neither, every frame.

    Args:
        video: the encoded video.
        clips: rate, size and crop.
        threads: decoding threads.

    Raises:
        SampleError: `no_video` (nothing to show in it), `unreadable` (not a video, or damaged).
    """
    flags: dict[str, None] = {}  # in the order of their appearance
    with _open(video) as container:
        stream = cast("VideoStream | None", container.streams.best("video"))  # never a cover
        if stream is None:
            raise SampleError("probe", "no_video", f"{_summary(video, container)} has no video stream")
        if stream.codec_context is None:
            raise SampleError(
                "probe", "unreadable", f"{_summary(video, container)} is in a codec that FFmpeg cannot decode"
            )
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = threads
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        source = SourceInfo(
            width=stream.codec_context.width,
            height=stream.codec_context.height,
            fps=float(rate),
            codec=stream.codec_context.name,
        )
        if min(source.width, source.height) < clips.size:
            flags["upscaled"] = None
        number = 0
        for seconds, frame in _sampled(_timed(_frames(container, stream), rate, flags), clips, rate):
            number += 1
            yield DecodedFrame(
                pixels_HWC=resize_and_crop(_rgb(frame), clips.size),
                seconds=float(seconds),
                duration_seconds=float(1 / rate) if rate else 0.0,
                source=source,
                flags=tuple(flags),
            )
        if number == 0:
            raise SampleError("decode", "unreadable", f"{_summary(video, container)} decodes to no frame")


def resize_and_crop(pixels_HWC: Frames, size: int) -> Frames:
    """Resizes so that the shorter side is `size` (bilinear, antialiased), then crops the middle square.

    Only the part that is kept is computed. The larger side becomes int(size * larger / shorter), and the crop
    begins at round((larger - size) / 2), as in the published preprocessing.

    Args:
        pixels_HWC: uint8 RGB.
        size: pixels of the result's sides.
    """
    height, width, _ = pixels_HWC.shape
    scale = size / min(height, width)
    scaled_height = size if height <= width else int(size * height / width)
    scaled_width = size if width <= height else int(size * width / height)
    top, left = round((scaled_height - size) / 2), round((scaled_width - size) / 2)
    if scale == 1:
        return np.ascontiguousarray(pixels_HWC[top : top + size, left : left + size])
    across, down = width / scaled_width, height / scaled_height
    box = (left * across, top * down, (left + size) * across, (top + size) * down)
    image = Image.fromarray(pixels_HWC).resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(image)


def _open(video: Video) -> AbstractContextManager[InputContainer]:
    if not video.data:
        raise SampleError("probe", "unreadable", "the video has 0 bytes")
    try:
        return cast(
            "AbstractContextManager[InputContainer]",
            av.open(io.BytesIO(video.data), metadata_errors="ignore", options=_NO_FILES),
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise SampleError(
            "probe", "unreadable", f"{len(video.data)} bytes that no demuxer recognises as a video: {_said(error)}"
        ) from None


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame]:
    try:
        yield from container.decode(stream)
    except av.error.FFmpegError as error:
        raise SampleError(
            "decode", "unreadable", f"decoding {stream.codec_context.name} fails: {_said(error)}"
        ) from None


def _rgb(frame: VideoFrame) -> Frames:
    try:
        return cast(Frames, frame.to_ndarray(format="rgb24"))
    except (av.error.FFmpegError, ValueError) as error:
        raise SampleError(
            "decode",
            "unreadable",
            f"a {frame.width}x{frame.height} {frame.format.name} frame has no RGB form: {_said(error)}",
        ) from None


def _timed(
    frames: Iterator[VideoFrame], rate: Fraction, flags: dict[str, None]
) -> Iterator[tuple[Fraction, VideoFrame]]:
    """Gives each frame its time from the first one's; times always rise."""
    first: Fraction | None = None
    last: Fraction | None = None
    for frame in frames:
        if frame.pts is not None and frame.time_base:
            time = frame.pts * Fraction(frame.time_base)
        else:
            flags["missing_times"] = None
            time = Fraction(0) if last is None or first is None else first + last + (1 / rate if rate else 0)
        if first is None:
            first = time
        if last is not None and time - first <= last:
            # A frame shown after a later one has no place of its own in time.
            flags["backward_times"] = None
            continue
        last = time - first
        yield last, frame


def _sampled(
    timed: Iterator[tuple[Fraction, VideoFrame]], clips: ClipsConfig, rate: Fraction
) -> Iterator[tuple[Fraction, VideoFrame]]:
    if clips.fps is None:
        for number, item in enumerate(timed):
            if number % (clips.every or 1) == 0:
                yield item
        return
    wanted = Fraction(clips.fps).limit_denominator(1_000_000)
    early = min(1 / rate, 1 / wanted) / 2 if rate else Fraction(0)
    slot = -1
    for seconds, frame in timed:
        own = int((seconds + early) * wanted)
        if own > slot:
            slot = own
            yield seconds, frame


def _summary(video: Video, container: InputContainer) -> str:
    kinds = ", ".join(stream.type for stream in container.streams) or "no streams"
    return f"a {container.format.name} file of {len(video.data)} bytes ({kinds})"


def _said(error: Exception) -> str:
    strerror = getattr(error, "strerror", None)
    return str(strerror or error)
