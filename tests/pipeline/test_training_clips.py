"""Clips to train on: any of them follows from its number, wherever the video lies."""

import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.errors import ConfigError
from pipeline.input_config import InputConfig
from pipeline.training_clips import TrainingClips, TrainingClipsConfig
from pipeline.training_videos import TrainingVideos, index_videos
from tests.media import gradient_frames, make_video, pack_tar


def video_of(seed: int, count: int = 20) -> bytes:
    """Frames of one grey each, brighter from one to the next; by the first, videos are told apart."""
    frames = gradient_frames(count, 32, 48).astype(int) + 4 * seed
    return make_video(frames.clip(0, 255).astype(np.uint8), fps=10)


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tars of five videos: with text beside, two videos of one sample, and one that is none."""
    folder = tmp_path_factory.mktemp("tars")
    members = [("a.mp4", video_of(0)), ("a.txt", "A."), ("b.left.mp4", video_of(1)), ("b.right.mp4", video_of(2))]
    pack_tar(folder / "0.tar", members)
    pack_tar(folder / "1.tar", [("c.json", {}), ("c.mp4", video_of(3)), ("d.mp4", b"no video")])
    return folder


def videos_in(tars: Path) -> TrainingVideos:
    source = InputConfig(shards=str(tars))
    places = TrainingVideos.from_bytes(TrainingVideos.to_bytes(index_videos(source, {})))
    return TrainingVideos(source, {}, places)


def clips_of(videos: TrainingVideos, numbers: list[int], *, seed: int = 0, **config: Any) -> list[np.ndarray]:
    plain = {"num_frames": 5, "fps": None, "size": 16}
    clips = TrainingClips(videos, TrainingClipsConfig(**{**plain, **config}), seed=seed, num_decoders=2)
    try:
        return list(clips.clips(numbers))
    finally:
        clips.close()


def test_every_video_is_found_and_read_alone(tars: Path) -> None:
    videos = videos_in(tars)
    assert [(place.path, place.sample, place.number) for place in videos.places] == [
        ("0.tar", 0, 0),
        ("0.tar", 1, 0),
        ("0.tar", 1, 1),
        ("1.tar", 0, 0),
        ("1.tar", 1, 0),
    ]
    read = [videos.read(index) for index in range(5)]
    assert read == [video_of(0), video_of(1), video_of(2), video_of(3), b"no video"]


def test_files_and_refusals(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(video_of(number))
    source = InputConfig(videos=str(tmp_path))
    videos = TrainingVideos(source, {}, index_videos(source, {}))
    assert [videos.read(index) for index in range(3)] == [video_of(number) for number in range(3)]
    (tmp_path / "0.mp4").unlink()
    pack_tar(tmp_path / "x.tar.gz", [("a.mp4", video_of(0))], mode="w:gz")
    for wrong, message in [
        (InputConfig(shards=str(tmp_path / "x.tar.gz")), "of a compressed tar no single video can be read"),
        (InputConfig(manifests=str(tmp_path / "x.csv")), "training takes shards or videos"),
    ]:
        with pytest.raises(ConfigError, match=message):
            index_videos(wrong, {})
    pack_tar(tmp_path / "empty.tar", [])
    with pytest.raises(ConfigError, match="there is no video in these tars"):
        index_videos(InputConfig(shards=str(tmp_path / "empty.tar")), {})


def test_each_epoch_takes_every_video_once_in_an_order_of_its_own(tars: Path) -> None:
    videos = videos_in(tars)
    orders = [tuple(videos.at(5 * epoch + place, 3) for place in range(5)) for epoch in range(4)]
    assert all(sorted(order) == list(range(5)) for order in orders) and len(set(orders)) > 1
    assert videos.at(7, 3) == orders[1][2], "whatever was asked before"
    assert [videos.at(number, 4) for number in range(20)] != [number for order in orders for number in order]


@pytest.mark.parametrize("cache", [False, True])
def test_a_clip_follows_from_its_number(tars: Path, cache: bool) -> None:
    """In any order, in batches of any size, with any number of ranks."""
    videos = videos_in(tars)
    options = {"crop": "random", "flip": True, "resize": 24, "cache": cache}
    numbers = list(range(12))
    expected = clips_of(videos, numbers, **options)
    shuffled = random.Random(0).sample(numbers, len(numbers))
    again = dict(zip(shuffled, clips_of(videos, shuffled, **options), strict=True))
    for number, clip in enumerate(expected):
        assert clip.shape == (5, 16, 16, 3) and clip.dtype == np.uint8 and clip.flags.c_contiguous
        assert np.array_equal(clip, again[number])
    other = clips_of(videos, numbers, seed=1, **options)
    assert any(not np.array_equal(one, another) for one, another in zip(expected, other, strict=True))


@pytest.mark.parametrize("cache", [False, True])
def test_clips_are_windows_that_begin_anywhere(tmp_path: Path, cache: bool) -> None:
    """Frames that follow each other, from every start that there is room for."""
    (tmp_path / "a.mp4").write_bytes(make_video(gradient_frames(20, 32, 32), fps=10))
    source = InputConfig(videos=str(tmp_path))
    videos = TrainingVideos(source, {}, index_videos(source, {}))
    starts: Counter[int] = Counter()
    for clip in clips_of(videos, list(range(80)), cache=cache):
        numbers = [round((float(frame.mean()) - 24) / 10) for frame in clip]
        assert numbers == list(range(numbers[0], numbers[0] + 5))
        starts[numbers[0]] += 1
    assert len(starts) >= 14 and min(starts) == 0 and max(starts) == 15


def test_few_frames_a_second(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(make_video(gradient_frames(20, 32, 32), fps=10))
    source = InputConfig(videos=str(tmp_path))
    videos = TrainingVideos(source, {}, index_videos(source, {}))
    for clip in clips_of(videos, list(range(10)), fps=5, num_frames=4):
        numbers = [round((float(frame.mean()) - 24) / 10) for frame in clip]
        assert [later - numbers[0] for later in numbers] == [0, 2, 4, 6]


@pytest.mark.parametrize("cache", [False, True])
def test_a_short_video_ends_in_its_last_frame(tmp_path: Path, cache: bool) -> None:
    (tmp_path / "a.mp4").write_bytes(make_video(gradient_frames(3, 32, 32), fps=10))
    source = InputConfig(videos=str(tmp_path))
    videos = TrainingVideos(source, {}, index_videos(source, {}))
    (clip,) = clips_of(videos, [0], cache=cache)
    assert [round((float(frame.mean()) - 24) / 10) for frame in clip] == [0, 1, 2, 2, 2]


def test_crops_and_flips(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.linspace(0, 250, 64)[None, None, :, None], (8, 32, 64, 3)).astype(np.uint8)
    (tmp_path / "a.mp4").write_bytes(make_video(ramp, fps=10))
    source = InputConfig(videos=str(tmp_path))
    videos = TrainingVideos(source, {}, index_videos(source, {}))
    data = (tmp_path / "a.mp4").read_bytes()
    whole = next(decode_frames(io.BytesIO(data), len(data), DecodeOptions(size=32, crop="keep"))).pixels_HWC
    (centered,) = clips_of(videos, [0], resize=32)
    assert np.array_equal(centered[0], whole[8:24, 24:40])
    rises, lefts = [], set()
    for clip in clips_of(videos, list(range(40)), resize=32, crop="random", flip=True):
        row = clip[0, 0, :, 0].astype(int)
        rises.append(row[-1] > row[0])
        lefts.add(int(min(row[0], row[-1])) // 16)
    assert 8 <= sum(rises) <= 32, "every second one is a mirror image"
    assert len(lefts) >= 6, "from all over the frame"


@pytest.mark.parametrize("cache", [False, True])
def test_frames_as_they_are_stored(tmp_path: Path, cache: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Without a resize; what is too small for a crop is left to another video."""
    (tmp_path / "a.mp4").write_bytes(make_video(gradient_frames(8, 64, 48), fps=10))
    (tmp_path / "b.mp4").write_bytes(make_video(gradient_frames(8, 8, 48), fps=10))
    source = InputConfig(videos=str(tmp_path))
    videos = TrainingVideos(source, {}, index_videos(source, {}))
    data = (tmp_path / "a.mp4").read_bytes()
    stored = next(decode_frames(io.BytesIO(data), len(data), DecodeOptions(size=None))).pixels_HWC
    for clip in clips_of(videos, [0, 1], resize="keep", num_frames=8, cache=cache):
        assert np.array_equal(clip[0], stored[24:40, 16:32])
    assert "b.mp4: filtered (probe): its shorter side has 8 pixels, at least 16 are asked for" in caplog.text


