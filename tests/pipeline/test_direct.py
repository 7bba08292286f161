"""Frames converted where they are to lie are, bit for bit, those that PyAV converts."""

import io
import itertools
import math
from typing import Any

import numpy as np
import pytest
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from pipeline.decoding import direct
from pipeline.decoding.direct import ROOM_BEHIND_BYTES, DirectConverter
from pipeline.decoding.frames import decode_spans
from pipeline.decoding.options import DecodeOptions
from tests.pipeline.test_right_frames import encode, pattern, rgb_frames

COLOURS = list(itertools.product((1, 4, 5, 6, 7, 9), (0, 1, 2)))


def noise(width: int, height: int, name: str = "yuv420p") -> VideoFrame:
    dice = np.random.default_rng(width * height)
    return VideoFrame.from_ndarray(dice.integers(0, 256, (height * 3 // 2, width), np.uint8), name)


def test_it_is_there_and_trusted() -> None:
    """With the PyAV that the project installs."""
    assert direct._is_trusted()


@pytest.mark.parametrize("name", ["yuv420p", "yuvj420p"])
@pytest.mark.parametrize(
    "size", [(32, 2), (64, 48), (72, 48), (88, 6), (456, 256), (256, 256), (1280, 720), (1920, 1080)]
)
def test_it_gives_what_pyav_gives(name: str, size: tuple[int, int]) -> None:
    converter = DirectConverter()  # one, set up anew for each form
    for colorspace, color_range in COLOURS:
        frame = noise(*size, name)
        frame.colorspace, frame.color_range = colorspace, color_range
        # Nothing is written but the frame and the room behind it.
        before, behind = np.split(np.full(frame.width * frame.height * 3 + 2000, 7, np.uint8), [1000])
        pixels, behind = np.split(behind, [frame.width * frame.height * 3])
        assert converter.takes(frame)
        converter.convert(frame, pixels.reshape(frame.height, frame.width, 3))
        wanted = VideoReformatter().reformat(frame, format="rgb24", threads=1).to_ndarray()
        assert np.array_equal(pixels, wanted.ravel()), (colorspace, color_range)
        assert (before == 7).all() and (behind[ROOM_BEHIND_BYTES:] == 7).all()
        assert frame.width % 32 or (behind == 7).all()


def test_what_it_does_not_take() -> None:
    assert not DirectConverter.takes(noise(66, 48))
    assert not DirectConverter.takes(noise(64, 48).reformat(format="yuv420p10le"))


def rooms_taken(data: bytes, **options: Any) -> tuple[int, list[np.ndarray]]:
    taken = 0

    def room(shape: tuple[int, int, int]) -> np.ndarray:
        nonlocal taken
        taken += 1
        return np.empty(math.prod(shape) + ROOM_BEHIND_BYTES, np.uint8)[: math.prod(shape)].reshape(shape)

    asked = DecodeOptions(**options)
    (frames,) = decode_spans(io.BytesIO(data), len(data), asked, [(None, None)], room=room)
    pixels = [frame.pixels_HWC for frame in frames]
    return taken, pixels


@pytest.mark.parametrize(
    ("size", "options", "is_direct"),
    [
        ((64, 64), {"size": 64}, True),
        ((64, 96), {"size": 64, "crop": "keep"}, True),
        ((64, 64), {"size": 64, "crop": "pad"}, True),
        ((64, 96), {"size": 64}, False),  # cropped
        ((64, 96), {"size": 96, "crop": "pad"}, False),
        ((64, 64), {"size": 32}, False),
        ((64, 72), {"size": 64, "crop": "keep"}, True),
        ((64, 66), {"size": 64, "crop": "keep"}, False),
        ((68, 96), {"size": 68, "crop": "keep", "factor": 8}, False),
    ],
)
def test_frames_that_keep_their_size_are_made_where_they_lie(
    size: tuple[int, int], options: dict[str, Any], is_direct: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encode(rgb_frames(pattern(6, *size), "yuv420p"), codec="libx264", container="mp4")
    taken, pixels = rooms_taken(data, **options)
    assert taken == (6 if is_direct else 0)
    # Without it, the same frames are copied.
    monkeypatch.setattr(direct, "_is_trusted", lambda: False)
    taken, copied = rooms_taken(data, **options)
    assert taken == 0 and all(np.array_equal(*pair) for pair in zip(pixels, copied, strict=True))
