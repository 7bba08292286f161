"""vidtok bench decode: frames a second of a decoder, as a ratio to PyAV decoding to rgb24 in this process."""

import io
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.records import Video, VideoRef

__all__ = ["DecodeRatio", "bench_decode"]

_CODECS = {"libx264": "mp4", "libx265": "mp4", "libvpx-vp9": "webm", "mpeg4": "avi", "mpeg2video": "mpegts"}
_OPTIONS = {
    "libx265": {"x265-params": "log-level=none", "preset": "ultrafast"},
    "libvpx-vp9": {"cpu-used": "8", "deadline": "realtime"},
}


@dataclass(frozen=True)
class DecodeRatio:
    """What was measured of one codec at one size.

    Attributes:
        codec: FFmpeg's encoder.
        size: pixels of the source's sides.
        plain_fps: frames a second of the baseline, median of the runs.
        ratio: ours to the baseline, both at the source's size: median of the pairs.
        lowest: the lowest of the pairs.
        highest: the highest of the pairs.
        resized: the same with every frame resized to half the size: median.
    """

    codec: str
    size: int
    plain_fps: float
    ratio: float
    lowest: float
    highest: float
    resized: float


def bench_decode(
    sizes: Sequence[int], *, num_frames: int = 300, runs: int = 5, on_result: Callable[[DecodeRatio], None]
) -> list[dict[str, object]]:
    """Measures each codec at each size, one thread and one decoder; the two sides take turns.

    Args:
        sizes: of the sources, in pixels.
        num_frames: of each source, which is made here and moves.
        runs: pairs.
        on_result: called with each result.
    """
    results = []
    with closing(DecoderPool(1, DecoderLimits())) as pool:
        for size in sizes:
            for codec in _CODECS:
                data = _video(codec, size, num_frames)
                _ours(pool, data, size)  # starts the decoder
                triples = [(_plain(data), _ours(pool, data, size), _ours(pool, data, size // 2)) for _ in range(runs)]
                ratios = [plain / ours for plain, ours, _ in triples]
                result = DecodeRatio(
                    codec=codec,
                    size=size,
                    plain_fps=num_frames / statistics.median(plain for plain, _, _ in triples),
                    ratio=statistics.median(ratios),
                    lowest=min(ratios),
                    highest=max(ratios),
                    resized=statistics.median(plain / resized for plain, _, resized in triples),
                )
                on_result(result)
                results.append(asdict(result))
    return results


def _plain(data: bytes) -> float:
    began = time.perf_counter()
    with cast(InputContainer, av.open(io.BytesIO(data))) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            frame.to_ndarray(format="rgb24")
    return time.perf_counter() - began


def _ours(pool: DecoderPool, data: bytes, size: int) -> float:
    began = time.perf_counter()
    ref = VideoRef(shard_id="", source_shard="", key="", occurrence=0, size_bytes=len(data))
    for _, frames in pool.decode([Video(ref=ref, data=data, end=None)], DecodeOptions(size=size)):
        for _ in frames:
            pass
    return time.perf_counter() - began


def _video(codec: str, size: int, num_frames: int) -> bytes:
    """Detail that moves, so that there is something to decode."""
    dice = np.random.default_rng(0)
    scene = dice.integers(0, 256, (size // 4 + 1, size // 2, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    sink = io.BytesIO()
    with av.open(sink, "w", format=_CODECS[codec]) as output:
        stream = cast(VideoStream, output.add_stream(codec, rate=25, options=_OPTIONS.get(codec, {})))
        stream.width, stream.height, stream.pix_fmt = size, size, "yuv420p"
        for number in range(num_frames):
            left = number * 2 % size
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(scene[:size, left : left + size]), "rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return sink.getvalue()
