"""Spans of a video: the same frames as of the whole, whatever the container, and no more work than they need."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.decoding import opened
from pipeline.decoding.frames import decode_frames, decode_spans
from pipeline.decoding.options import DecodeOptions
from pipeline.records import DecodedFrame
from tests.jobs_for_tests import real_clips
from tests.pipeline.test_right_frames import encode, pattern, rgb_frames

OPTIONS = DecodeOptions(size=64)
# In time, beside each other, over each other, out of order, to the end, from the beginning, and one frame.
SPANS = [(0.0, 0.4), (0.4, 0.9), (1.0, 1.6), (0.7, 1.2), (1.3, None), (None, 0.3), (0.0, None), (0.52, 0.56)]

H264 = {"codec": "libx264", "options": {"crf": "10", "g": "10", "bf": "3"}}
FORMS: dict[str, dict[str, Any]] = {
    "mp4": {"container": "mp4", **H264},
    "mp4, open groups": {"container": "mp4", **H264, "options": {**H264["options"], "x264-params": "open-gop=1"}},
    "mkv": {"container": "matroska", **H264},
    "ts": {"container": "mpegts", **H264},
    "avi": {"container": "avi", "codec": "mpeg4", "options": {"g": "8"}},
    "webm": {
        "container": "webm",
        "codec": "libvpx-vp9",
        "options": {"g": "8", "cpu-used": "8", "deadline": "realtime"},
    },
    "mpeg2": {"container": "mpeg", "codec": "mpeg2video", "options": {"g": "8", "bf": "2"}},
    "mjpeg": {"container": "mov", "codec": "mjpeg"},
    "raw": {"container": "h264", **H264},
}


def made(form: str) -> bytes:
    frames = rgb_frames(pattern(60), "yuvj420p" if form == "mjpeg" else "yuv420p")
    return encode(frames, fps=25, **FORMS[form])


def spans_of(data: bytes, spans: Any = SPANS, options: DecodeOptions = OPTIONS) -> list[list[DecodedFrame]]:
    return [list(frames) for frames in decode_spans(io.BytesIO(data), len(data), options, spans)]


def assert_cut_out_of(whole: list[DecodedFrame], spans: list[list[DecodedFrame]]) -> None:
    for (start, end), frames in zip(SPANS, spans, strict=True):
        near = 0.01
        wanted = [f for f in whole if f.seconds >= (start or 0) - near and (end is None or f.seconds < end - near)]
        assert [frame.seconds for frame in frames] == [frame.seconds for frame in wanted] and wanted, (start, end)
        assert all(np.array_equal(a.pixels_HWC, b.pixels_HWC) for a, b in zip(frames, wanted, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_spans_are_the_frames_of_the_whole(form: str) -> None:
    data = made(form)
    assert_cut_out_of(list(decode_frames(io.BytesIO(data), len(data), OPTIONS)), spans_of(data))


@pytest.mark.parametrize("path", real_clips(), ids=lambda path: path.name)
def test_spans_of_real_videos(path: Path) -> None:
    data = path.read_bytes()
    whole = list(decode_frames(io.BytesIO(data), len(data), OPTIONS))
    spans = [(frame.seconds, frame.seconds + 0.5) for frame in whole[:: max(1, len(whole) // 4)]]
    for (start, end), frames in zip(spans, spans_of(data, spans), strict=True):
        wanted = [frame for frame in whole if start - 0.005 <= frame.seconds < end - 0.005]
        assert abs(len(wanted) - len(frames)) <= 1 and len(frames) >= 1
        by_time = {frame.seconds: frame for frame in whole}
        assert all(np.array_equal(frame.pixels_HWC, by_time[frame.seconds].pixels_HWC) for frame in frames)


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, int]]:
    """Counts containers that were opened, and packets that came out of them for decoding."""
    counts = {"opened": 0, "packets": 0}
    real_open, real_packets = opened.opened_video, opened.OpenedVideo.packets_from

    def opened_video(*arguments: Any) -> Any:
        counts["opened"] += 1
        return real_open(*arguments)

    def packets_from(self: Any, first: int, last: int | None = None) -> Any:
        for packet in real_packets(self, first, last):
            counts["packets"] += 1
            yield packet

    monkeypatch.setattr(opened, "opened_video", opened_video)
    monkeypatch.setattr(opened.OpenedVideo, "packets_from", packets_from)
    yield counts


@pytest.mark.parametrize("form", ["mp4", "mkv", "avi", "webm"])
def test_a_video_is_opened_once_for_all_its_spans(form: str, work: dict[str, int]) -> None:
    data = encode(rgb_frames(pattern(400), "yuv420p"), fps=25, **FORMS[form])
    spans = [(2.0 * number, 2.0 * number + 0.4) for number in range(8)]
    assert [len(frames) for frames in spans_of(data, spans)] == [10] * 8
    # For the times of all packets, and to decode; and each span reads from its key on, to its end.
    assert work["opened"] == 1
    assert work["packets"] <= 8 * (10 + 10 + 4), "of 400"
