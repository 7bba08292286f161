"""Benchmarks measure what they say: the same frames on both sides, and ratios of times."""

import pytest

from jobs.bench import decode
from jobs.bench.decode import bench_decode


def test_the_decode_ratio_is_that_of_two_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_CODECS", {"mpeg4": "avi"})
    monkeypatch.setattr(decode, "_plain", lambda _: 2.0)
    real, seen = decode._ours, []

    def ours(pool: decode.DecoderPool, data: bytes, size: int) -> float:
        assert real(pool, data, size) > 0
        seen.append(size)
        return 8.0 if size == 32 else 4.0

    monkeypatch.setattr(decode, "_ours", ours)
    shown: list[decode.DecodeRatio] = []
    (result,) = bench_decode([64], num_frames=20, runs=3, on_result=shown.append)
    assert seen == [64, 64, 32, 64, 32, 64, 32], "the two sides take turns, after one run that starts the decoder"
    assert result == {
        "codec": "mpeg4",
        "size": 64,
        "plain_fps": 10.0,
        "ratio": 0.5,
        "lowest": 0.5,
        "highest": 0.5,
        "resized": 0.25,
    }
    assert shown[0].ratio == 0.5
