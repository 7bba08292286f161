"""Windows: which frames stand in which clip."""

import dataclasses
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.clips import cut_clips, cut_video
from pipeline.config import ClipsConfig
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.errors import SampleError
from pipeline.records import Clip, DecodedFrame, Position, Reject, SourceInfo, Video, VideoEnd, VideoRef
from tests.support import ROOT

REF = VideoRef(shard_id="s", source_shard="s.tar", key="k", occurrence=0, size_bytes=1)
SOURCE = SourceInfo(width=4, height=4, fps=10.0, codec="h264")


def frames(count: int) -> list[DecodedFrame]:
    return [
        DecodedFrame(
            pixels_HWC=np.full((2, 2, 3), number, np.uint8),
            seconds=number / 10,
            duration_seconds=0.1,
            source=SOURCE,
            flags=(),
        )
        for number in range(count)
    ]


def windows(count: int, **clips: object) -> list[list[int]]:
    """The numbers of the real frames of each clip."""
    config = ClipsConfig.model_validate(clips)
    cut = list(cut_video(frames(count), REF, lengths=(4, 4), clips=config, takes_stills=True))
    for number, clip in enumerate(cut):
        assert clip.clip_index == number and clip.frames_THWC.shape == (4, 2, 2, 3)
    return [list(clip.frames_THWC[: 4 - clip.num_padded_frames, 0, 0, 0]) for clip in cut]


