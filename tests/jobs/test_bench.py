"""Benchmarks measure what they say: the same frames on both sides, and ratios of times."""

import io
from collections.abc import Sequence

import av
import pytest

from jobs.bench import decode
from jobs.bench.decode import bench_decode
from jobs.bench.schedule import bench_schedule
from jobs.bench.sources import CODECS, encoded, scene
from pipeline.decoding.options import DecodeOptions
from pipeline.decoding.pool import DecoderPool


def test_the_decode_ratio_is_that_of_two_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_SECONDS", 4.0)
    monkeypatch.setattr(decode, "_plain", lambda videos, threads=None: (threads or 2.0) * len(videos))
    real, seen = decode._ours, []

    def ours(pool: DecoderPool, videos: Sequence[bytes], options: DecodeOptions) -> float:
        assert real(pool, videos, options) > 0
        seen.append((len(videos), options.size))
        return 16.0 if options.size == 32 else 8.0

    monkeypatch.setattr(decode, "_ours", ours)
    shown: list[decode.DecodeRatio] = []
    (result,) = bench_decode([64], codecs=["mpeg4"], num_frames=20, runs=3, on_result=shown.append)
    assert seen == [(1, 64), *[(2, 64), (2, 32)] * 3], "the sides take turns, after one run that starts the decoder"
    assert result == {
        "codec": "mpeg4",
        "height": 64,
        "plain_fps": 10.0,
        "ratio": 0.5,
        "lowest": 0.5,
        "highest": 0.5,
        "tuned": 0.25,
        "resized_to": 32,
        "resized": 0.25,
    }
    assert shown[0].ratio == 0.5


@pytest.mark.parametrize("codec", CODECS)
def test_a_source_has_all_its_frames_from_both_clips(codec: str) -> None:
    frames = scene(64, 8)
    assert len(frames) == 8 and {(frame.width, frame.height) for frame in frames} == {(114, 64)}
    with av.open(io.BytesIO(encoded(codec, frames))) as container:
        means = [frame.to_ndarray(format="gray").mean() for frame in container.decode(video=0)]
    assert means == pytest.approx([frame.to_ndarray(format="gray").mean() for frame in frames], abs=6)


def test_the_schedule_ratio_is_that_of_two_rates() -> None:
    result = bench_schedule(shards=120, planned=120, workers=1)
    assert result.ratio == pytest.approx(result.shards_per_second / result.commits_per_second) and result.ratio > 0
    assert 50e6 < result.peak_bytes < 500e6


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_million_shards_are_planned_in_half_a_gigabyte() -> None:
    assert bench_schedule(shards=120, planned=1_000_000, workers=1).peak_bytes < 500e6
