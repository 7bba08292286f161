"""Frames are taken by their own times, and their pixels are the source's."""

import io
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pixels import fit
from pipeline.errors import SampleError
from pipeline.records import DecodedFrame
from tests.media import gradient_frames, make_video


def decode(data: bytes, **options: Any) -> list[DecodedFrame]:
    return list(decode_frames(io.BytesIO(data), len(data), DecodeOptions(**{"size": 32, **options})))


def numbers(frames: list[DecodedFrame]) -> list[int]:
    """Which frames of `gradient_frames` these are, by their brightness."""
    return [round((float(frame.pixels_HWC.mean()) - 24) / 10) for frame in frames]


def test_every_frame_with_its_time() -> None:
    frames = decode(make_video(gradient_frames(12), fps=10))
    assert numbers(frames) == list(range(12))
    assert [frame.seconds for frame in frames] == pytest.approx([i / 10 for i in range(12)])
    source = frames[0].source
    assert (source.width, source.height, source.fps, source.codec) == (64, 48, 10.0, "h264")
    assert frames[0].pixels_HWC.shape == (32, 32, 3) and frames[0].flags == ()


@pytest.mark.parametrize(
    ("clips", "expected"),
    [
        ({"every": 3}, [0, 3, 6, 9]),
        ({"fps": 5}, [0, 2, 4, 6, 8, 10]),
        ({"fps": 4}, [0, 2, 5, 7, 10]),  # 0, 0.25, 0.5 ...: the nearer frame, the earlier of two as near
        ({"fps": 10}, list(range(12))),
        ({"fps": 60}, list(range(12))),  # never above the source's own
        ({"fps": 0.5}, [0]),
        ({"nearest_fps": 10}, list(range(12))),
        ({"nearest_fps": 7}, list(range(12))),  # 10 / 7 is nearer to one than to two
        ({"nearest_fps": 6}, [0, 2, 4, 6, 8, 10]),
        ({"nearest_fps": 3}, [0, 3, 6, 9]),
        ({"nearest_fps": 30}, list(range(12))),
    ],
)
def test_a_constant_rate_is_sampled(clips: dict[str, object], expected: list[int]) -> None:
    assert numbers(decode(make_video(gradient_frames(12), fps=10), **clips)) == expected


def test_frames_as_they_are_stored() -> None:
    frames = decode(make_video(gradient_frames(3), fps=10), size=None)
    assert numbers(frames) == [0, 1, 2] and frames[0].pixels_HWC.shape == (48, 64, 3) and frames[0].flags == ()


def test_uneven_times_are_sampled_by_time_not_by_number() -> None:
    seconds = [0.0, 0.04, 0.08, 0.12, 1.0, 1.04, 3.0, 3.5]
    data = make_video(gradient_frames(8), seconds=seconds, container="matroska")
    frames = decode(data, fps=2)
    assert numbers(frames) == [0, 4, 6, 7]
    assert [frame.seconds for frame in frames] == pytest.approx([0.0, 1.0, 3.0, 3.5])


def test_times_count_from_the_first_frame() -> None:
    data = make_video(gradient_frames(3), seconds=[5.0, 5.5, 6.0], container="matroska")
    assert [frame.seconds for frame in decode(data)] == pytest.approx([0.0, 0.5, 1.0])


@given(gaps=st.lists(st.integers(1, 400), min_size=1, max_size=12), fps=st.sampled_from([0.7, 2, 8, 24, 1000]))
def test_no_slot_of_time_gives_two_frames(gaps: list[int], fps: float) -> None:
    seconds = list(np.cumsum([0, *gaps]) / 1000)
    frames = decode(make_video(gradient_frames(len(seconds)), seconds=seconds, container="matroska"), fps=fps)
    taken = [frame.seconds for frame in frames]
    assert taken[0] == 0.0 and all(left < right for left, right in pairwise(taken))
    assert set(np.round(taken, 3)) <= set(np.round(seconds, 3)), "a time that no frame of the source has"
    for start in taken:
        assert sum(start <= other < start + 1 / fps for other in taken) <= 2
    assert len(taken) <= seconds[-1] * fps + 2


def test_real_clips(shared_videos: object) -> None:
    from pathlib import Path

    assert isinstance(shared_videos, Path)
    tree = decode((shared_videos / "tree.avi").read_bytes(), fps=8)
    assert len(tree) == 68, "a slow, uneven video keeps all its frames"
    box = decode((shared_videos / "box.mp4").read_bytes(), every=1)
    # Its muxer wrote the times of decoding: none is lost, and each frame has the time of its place.
    assert [frame.seconds for frame in box][:4] == [0.0, 0.034, 0.067, 0.101] and len(box) == 455
    assert max(after.seconds - before.seconds for before, after in pairwise(box)) < 0.035
    assert box[-1].flags == ("decoder_errors", "mended_times")
    carphone = decode((shared_videos / "carphone_pristine.mp4").read_bytes(), fps=10, size=256)
    assert len(carphone) == 40 and carphone[0].flags == ("upscaled",)


@pytest.mark.parametrize(
    ("data", "error", "said"),
    [
        (b"", "unreadable", "0 bytes"),
        (b"this is a text" * 50, "unreadable", "700 bytes"),
        (make_video(gradient_frames(8))[:900], "unreadable", "900 bytes"),
    ],
)
def test_what_cannot_be_read_is_said(data: bytes, error: str, said: str) -> None:
    with pytest.raises(SampleError) as caught:
        decode(data)
    assert caught.value.error == error and said in caught.value.message


def test_sound_alone_is_no_video() -> None:
    import io

    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="wav") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    with pytest.raises(SampleError) as caught:
        decode(sink.getvalue())
    assert caught.value.error == "no_video" and "audio" in caught.value.message


@pytest.mark.parametrize(("height", "width"), [(48, 64), (64, 48), (90, 51), (33, 200), (32, 32), (20, 31), (32, 57)])
def test_resize_and_crop_is_the_published_preprocessing(height: int, width: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    long = int(32 * max(height, width) / min(height, width))
    scaled = (32, long) if height <= width else (long, 32)
    planes = torch.from_numpy(pixels).permute(2, 0, 1)[None].double()
    wanted = F.interpolate(planes, size=scaled, mode="bilinear", antialias=True)
    top, left = round((scaled[0] - 32) / 2), round((scaled[1] - 32) / 2)
    wanted = wanted[0, :, top : top + 32, left : left + 32].permute(1, 2, 0).numpy()
    ours = fit(pixels, DecodeOptions(size=32))
    assert ours.shape == (32, 32, 3) and ours.dtype == np.uint8
    # Pillow rounds to eight bits after each of its two passes: 0.5 that the second averages, and 0.5.
    # On real clips, against the published code's floats: tests/integration/test_preprocessing.py.
    assert np.abs(ours - wanted).max() <= 1.01


@pytest.mark.parametrize(
    "playlist", [b"ffconcat version 1.0\nfile 'secret.mp4'\n", b"#EXTM3U\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"]
)
def test_a_playlist_opens_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, playlist: bytes) -> None:
    """A video may come from anybody, and must not show what lies on the worker."""
    (tmp_path / "secret.mp4").write_bytes(make_video(gradient_frames(3)))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SampleError) as caught:
        decode(playlist)
    assert caught.value.error == "unreadable"
