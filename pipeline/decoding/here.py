"""Decoding in the worker's own process: to debug, and to compare with."""

import dataclasses
import io
from collections.abc import Iterable, Iterator

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.records import DecodedFrame, Video

__all__ = ["DecoderHere"]


class DecoderHere:
    """Decodes one video after another; one that hangs or crashes takes this process with it."""

    def decode(self, videos: Iterable[Video], options: DecodeOptions) -> Iterator[tuple[Video, Iterator[DecodedFrame]]]:
        """See DecoderPool.decode."""
        for video in videos:
            frames: Iterator[DecodedFrame] = iter(())
            if video.reject is None:
                start, end = video.span
                of_span = dataclasses.replace(options, start_seconds=start, end_seconds=end)
                frames = decode_frames(io.BytesIO(video.data), len(video.data), of_span)
            yield dataclasses.replace(video, data=b""), frames

    def close(self) -> None:
        """There is nothing to end."""
