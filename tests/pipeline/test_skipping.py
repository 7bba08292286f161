"""Frames that are not taken need not be decoded, and those that are taken are the same all the same."""

import dataclasses
import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.decoding import codec as module
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.skipping import Care, plan_packets
from pipeline.decoding.timing import PacketTimes, Timeline
from pipeline.records import DecodedFrame
from tests.media import gradient_frames
from tests.pipeline.test_right_frames import encode, pattern, rgb_frames

D, R, X = Care.DECODE, Care.REFERENCE, Care.DROP


def packets(*times: tuple[int, bool]) -> list[PacketTimes]:
    return [PacketTimes(pts, number, is_key, False) for number, (pts, is_key) in enumerate(times)]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({0, 1, 2, 3, 4, 5, 6, 7}, [D] * 8),
        ({0}, [D, R, R, R, X, X, X, X]),
        ({3}, [R, R, R, D, X, X, X, X]),
        # The second group begins with key 5, before which 4 is shown; 4 may refer to the first group.
        ({5}, [X, X, X, X, D, X, R, R]),
        ({4}, [R, R, R, R, R, D, R, R]),
        ({6}, [X, X, X, X, R, X, D, R]),
        (set(), [X] * 8),
    ],
)
def test_groups_that_nobody_needs_are_dropped(wanted: set[int], expected: list[Care]) -> None:
    stream = packets((0, True), (2, False), (1, False), (3, False), (5, True), (4, False), (6, False), (7, False))
    assert plan_packets(stream, wanted) == expected


def test_a_stream_without_packets() -> None:
    assert plan_packets([], {1}) == []


def decode(data: bytes, options: DecodeOptions) -> list[DecodedFrame]:
    return list(decode_frames(io.BytesIO(data), len(data), options))


def assert_the_same(data: bytes, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[int, int]:
    """With skipping and without; returns how many frames came out of the decoder in each way."""
    asked = DecodeOptions(size=48, **options)
    came: list[int] = []
    real = module.Codec._check

    def count(self: Any, frame: av.VideoFrame) -> None:
        came[-1] += 1
        real(self, frame)

    with monkeypatch.context() as patch:
        patch.setattr(module.Codec, "_check", count)
        came.append(0)
        ours = decode(data, asked)
        patch.setattr(Timeline, "is_sure", property(lambda _: False, lambda *_: None), raising=False)
        came.append(0)
        plain = decode(data, asked)
    assert [frame.seconds for frame in ours] == pytest.approx([frame.seconds for frame in plain])
    for left, right in zip(ours, plain, strict=True):
        assert np.array_equal(left.pixels_HWC, right.pixels_HWC), left.seconds
        assert dataclasses.replace(left, pixels_HWC=None, flags=()) == dataclasses.replace(
            right, pixels_HWC=None, flags=()
        )
    return came[0], came[1]


WAYS: list[dict[str, Any]] = [
    {"fps": 5},
    {"fps": 0.7},
    {"every": 7},
    {"every": 1},
    {"start_seconds": 1.0, "end_seconds": 1.5},
    {"fps": 8, "start_seconds": 2.0},
]


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize(
    ("codec", "container", "pix_fmt", "encoder"),
    [
        ("libx264", "mp4", "yuv420p", {"g": "12", "bf": "3"}),
        ("libx264", "mp4", "yuv420p", {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal"}),
        ("libx265", "mp4", "yuv420p", {"x265-params": "log-level=none:keyint=12:open-gop=1:bframes=3"}),
        ("mpeg2video", "mpegts", "yuv420p", {"g": "12", "bf": "2"}),
        ("mpeg4", "avi", "yuv420p", {"g": "12"}),
        ("libvpx-vp9", "webm", "yuv420p", {"g": "12", "cpu-used": "8", "deadline": "realtime"}),
        ("libsvtav1", "webm", "yuv420p", {"g": "12", "preset": "12"}),
        ("mjpeg", "matroska", "yuvj420p", {}),
        ("prores_ks", "mov", "yuv422p10le", {}),
    ],
)
def test_skipping_changes_no_frame(
    codec: str, container: str, pix_fmt: str, encoder: dict[str, str], options: dict[str, Any], monkeypatch: Any
) -> None:
    shown = np.concatenate([pattern(6)] * 11)[:64] // 2 + gradient_frames(64, 64, 64) // 2
    data = encode(rgb_frames(shown, pix_fmt), codec=codec, container=container, fps=20, options=encoder)
    ours, plain = assert_the_same(data, monkeypatch, **options)
    assert ours <= plain
    if codec in ("mjpeg", "prores_ks") and options != {"every": 1}:
        assert ours < plain, "of codecs without references, only what is taken is decoded"


@pytest.mark.parametrize("options", WAYS, ids=str)
def test_real_clips_too(shared_videos: Path, options: dict[str, Any], monkeypatch: Any) -> None:
    saved = 0
    for path in sorted(shared_videos.iterdir()):
        if path.suffix in (".mp4", ".avi", ".mpg") and path.stem != "world":
            ours, plain = assert_the_same(path.read_bytes(), monkeypatch, **options)
            saved += plain - ours
    assert saved > 0 or options == {"every": 1}
