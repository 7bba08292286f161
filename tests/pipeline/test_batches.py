"""Batches never cross a part, lose nothing, and follow from where the part begins."""

import dataclasses
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches import batch_clips
from pipeline.records import Batch, Clip, Position, Reject, SourceInfo, VideoEnd, VideoRef

SOURCE = SourceInfo(width=4, height=4, fps=10.0, codec="h264")
REJECT = Reject(stage="decode", error="unreadable", message="m")


def items_of(videos: list[tuple[int, bool]]) -> list[Clip | VideoEnd]:
    """Clips and ends for videos given as (clips, rejected)."""
    items: list[Clip | VideoEnd] = []
    for number, (clips, rejected) in enumerate(videos, 1):
        ref = VideoRef(shard_id="s", source_shard="s.tar", key=str(number), occurrence=0, size_bytes=1)
        for index in range(clips):
            items.append(
                Clip(
                    ref=ref,
                    source=SOURCE,
                    clip_index=index,
                    frames_THWC=np.zeros((1, 1, 1, 3), np.uint8),
                    frame_seconds=np.zeros(1),
                    duration_seconds=0.0,
                    num_padded_frames=0,
                    flags=(),
                )
            )
        items.append(VideoEnd(ref=ref, reject=REJECT if rejected else None, end=Position(sample=number, offset=0)))
    return items


def batches_of(items: list[Clip | VideoEnd], batch_size: int, part_bytes: int) -> list[Batch]:
    return list(batch_clips(items, batch_size=batch_size, part_bytes=part_bytes, clip_bytes=lambda _: 10))


videos_strategy = st.lists(st.tuples(st.integers(0, 7), st.booleans()), max_size=12)


@given(videos=videos_strategy, batch_size=st.integers(1, 5), part_bytes=st.integers(1, 120))
def test_nothing_is_lost_and_a_part_follows_from_its_start(
    videos: list[tuple[int, bool]], batch_size: int, part_bytes: int
) -> None:
    items = items_of(videos)
    batches = batches_of(items, batch_size, part_bytes)
    assert [clip for batch in batches for clip in batch.clips] == [item for item in items if isinstance(item, Clip)]
    assert [end for batch in batches for end in batch.ends] == [item for item in items if isinstance(item, VideoEnd)]
    assert all(len(batch.clips) <= batch_size for batch in batches)
    assert not batches or batches[-1].closes_part
    for before, batch in pairwise(batches):
        assert len(before.clips) == batch_size or before.closes_part, "a batch is short only at the end of a part"
        if before.closes_part:
            # Begun anew behind the part, the rest of the shard gives the same batches.
            last = before.ends[-1]
            rest = items[next(i for i, item in enumerate(items) if item is last) + 1 :]
            again = batches_of(rest, batch_size, part_bytes)
            following = batches[next(i for i, other in enumerate(batches) if other is batch) :]
            assert [dataclasses.astuple(b)[2:] for b in again] == [dataclasses.astuple(b)[2:] for b in following]
            assert [[id(c) for c in b.clips] for b in again] == [[id(c) for c in b.clips] for b in following]


def test_a_part_ends_with_the_video_that_fills_it() -> None:
    batches = batches_of(items_of([(2, False), (3, True), (2, False), (1, False)]), 2, 40)
    closing = [[end.ref.key for end in batch.ends] for batch in batches if batch.closes_part]
    assert closing[0][-1] == "3", "20 bytes, none of the rejected video's, and 20 more"
    assert closing[1] == ["4"]


def test_no_part_ends_within_a_sample() -> None:
    items = items_of([(4, False), (1, False)])
    within = [
        dataclasses.replace(item, end=None) if isinstance(item, VideoEnd) and item.ref.key == "1" else item
        for item in items
    ]
    assert [batch.closes_part for batch in batches_of(within, 8, 10)] == [True]
