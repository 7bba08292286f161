"""vidtok bench decode: frames a second of a decoder, as a ratio to PyAV decoding to rgb24 in this process."""

import io
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import cast

import av
from av.container import InputContainer

from jobs.bench.sources import CODECS, encoded, scene
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.records import Video, VideoRef

__all__ = ["DecodeRatio", "bench_decode"]

_RESIZED = 256  # what a job for a corpus asks for
_SECONDS = 0.25  # of the baseline in each pair, at least: a short video is decoded that many times


@dataclass(frozen=True)
class DecodeRatio:
    """What was measured of one codec at one size.

    Attributes:
        codec: FFmpeg's encoder.
        height: pixels of the source, which is 16:9.
        plain_fps: frames a second of the baseline, median of the runs.
        ratio: ours to the baseline, both of whole frames at the source's size: median of the pairs.
        tuned: ours to PyAV converting in one thread, which PyAV does not by itself: median.
        lowest: the lowest of the pairs.
        highest: the highest of the pairs.
        resized_to: the side of the middle square that a job makes, and
        resized: ours with that to the same baseline, which does not resize: median.
    """

    codec: str
    height: int
    plain_fps: float
    ratio: float
    lowest: float
    highest: float
    tuned: float
    resized_to: int
    resized: float


def bench_decode(
    heights: Sequence[int],
    *,
    codecs: Sequence[str] = tuple(CODECS),
    num_frames: int | None = None,
    runs: int = 5,
    on_result: Callable[[DecodeRatio], None],
) -> list[dict[str, object]]:
    """Measures each codec at each size, one thread and one decoder; the two sides take turns.

    Args:
        heights: of the sources, in pixels.
        codecs: FFmpeg's encoders.
        num_frames: of each source; None: 64, and more of small ones, up to ten seconds.
        runs: pairs.
        on_result: called with each result.
    """
    results = []
    with closing(DecoderPool(1, DecoderLimits())) as pool:
        for height in heights:
            frames = scene(height, num_frames or max(64, min(250, 64_000 // height)))
            for codec in codecs:
                result = _measured(pool, codec, height, encoded(codec, frames), len(frames), runs)
                on_result(result)
                results.append(asdict(result))
    return results


def _measured(pool: DecoderPool, codec: str, height: int, data: bytes, num_frames: int, runs: int) -> DecodeRatio:
    whole = DecodeOptions(size=height, crop="keep")
    side = min(_RESIZED, height // 2)
    square = DecodeOptions(size=side)
    _ours(pool, [data], whole)  # starts the decoder
    videos = [data] * math.ceil(_SECONDS / _plain([data]))
    turns = [
        (_plain(videos), _ours(pool, videos, whole), _plain(videos, threads=1), _ours(pool, videos, square))
        for _ in range(runs)
    ]
    ratios = [plain / ours for plain, ours, _, _ in turns]
    return DecodeRatio(
        codec=codec,
        height=height,
        plain_fps=num_frames * len(videos) / statistics.median(plain for plain, _, _, _ in turns),
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        tuned=statistics.median(tuned / ours for _, ours, tuned, _ in turns),
        resized_to=side,
        resized=statistics.median(plain / resized for plain, _, _, resized in turns),
    )


def _plain(videos: Sequence[bytes], threads: int | None = None) -> float:
    began = time.perf_counter()
    for data in videos:
        with cast(InputContainer, av.open(io.BytesIO(data))) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = 1
            for frame in container.decode(stream):
                # Without `threads`, PyAV starts as many as there are cores for each frame, to which small ones lose.
                frame.to_ndarray(format="rgb24", threads=threads)
    return time.perf_counter() - began


def _ours(pool: DecoderPool, videos: Sequence[bytes], options: DecodeOptions) -> float:
    began = time.perf_counter()
    refs = [
        VideoRef(shard_id="", source_shard="", key=str(number), occurrence=0, size_bytes=len(data))
        for number, data in enumerate(videos)
    ]
    sent = [Video(ref=ref, data=data, end=None) for ref, data in zip(refs, videos, strict=True)]
    for _, frames in pool.decode(sent, options):
        for _ in frames:
            pass
    return time.perf_counter() - began
