"""batch_clips: clips of one shard grouped into batches of one shape, and the batches into parts."""

import math
from collections.abc import Callable, Iterable, Iterator

from pipeline.records import Batch, Clip, VideoEnd
from vidtok_model import TokenizerConfig

__all__ = ["batch_clips", "bytes_per_position", "num_positions"]


def batch_clips(
    items: Iterable[Clip | VideoEnd], *, batch_size: int, part_bytes: int, clip_bytes: Callable[[Clip], int]
) -> Iterator[Batch]:
    """Fills batches across the videos of a shard, and says where its parts end.

    A part ends with the first video whose end brings it to `part_bytes`. Batches never cross a part: a part's
    batches follow from where it begins, so a run that resumes there makes the same ones.

    Args:
        items: clips, and after those of a video its end.
        batch_size: clips of a batch at most; the last batch of a part may hold fewer.
        part_bytes: payload after which a part is closed.
        clip_bytes: payload of a clip's row.
    """
    buckets: dict[tuple[int, ...], list[Clip]] = {}  # clips that wait for others of their shape
    ends: list[VideoEnd] = []
    payload = 0
    video_bytes = 0  # of the video under way, which may yet be rejected

    def close_part() -> Iterator[Batch]:
        rest = [Batch(clips=clips, ends=[]) for clips in buckets.values() if clips] or [Batch(clips=[], ends=[])]
        rest[-1].ends, rest[-1].closes_part = list(ends), True
        buckets.clear()
        ends.clear()
        yield from rest

    for item in items:
        if isinstance(item, Clip):
            bucket = buckets.setdefault(item.frames_THWC.shape, [])
            bucket.append(item)
            video_bytes += clip_bytes(item)
            if len(bucket) == batch_size:
                yield Batch(clips=list(bucket), ends=list(ends))
                bucket.clear()
                ends.clear()
            continue
        ends.append(item)
        payload += 0 if item.reject else video_bytes
        video_bytes = 0
        if payload >= part_bytes and item.end is not None:
            yield from close_part()
            payload = 0
    if any(buckets.values()) or ends:
        yield from close_part()


def num_positions(config: TokenizerConfig, clip: Clip) -> int:
    """Positions of a clip's latent grid: its tokens, for an FSQ model."""
    frames, height, width, _ = clip.frames_THWC.shape
    return math.prod(config.latent_shape(frames, height, width)[1:])


def bytes_per_position(config: TokenizerConfig, *, logvar: bool) -> int:
    """Payload bytes of one position in a row: an int32 token, or float16 channels."""
    return 4 if config.is_discrete else 2 * config.latent_channels * (2 if logvar else 1)
