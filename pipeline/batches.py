"""batch_clips: clips of one shard grouped into batches of one size, and the batches into parts."""

from collections.abc import Callable, Iterable, Iterator

from pipeline.records import Batch, Clip, VideoEnd

__all__ = ["batch_clips"]


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
    batch = Batch(clips=[], ends=[])
    payload = 0
    video_bytes = 0  # of the video under way, which may yet be rejected
    for item in items:
        if isinstance(item, Clip):
            batch.clips.append(item)
            video_bytes += clip_bytes(item)
            if len(batch.clips) == batch_size:
                yield batch
                batch = Batch(clips=[], ends=[])
            continue
        batch.ends.append(item)
        payload += 0 if item.reject else video_bytes
        video_bytes = 0
        if payload >= part_bytes and item.end is not None:
            batch.closes_part = True
            yield batch
            batch, payload = Batch(clips=[], ends=[]), 0
    if batch.clips or batch.ends:
        batch.closes_part = True
        yield batch
