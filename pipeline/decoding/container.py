"""A video's container: opened, its stream chosen, and held against the limits before anything is decoded."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from typing import IO, Any, cast

import av
import av.error
import av.logging
from av.container import InputContainer
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.decoding.options import DecodeOptions
from pipeline.errors import SampleError
from pipeline.records import SourceInfo

__all__ = [
    "alpha_codec",
    "check_size",
    "check_source",
    "duration_of",
    "ffmpeg_log",
    "opened_video",
    "rate_of",
    "said",
    "source_of",
]

# A "video" may be a playlist, which must not open the files or links that it names.
_NO_FILES = {"protocol_whitelist": "none"}


@contextmanager
def opened_video(
    file: IO[bytes], size_bytes: int, options: DecodeOptions, demuxer: Mapping[str, str] | None = None
) -> Iterator[tuple[InputContainer, VideoStream]]:
    """Opens a container and chooses the stream to decode: FFmpeg's best among those that are no cover picture.

    Args:
        file: at the video's beginning.
        size_bytes: its size, for messages.
        options: threads and limits.
        demuxer: more options of FFmpeg's demuxers.

    Raises:
        SampleError: `no_video` (nothing to show in it), `unreadable` (not a video), `limit`.
    """
    limits = {
        **_NO_FILES,
        **(demuxer or {}),
        "max_pixels": str(options.max_pixels),
    }  # of the decoders that probing opens, too
    try:
        container = av.open(cast(Any, file), metadata_errors="ignore", options=limits)
    except (av.error.FFmpegError, ValueError) as error:
        raise SampleError(
            "probe", "unreadable", f"{size_bytes} bytes that no demuxer recognises as a video: {said(error)}"
        ) from None
    with container:
        stream = _choose(container, size_bytes)
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = options.threads
        stream.codec_context.options = {"max_pixels": str(options.max_pixels)}
        yield container, stream


@contextmanager
def ffmpeg_log() -> Iterator[list[tuple[int, str, str]]]:
    """FFmpeg's errors while the block runs: level, what said it, message.

    Not with FFmpeg's threads, which would wait for Python's lock to write to it, and may do so for ever.
    """
    av.logging.set_level(av.logging.ERROR)
    av.logging.set_skip_repeated(False)  # else the same video says less when it is decoded again
    try:
        with av.logging.Capture(local=False) as said:
            yield said
    finally:
        av.logging.set_level(None)


def _choose(container: InputContainer, size_bytes: int) -> VideoStream:
    best = container.streams.best("video")
    videos = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    what = f"a {container.format.name} file of {size_bytes} bytes"
    if not videos:
        kinds = ", ".join(stream.type for stream in container.streams) or "no streams"
        cover = " (a cover picture is no video)" if container.streams.video else ""
        raise SampleError("probe", "no_video", f"{what} ({kinds}) has no video stream{cover}")
    stream = next((video for video in videos if video is best), videos[0])
    if stream.codec_context is None:
        raise SampleError("probe", "unreadable", f"{what} is in a codec that FFmpeg cannot decode")
    return stream


def alpha_codec(name: str, options: DecodeOptions) -> VideoCodecContext:
    """One of FFmpeg's decoders by its name, held to the same limits."""
    codec = cast(VideoCodecContext, av.codec.Codec(name, "r").create())
    codec.thread_count = options.threads
    codec.options = {"max_pixels": str(options.max_pixels)}
    return codec


def rate_of(stream: VideoStream) -> Fraction:
    """Frames a second by the container, or 0 where it does not say."""
    return stream.average_rate or stream.guessed_rate or Fraction(0)


def duration_of(container: InputContainer, stream: VideoStream) -> float | None:
    """Seconds by the container, or None where it does not say."""
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base)
    return None if container.duration is None else container.duration / av.time_base


def source_of(stream: VideoStream) -> SourceInfo:
    """What the container says of the stream."""
    context = stream.codec_context
    return SourceInfo(width=context.width, height=context.height, fps=float(rate_of(stream)), codec=context.name)


def check_size(width: int, height: int, options: DecodeOptions) -> None:
    """Raises a `limit` where a frame has more pixels than allowed."""
    if width * height > options.max_pixels:
        raise SampleError(
            "probe", "limit", f"a frame has {width} x {height} pixels, at most {options.max_pixels:,} are allowed"
        )


def check_source(source: SourceInfo, seconds: float | None, options: DecodeOptions) -> None:
    """Holds what the container says against the limits and filters.

    Raises:
        SampleError: `limit` or `filtered`, naming the value and what is allowed.
    """
    check_size(source.width, source.height, options)
    start = options.start_seconds or 0.0
    ends = [end for end in (seconds, options.end_seconds) if end is not None]
    seconds = max(0.0, min(ends) - start) if ends else None  # of the span
    if seconds is not None and seconds > options.max_seconds:
        raise SampleError("probe", "limit", f"{seconds:,.1f} seconds, at most {options.max_seconds:,.1f} are allowed")
    shorter = min(source.width, source.height)
    filters: list[tuple[bool, str]] = [
        (_below(seconds, options.min_seconds), f"{seconds} seconds, at least {options.min_seconds} are asked for"),
        (
            _below(options.longest_seconds, seconds),
            f"{seconds} seconds, at most {options.longest_seconds} are asked for",
        ),
        (_below(source.fps or None, options.min_fps), f"{source.fps} fps, at least {options.min_fps} are asked for"),
        (_below(options.max_fps, source.fps), f"{source.fps} fps, at most {options.max_fps} are asked for"),
        (
            _below(shorter, options.min_size),
            f"its shorter side has {shorter} pixels, at least {options.min_size} are asked for",
        ),
        (
            options.codecs is not None and source.codec not in options.codecs,
            f"its codec is {source.codec}, asked for are {', '.join(options.codecs or ())}",
        ),
    ]
    if failed := [message for fails, message in filters if fails]:
        raise SampleError("probe", "filtered", "; ".join(failed))


def _below(value: float | None, least: float | None) -> bool:
    return value is not None and least is not None and value < least


def said(error: BaseException) -> str:
    """What an error of FFmpeg's says, without the object's address."""
    strerror = getattr(error, "strerror", None)
    return str(strerror or error) or os.strerror(getattr(error, "errno", 0) or 0)
