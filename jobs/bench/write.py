"""vidtok bench write: tokens a second of one core, from encoded clips to a part that is in a local store."""

import statistics
import tempfile
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.records import Batch, Clip, EncodedClip, Position, Shard, SourceInfo, VideoEnd, VideoRef
from pipeline.rows import build_rows, row_schema
from pipeline.shard_log import ShardLog
from pipeline.storage import open_store

__all__ = ["GRID", "WriteRate", "batches_of", "bench_write"]

GRID = (5, 32, 32)  # of a clip of 17x256x256, compressed 4x8x8
_CODEBOOK = 32768
_CLIPS_OF_A_VIDEO = 10


@dataclass(frozen=True)
class WriteRate:
    """What was measured.

    Attributes:
        tokens: of a part.
        tokens_per_second: of CPU time, in one thread: median.
        lowest: the lowest of the runs.
        highest: the highest of the runs.
        ratio: to copying the tokens' bytes by numpy in the same process: median.
        bytes_per_token: of the file.
    """

    tokens: int
    tokens_per_second: float
    lowest: float
    highest: float
    ratio: float
    bytes_per_token: float


def bench_write(*, runs: int, part_mib: int = 64) -> WriteRate:
    """Writes parts of random tokens, which no compression makes smaller than their 15 bits."""
    draw = np.random.default_rng(0)
    count = part_mib * 2**20 // (4 * int(np.prod(GRID)))
    tokens = draw.integers(0, _CODEBOOK, (count, *GRID), np.int32)
    rates, ratios, sizes = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        for run in range(-1, runs):
            batches = [(batch, [EncodedClip(tokens_THW=one) for one in found]) for batch, found in batches_of(tokens)]
            shard = Shard(shard_id=f"bench-{run + 1}", path="bench.tar", size_bytes=0, etag=None)
            schema = row_schema(is_discrete=True, logvar=False)
            log = ShardLog(store, shard, schema=schema, provenance={"fingerprint": ""}, attempt_id=f"{run + 1:032x}")
            began = time.process_time()
            (part,) = build_rows(batches, logvar=False)
            log.append(part)
            seconds = time.process_time() - began
            began = time.process_time()
            for _ in range(10):
                tokens.copy()
            copying = (time.process_time() - began) / 10
            if run < 0:  # its memory is new to the process, which a worker's is once
                continue
            rates.append(tokens.size / seconds)
            ratios.append(copying / seconds)
            sizes.append(log.parts[0].size_bytes)
    return WriteRate(
        tokens=tokens.size,
        tokens_per_second=statistics.median(rates),
        lowest=min(rates),
        highest=max(rates),
        ratio=statistics.median(ratios),
        bytes_per_token=sizes[0] / tokens.size,
    )


def batches_of(values: npt.NDArray[Any], *, first: int = 0) -> list[tuple[Batch, npt.NDArray[Any]]]:
    """A batch a video, with what was encoded of its clips; the last one closes the part.

    Args:
        values: tokens or latents of the part's clips, in order.
        first: how many clips came in parts before.
    """
    frames = np.broadcast_to(np.uint8(0), (17, 256, 256, 3))
    source = SourceInfo(width=1280, height=720, fps=30.0, codec="h264")
    batches = []
    for begin in range(0, len(values), _CLIPS_OF_A_VIDEO):
        found = values[begin : begin + _CLIPS_OF_A_VIDEO]
        ref = VideoRef(
            shard_id="bench", source_shard="bench.tar", key=f"video-{first + begin:08d}", occurrence=0,
            size_bytes=10**6, text={"txt": "A caption of a usual length, as one finds them beside videos."},
        )  # fmt: skip
        made = [
            Clip(
                ref=ref, source=source, clip_index=index, frames_THWC=frames, duration_seconds=17 / 8,
                frame_seconds=np.arange(17) / 8 + index, num_padded_frames=0, flags=(),
            )
            for index in range(len(found))
        ]  # fmt: skip
        end = Position(sample=first + begin + 1, offset=first + begin + 1)
        batches.append((Batch(clips=made, ends=[VideoEnd(ref=ref, reject=None, end=end)]), found))
    batches[-1][0].closes_part = True
    return batches