def test_another_video_stands_in_for_one_that_cannot_be_decoded(tars: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos = videos_in(tars)
    numbers = list(range(10))
    broken = [number for number in numbers if videos.at(number, 0) == 4]
    clips = clips_of(videos, numbers)
    assert len(clips) == 10 and len(broken) == 2
    assert "1.tar: " in caplog.text and "another video stands in for it" in caplog.text
    assert all(np.array_equal(one, other) for one, other in zip(clips, clips_of(videos, numbers), strict=True))


@pytest.mark.parametrize("cache", [False, True])
def test_another_stands_in_for_what_is_gone_since_it_was_indexed(
    tmp_path: Path, cache: bool, caplog: pytest.LogCaptureFixture
) -> None:
    for name in "ab":
        (tmp_path / f"{name}.mp4").write_bytes(video_of(3 if name == "b" else 0))
    pack_tar(tmp_path / "c.tar", [("c.mp4", video_of(5))])
    for pattern, gone in ((f"{tmp_path}/*.mp4", "a.mp4"), (f"{tmp_path}/*.tar", "c.tar")):
        source = InputConfig(**{"shards" if "tar" in pattern else "videos": pattern})
        videos = TrainingVideos(source, {}, index_videos(source, {}))
        (tmp_path / gone).unlink()
        if gone == "a.mp4":
            clips = clips_of(videos, list(range(6)), cache=cache)
            assert len(clips) == 6 and caplog.text.count("a.mp4: ") == 1, "told once"
        else:
            with pytest.raises(ConfigError, match="20 videos that were tried"):
                clips_of(videos, [0], cache=cache)


def test_no_number_of_videos_makes_all_attempts_one(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    (tmp_path / "b.mp4").write_bytes(video_of(0))
    source = InputConfig(videos=str(tmp_path))
    a, b = index_videos(source, {})
    videos = TrainingVideos(source, {}, [a] + [b] * 7918)
    number = next(number for number in range(7919) if videos.at(number, 0) == 0)
    assert len(clips_of(videos, [number])) == 1


def test_nothing_but_broken_videos(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    source = InputConfig(videos=str(tmp_path))
    videos = TrainingVideos(source, {}, index_videos(source, {}))
    for cache in (False, True):
        with pytest.raises(ConfigError, match="20 videos that were tried one after the other cannot be decoded"):
            clips_of(videos, [0], cache=cache)