@pytest.mark.parametrize(
    ("count", "clips", "expected"),
    [
        (8, {}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (9, {}, [[0, 1, 2, 3], [4, 5, 6, 7], [8]]),
        (9, {"tail": "drop"}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        (2, {}, [[0, 1]]),
        (4, {"stride": 2}, [[0, 1, 2, 3]]),
        (5, {"stride": 2}, [[0, 1, 2, 3], [2, 3, 4]]),
        (6, {"stride": 2}, [[0, 1, 2, 3], [2, 3, 4, 5]]),
        (5, {"stride": 1}, [[0, 1, 2, 3], [1, 2, 3, 4]]),
        (7, {"stride": 3}, [[0, 1, 2, 3], [3, 4, 5, 6]]),
        (8, {"stride": 3}, [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7]]),
        (8, {"stride": 3, "tail": "drop"}, [[0, 1, 2, 3], [3, 4, 5, 6]]),
    ],
)
def test_windows(count: int, clips: dict[str, object], expected: list[list[int]]) -> None:
    assert windows(count, **clips) == expected


@given(count=st.integers(1, 40), stride=st.integers(1, 4))
def test_padding_loses_no_frame_and_starts_on_the_stride(count: int, stride: int) -> None:
    cut = windows(count, stride=stride)
    assert sorted({number for window in cut for number in window}) == list(range(count))
    assert [window[0] for window in cut] == [stride * number for number in range(len(cut))]


def scenes(*lengths: int) -> list[DecodedFrame]:
    """Frames whose colour changes from scene to scene; their times tell them apart."""
    colours = np.repeat([(40 + 60 * number) % 240 for number in range(len(lengths))], lengths)
    return [
        dataclasses.replace(frame, pixels_HWC=np.full((2, 2, 3), colour, np.uint8))
        for frame, colour in zip(frames(len(colours)), colours, strict=True)
    ]


def cut(taken: list[DecodedFrame], **clips: object) -> list[Clip]:
    config = ClipsConfig.model_validate(clips)
    return list(cut_video(taken, REF, lengths=(4, 4), clips=config, takes_stills=True))


def times(clip: Clip) -> list[int]:
    """The numbers of the real frames of a clip of `frames` or `scenes`."""
    return [round(seconds * 10) for seconds in clip.frame_seconds[: 4 - clip.num_padded_frames]]


@pytest.mark.parametrize(
    ("lengths", "clips", "expected"),
    [
        ((5, 4), {"scene_cuts": "ignore"}, [[0, 1, 2, 3], [4, 5, 6, 7], [8]]),
        ((5, 4), {}, [[0, 1, 2, 3], [4], [5, 6, 7, 8]]),
        ((5, 4), {"tail": "drop"}, [[0, 1, 2, 3], [5, 6, 7, 8]]),
        ((4, 4), {}, [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ((2, 2, 2), {}, [[0, 1], [2, 3], [4, 5]]),
        ((3, 6), {"tail": "drop"}, [[3, 4, 5, 6]]),
        ((5, 6), {"stride": 2}, [[0, 1, 2, 3], [2, 3, 4], [5, 6, 7, 8], [7, 8, 9, 10]]),
        ((5, 6), {"stride": 2, "tail": "drop"}, [[0, 1, 2, 3], [5, 6, 7, 8], [7, 8, 9, 10]]),
        ((5, 5), {"stride": 1}, [[0, 1, 2, 3], [1, 2, 3, 4], [5, 6, 7, 8], [6, 7, 8, 9]]),
    ],
)
def test_no_clip_goes_across_a_cut(
    lengths: tuple[int, ...], clips: dict[str, object], expected: list[list[int]]
) -> None:
    found = cut(scenes(*lengths), **{"scene_cuts": "split", **clips})
    assert [times(clip) for clip in found] == expected
    assert [clip.clip_index for clip in found] == list(range(len(expected)))


@given(
    lengths=st.lists(st.integers(2, 12), min_size=1, max_size=5),
    stride=st.integers(1, 4),
    tail=st.sampled_from(["pad", "drop"]),
)
def test_each_scene_is_cut_as_a_video_of_its_own(lengths: list[int], stride: int, tail: str) -> None:
    if tail == "drop":
        lengths = [*lengths, 4]  # something is left
    taken = scenes(*lengths)
    alone: list[Clip] = []
    for first, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        if length >= 4 or tail == "pad":
            alone += cut(taken[first : first + length], stride=stride, tail=tail)
    together = cut(taken, stride=stride, tail=tail, scene_cuts="split")
    assert len(together) == len(alone)
    for number, (ours, wanted) in enumerate(zip(together, alone, strict=True)):
        assert ours.clip_index == number and times(ours) == times(wanted)
        assert (ours.frames_THWC == wanted.frames_THWC).all() and len(np.unique(ours.frames_THWC)) == 1
        assert ours.duration_seconds == wanted.duration_seconds == pytest.approx(len(times(ours)) / 10)


@pytest.mark.parametrize(("fps", "stride"), [(None, None), (8, None), (8, 5), (2, None)])
def test_the_cut_of_a_real_video(fps: float | None, stride: int | None) -> None:
    """A night city: 25 frames a second, and another building from frame 116 on."""
    data = (ROOT / "jobs/clips/cityCC0.mpg").read_bytes()
    taken = list(decode_frames(io.BytesIO(data), len(data), DecodeOptions(size=64, fps=fps)))
    config = ClipsConfig(scene_cuts="split", stride=stride)
    found = list(cut_video(taken, REF, lengths=(17, 17), clips=config, takes_stills=True))
    assert {bool(seconds > 4.62) for clip in found for seconds in clip.frame_seconds} == {False, True}
    for clip in found:
        assert clip.frame_seconds[-1] < 4.62 or clip.frame_seconds[0] > 4.62
    firsts = [clip.frame_seconds[0] for clip in found if clip.frame_seconds[0] > 4.62]
    assert firsts[0] == min(frame.seconds for frame in taken if frame.seconds > 4.62)
    assert {frame.seconds for frame in taken} == {seconds for clip in found for seconds in clip.frame_seconds}


def test_scenes_that_are_all_too_short_say_so() -> None:
    with pytest.raises(SampleError, match="6 frames after sampling, in scenes, a clip has 4") as caught:
        cut(scenes(3, 3), scene_cuts="split", tail="drop")
    assert caught.value.error == "too_short"


def test_damage_keeps_the_frames_of_the_scene_that_it_hits() -> None:
    def decode(_: Video) -> Any:
        yield from scenes(3, 3)
        raise SampleError("decode", "unreadable", "broken")

    videos = [Video(ref=REF, data=b"", end=None)]
    config = ClipsConfig(damaged="keep_until_error", scene_cuts="split")
    pairs = ((video, decode(video)) for video in videos)
    first, second, end = cut_clips(pairs, lengths=(4, 4), clips=config, takes_stills=True)
    assert isinstance(first, Clip) and isinstance(second, Clip) and isinstance(end, VideoEnd)
    assert (times(first), times(second), end.flags) == ([0, 1, 2], [3, 4, 5], ("partly_corrupt",))


def test_padding_repeats_the_last_frame_and_its_time() -> None:
    (clip,) = cut_video(frames(2), REF, lengths=(4, 4), clips=ClipsConfig(), takes_stills=True)
    assert clip.frames_THWC[:, 0, 0, 0].tolist() == [0, 1, 1, 1]
    assert clip.frame_seconds.tolist() == [0.0, 0.1, 0.1, 0.1]
    assert (clip.num_padded_frames, clip.duration_seconds) == (2, pytest.approx(0.2))


def test_nothing_left_by_drop_is_too_short() -> None:
    with pytest.raises(SampleError, match="3 frames after sampling, a clip has 4") as caught:
        windows(3, tail="drop")
    assert caught.value.error == "too_short"


def test_a_failing_video_ends_with_its_reason_and_the_next_goes_on() -> None:
    def decode(video: Video) -> object:
        yield from frames(5)
        if video.data == b"bad":
            raise SampleError("decode", "unreadable", "broken at frame 5")

    position = Position(sample=1, offset=512)
    videos = [
        Video(ref=REF, data=b"bad", end=None),
        Video(ref=REF, data=b"good", end=position),
        Video(ref=REF, data=b"", reject=Reject(stage="read", error="no_video", message="m"), end=position),
    ]
    kinds, ends = cut_all(videos, decode)
    assert kinds == ["clip", "unreadable", "clip", "clip", "end", "no_video"]
    assert [end.end for end in ends] == [None, position, position]


def cut_all(videos: list[Video], decode: Any, **clips: Any) -> tuple[list[str], list[VideoEnd]]:
    pairs = ((video, decode(video)) for video in videos)
    items = list(cut_clips(pairs, lengths=(4, 4), clips=ClipsConfig(**clips), takes_stills=True))
    kinds = ["clip" if isinstance(item, Clip) else item.reject.error if item.reject else "end" for item in items]
    return kinds, [item for item in items if isinstance(item, VideoEnd)]


@pytest.mark.parametrize(
    ("frames_before", "error", "kinds", "flags"),
    [
        (5, "unreadable", ["clip", "clip", "end"], ("partly_corrupt",)),
        (5, "timeout", ["clip", "clip", "end"], ("partly_corrupt",)),
        (0, "unreadable", ["unreadable"], ()),
        (5, "limit", ["clip", "limit"], ()),  # the whole video is not wanted
    ],
)
def test_what_came_before_the_damage_may_be_kept(
    frames_before: int, error: str, kinds: list[str], flags: tuple[str, ...]
) -> None:
    def decode(_: Video) -> Any:
        yield from frames(frames_before)
        raise SampleError("decode", error, "broken", attempts=2)

    videos = [Video(ref=REF, data=b"", end=None)]
    found, (end,) = cut_all(videos, decode, damaged="keep_until_error")
    assert found == kinds and end.flags == flags
    assert end.reject is None or end.reject.attempts == 2


def test_a_still_is_a_clip_of_one_frame_where_the_model_takes_one() -> None:
    (frame,) = frames(1)
    still = [dataclasses.replace(frame, flags=("still",))]
    (clip,) = cut(still)
    (split,) = cut(still, scene_cuts="split", tail="drop")
    assert split.frames_THWC.shape == clip.frames_THWC.shape and split.num_padded_frames == 0
    assert clip.frames_THWC.shape[0] == 1 and clip.num_padded_frames == 0 and clip.flags == ("still",)
    with pytest.raises(SampleError, match="a still picture") as caught:
        list(cut_video(still, REF, lengths=(4, 4), clips=ClipsConfig(), takes_stills=False))
    assert caught.value.error == "no_video"
