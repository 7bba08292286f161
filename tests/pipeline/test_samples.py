"""Every video of a tar is accounted for, whatever the tar is."""

import io
import logging
import tarfile
from pathlib import Path

import pytest

from pipeline.errors import ShardError
from pipeline.records import Position, Shard, Video
from pipeline.samples import read_shard
from pipeline.storage import open_store
from tests.media import add_member, pack_tar

START = Position(sample=0, offset=0)
BINARY = b"\x00\x01\xff"


def shard_of(path: Path) -> Shard:
    return Shard(shard_id=path.stem, path=path.name, size_bytes=path.stat().st_size, etag=None)


def read(path: Path, start: Position | None = None, seen: dict[str, int] | None = None) -> list[Video]:
    if start is None:
        start = START if path.name.endswith(".tar") else Position(sample=0, offset=None)
    return list(read_shard(open_store(str(path.parent)), shard_of(path), start=start, seen=seen))


def summary(videos: list[Video]) -> list[tuple[str, int, str | None]]:
    return [(video.ref.key, video.ref.occurrence, video.reject.error if video.reject else None) for video in videos]


def test_members_of_one_name_are_one_sample(tmp_path: Path) -> None:
    path = pack_tar(
        tmp_path / "a.tar",
        [
            ("x/1.mp4", b"\x00one"),
            ("x/1.json", {"caption": "c"}),
            ("x/1.txt", "t"),
            ("x/2.json", "{}"),
            ("x/2.MP4", b"\x00two"),
            ("x/2.wav", BINARY),
        ],
    )
    one, two = read(path)
    assert (one.ref.key, one.data, one.ref.text) == ("x/1", b"\x00one", {"json": '{"caption": "c"}', "txt": "t"})
    assert (two.ref.key, two.data, two.ref.text) == ("x/2", b"\x00two", {"json": "{}"})
    assert [video.end.sample for video in (one, two) if video.end] == [1, 2]


def test_what_is_no_video_is_recorded(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar", [("1.txt", "only text"), ("2.mp4", BINARY), ("3.unknown", BINARY)])
    videos = read(path)
    assert summary(videos) == [("1", 0, "no_video"), ("2", 0, None), ("3", 0, None)]
    assert videos[0].reject is not None and "1.txt" in videos[0].reject.message
    assert videos[2].data == BINARY, "a binary member of unknown kind is tried"


def test_several_videos_of_a_sample_are_all_kept(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar", [("1.left.mp4", BINARY), ("1.right.mp4", BINARY), ("2.mp4", BINARY)])
    videos = read(path)
    assert summary(videos) == [("1.left.mp4", 0, None), ("1.right.mp4", 0, None), ("2", 0, None)]
    assert [video.end is None for video in videos] == [True, False, False], "no part may end within a sample"


def test_repeated_keys_are_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = pack_tar(
        tmp_path / "a.tar", [("1.mp4", b"\x00a"), ("1.mp4", b"\x00b"), ("2.mp4", b"\x00"), ("1.mp4", b"\x00c")]
    )
    with caplog.at_level(logging.WARNING):
        videos = read(path)
    assert summary(videos) == [("1", 0, None), ("1", 1, None), ("2", 0, None), ("1", 2, None)]
    assert [record.message.count("'1'") for record in caplog.records] == [1]


def test_names_that_webdataset_drops(tmp_path: Path) -> None:
    path = pack_tar(
        tmp_path / "a.tar",
        [
            ("no_extension", BINARY),
            (".hidden.mp4", BINARY),
            ("._1.mp4", BINARY),
            ("__meta__.json", "{}"),
            ("d.x/1.mp4", BINARY),
        ],
    )
    assert summary(read(path)) == [("no_extension", 0, None), ("d.x/1", 0, None)]


def test_a_name_that_is_not_utf8_is_spelt_out(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as tar:
        add_member(tar, "caf\xe9.mp4", BINARY)
    assert summary(read(path)) == [("caf\\xe9", 0, None)]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz"])
def test_reading_on_from_any_position_gives_the_rest(tmp_path: Path, name: str) -> None:
    members: list[tuple[str, bytes | str]] = []
    for number in range(5):
        members += [(f"{number % 3}.mp4", bytes([0, number]) * 700), (f"{number % 3}.txt", f"text {number}")]
    path = pack_tar(tmp_path / name, members, "w:gz" if name.endswith("gz") else "w")
    whole = read(path)
    assert len(whole) == 5
    for number, video in enumerate(whole, 1):
        seen: dict[str, int] = {}
        for earlier in whole[:number]:
            seen[earlier.ref.key] = seen.get(earlier.ref.key, 0) + 1
        assert read(path, video.end, seen) == whole[number:]


def cut(path: Path, size: int) -> Path:
    path.write_bytes(path.read_bytes()[:size])
    return path


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (0, [("", 0, "empty")]),
        (100, [("", 0, "unreadable")]),
        (512 + 100, [("1", 0, "truncated")]),  # in the first video
        (1536 + 512 + 3, [("1", 0, "truncated")]),  # in the first text: the sample is not whole
        (3 * 1024 - 512, [("1", 0, None), ("", 0, "truncated")]),  # after the first sample
        (3 * 1024 - 512 + 100, [("1", 0, None), ("", 0, "truncated")]),  # in a header
        (3 * 1024 + 100, [("1", 0, None), ("2", 0, "truncated")]),
        (3 * 1024 + 1024, [("1", 0, None), ("2", 0, None), ("", 0, "truncated")]),
    ],
)
def test_a_tar_cut_anywhere(tmp_path: Path, size: int, expected: list[tuple[str, int, str | None]]) -> None:
    # 512 header, 1000 bytes in 1024; 512 header, 5 bytes in 512; the second sample begins at byte 2560.
    path = pack_tar(tmp_path / "a.tar", [("1.mp4", b"\x00" * 1000), ("1.txt", "hello"), ("2.mp4", b"\x00" * 1000)])
    videos = read(cut(path, size))
    assert summary(videos) == expected
    last = videos[-1].end
    assert last is not None and read(path, last) == [], "a run that resumes behind the damage finds nothing more"


def test_a_damaged_header_is_no_end(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar", [(f"{i}.mp4", b"\x00" * 512) for i in range(3)])
    data = bytearray(path.read_bytes())
    data[1024:1034] = b"garbage!!!"
    path.write_bytes(data)
    videos = read(path)
    assert summary(videos) == [("0", 0, None), ("", 0, "truncated")]
    assert videos[-1].reject is not None and "1024" in videos[-1].reject.message


def test_a_tar_of_nothing_is_said(tmp_path: Path) -> None:
    assert summary(read(pack_tar(tmp_path / "a.tar", []))) == [("", 0, "empty")]


def test_a_compressed_tar_cut_off(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar.gz", [("1.mp4", b"\x00" * 600), ("2.mp4", bytes(range(256)) * 800)], "w:gz")
    videos = read(cut(path, path.stat().st_size - 40))
    assert summary(videos)[0] == ("1", 0, None) and summary(videos)[-1][2] == "truncated"
    assert read(path, videos[-1].end) == []


def test_a_shard_that_changed_is_refused(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar", [("1.mp4", BINARY)])
    shard = shard_of(path)
    with tarfile.open(path, "a") as tar:
        add_member(tar, "2.mp4", io.BytesIO(b"x" * 20_000).getvalue())
    with pytest.raises(ShardError, match=r"a\.tar: .* bytes, but .* when the input was listed"):
        list(read_shard(open_store(str(tmp_path)), shard, start=START))
