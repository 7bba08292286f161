"""The training set of the small carried models, and the motion that is generated for it."""

import io
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from jobs.motion import moving_textures
from jobs.tiny_set import main, pieces
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.records import Frames
from pipeline.video_file import VideoWriter


def decoded(data: bytes) -> Frames:
    """Every frame, as large as it is stored."""
    options = DecodeOptions(size=128, crop="keep", factor=2)
    return np.stack([frame.pixels_HWC for frame in decode_frames(io.BytesIO(data), len(data), options)])


def written(path: Path, frames_THWC: Frames, fps: float) -> bytes:
    with VideoWriter(path) as writer:
        for index, frame_HWC in enumerate(frames_THWC):
            writer.write(frame_HWC, index / fps)
    return path.read_bytes()


def test_generated_motion_moves_and_follows_from_its_seed():
    videos = [moving_textures(seed) for seed in range(4)]
    assert all(video.shape == (72, 128, 128, 3) and video.dtype == np.uint8 for video in videos)
    assert np.array_equal(moving_textures(3), videos[3])
    for video, other in pairwise(videos):
        assert np.abs(video.astype(int) - other).mean() > 10, "each looks its own way"
        assert np.abs(video[0].astype(int) - video[-1]).mean() > 3, "and the last frame is not the first"
        assert video.std(axis=(1, 2)).min() > 1, "no frame of a single colour"


def test_a_slow_video_gives_each_of_its_frames_once(tmp_path):
    """12 frames a second of a video of 4 would show each three times."""
    frames_THWC = moving_textures(0)[::6]
    found = pieces(written(tmp_path / "slow.mp4", frames_THWC, fps=4), 128)
    assert len(found) == 6
    assert all(np.array_equal(piece, decoded((tmp_path / "slow.mp4").read_bytes())) for piece in found)


def test_pieces_are_spread_over_a_video(tmp_path):
    long = np.concatenate([moving_textures(seed) for seed in range(2)])
    data = written(tmp_path / "long.mp4", long, fps=12)
    first, *_, last = pieces(data, 128)
    every = decoded(data)
    assert len(first) == len(last) == 24  # 2 s
    assert np.array_equal(first, every[:24]) and np.array_equal(last, every[-24:])


def test_the_set_holds_each_piece_as_it_is_and_in_variants(tmp_path, monkeypatch):
    data = written(tmp_path / "given.mp4", moving_textures(0)[:30], fps=12)
    twice = [str(tmp_path / "given.mp4")] * 2
    arguments = [str(tmp_path / "set"), *twice, "--variants=1", "--textures=1"]
    monkeypatch.setattr(sys, "argv", ["tiny_set", *arguments])
    main()
    made = {path.name: path.read_bytes() for path in (tmp_path / "set").iterdir()}
    real = [f"given-{time}-{variant}-{place}.mp4" for time in range(2) for variant in range(2) for place in range(6)]
    assert sorted(made) == sorted([*real, "texture-0.mp4"])
    for place, piece in enumerate(pieces(data, 128)):
        plain, variant = (decoded(made[f"given-0-{number}-{place}.mp4"]).astype(int) for number in range(2))
        assert np.abs(plain - piece).mean() < 4  # encoded once more
        assert np.abs(variant - piece).mean() > 8
        assert made[f"given-0-1-{place}.mp4"] != made[f"given-1-1-{place}.mp4"]
