"""Which videos of an input are drawn, and what is read for that."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pipeline.sampling
from pipeline.plan import Plan, make_plan
from pipeline.sampling import VideoSample, draw_videos
from pipeline.storage.reader import ObjectReader
from pipeline.tars import find_member
from tests.jobs_for_tests import job
from tests.media import pack_tar


def drawn(plan: Plan, count: int, seed: int = 0) -> VideoSample:
    return draw_videos(plan, plan.found, count, seed)


def keys(sample: VideoSample) -> list[tuple[str, str]]:
    return [(video.ref.source_shard, video.ref.key) for _, video in sample.videos()]


def test_a_header_is_found_from_any_byte(tmp_path: Path) -> None:
    fake = b"\0" * 257 + b"ustar" + b"\0" * 250  # looks like one, and its sum is wrong
    tar = pack_tar(tmp_path / "0.tar", [("a.mp4", fake * 3), ("b.mp4", b"b" * 700), ("c.mp4", b"")])
    data = tar.read_bytes()
    headers = [0, 512 * 4, 512 * 7]
    for byte in (0, 1, 512, 600, 2048, 2049, 3500, 3584, 3585, len(data)):
        expected = next((header for header in headers if header >= byte), None)
        assert find_member(io.BytesIO(data), byte) == expected, byte


def packed(folder: Path, sizes: np.ndarray, *, shards: int, mode: str = "w", suffix: str = ".tar") -> Plan:
    """Tars of samples of these sizes, which are no videos."""
    for number, some in enumerate(np.array_split(sizes, shards)):
        members: list[tuple[str, Any]] = []
        for place, size in enumerate(some):
            members += [(f"{place:04d}.mp4", b"\1" * int(size)), (f"{place:04d}.txt", "text")]
        pack_tar(folder / "in" / f"{number}{suffix}", members, mode)
    return make_plan(job(folder / "in", folder / "out"))


def test_by_headers_all_are_as_likely_and_the_seed_decides(tmp_path: Path) -> None:
    plan = packed(tmp_path, np.full(30, 100), shards=3)
    all_of_them = drawn(plan, 99)
    assert all_of_them.is_whole and len(set(keys(all_of_them))) == 30
    assert sum(place.size for place in all_of_them.places) == pytest.approx(30 * 2048)
    few = drawn(plan, 10)
    assert not few.is_whole and few.number == 30 and keys(few) == keys(drawn(plan, 10)) != keys(drawn(plan, 10, 1))
    often = Counter(key for seed in range(60) for key in keys(drawn(plan, 10, seed)))
    assert len(often) == 30 and min(often.values()) > 8 and max(often.values()) < 34


def test_by_bytes_large_samples_are_drawn_no_more_often(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So their number follows from the bytes of those that were drawn."""
    monkeypatch.setattr(pipeline.sampling, "_SMALL_BYTES", 0)
    dice = np.random.default_rng(3)
    plan = packed(tmp_path, np.where(dice.random(600) < 0.3, 60_000, 500), shards=4)
    sample = drawn(plan, 400)
    assert keys(sample) and sample.number is None and keys(sample) == keys(drawn(plan, 400))
    times = np.array([place.times for place in sample.places])
    sizes = np.array([place.size for place in sample.places])
    assert times.sum() == 400 and sizes.min() == 2048 and sizes.max() == 512 * (1 + 118 + 2)
    assert sample.total * times.sum() / (times @ sizes) == pytest.approx(600, rel=0.1)
    assert all(video.reject is None for _, video in sample.videos()), "none begins in the middle of a sample"


def test_of_a_large_tar_little_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = packed(tmp_path, np.full(500, 600_000), shards=1)
    read = 0
    fetch = ObjectReader._fetch

    def counted(self: ObjectReader, start: int, length: int) -> bytes:
        nonlocal read
        read += length
        return fetch(self, start, length)

    monkeypatch.setattr(ObjectReader, "_fetch", counted)
    sample = drawn(plan, 5)
    assert len(keys(sample)) == 5 and sample.total > 300e6
    assert read < 40e6


@pytest.mark.parametrize("small_bytes", [0, 2**30])
def test_compressed_tars_are_read_from_their_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_bytes: int
) -> None:
    monkeypatch.setattr(pipeline.sampling, "_SMALL_BYTES", small_bytes)
    plan = packed(tmp_path, np.full(40, 100), shards=2, mode="w:gz", suffix=".tar.gz")
    sample = drawn(plan, 6)
    assert len(set(keys(sample))) == 6
    assert all(place.size == 100 + 4 + 1024 for place in sample.places)
    assert drawn(plan, 99).is_whole == bool(small_bytes)


def test_damage_is_drawn_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = packed(tmp_path, np.full(4, 100), shards=1)
    tar = tmp_path / "in/0.tar"
    tar.write_bytes(tar.read_bytes()[: 3 * 2048 + 600])
    pack_tar(tmp_path / "in/1.tar", [])
    plan = make_plan(plan.config)
    errors = [video.reject and video.reject.error for _, video in drawn(plan, 9).videos()]
    assert Counter(errors) == {None: 3, "truncated": 1, "empty": 1}
    monkeypatch.setattr(pipeline.sampling, "_SMALL_BYTES", 0)
    errors = [video.reject and video.reject.error for _, video in drawn(plan, 60).videos()]
    assert set(errors) == {None, "truncated", "empty"}


def test_listed_videos(tmp_path: Path) -> None:
    """Spans of one video are fetched once; a video of two shards is told apart."""
    (tmp_path / "v.mp4").write_bytes(b"some bytes")
    rows = [f"v.mp4,{begin}" for begin in range(20)] + [f"gone.mp4,{begin}" for begin in range(20)]
    (tmp_path / "list.csv").write_text("\n".join(["url,start_seconds", *rows]))
    changes = {"input": {"shards": None, "manifests": f"{tmp_path}/list.csv", "videos_per_shard": 15}}
    plan = make_plan(job("unused", tmp_path / "out", **changes))
    assert len(plan.found) == 2
    sample = drawn(plan, 12)
    videos = list(sample.videos())
    assert sample.number == sample.total == 40 and len({id(place) for place, _ in videos}) == 12
    assert {video.reject and video.reject.error for _, video in videos} == {None, "missing"}
    assert all(place.size == 1 for place in sample.places)
    whole = [video.span[0] for _, video in drawn(plan, 99).videos()]
    assert sorted(filter(lambda begin: begin is not None, whole)) == sorted([*range(20)] * 2)
