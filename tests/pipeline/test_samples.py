"""Every video of a tar is accounted for, whatever the tar is."""

import dataclasses
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


def read(path: Path, start: Position | None = None, seen: dict[str, int] | None = None, **options: int) -> list[Video]:
    if start is None:
        start = START if path.name.endswith(".tar") else Position(sample=0, offset=None)
    return list(read_shard(open_store(str(path.parent)), shard_of(path), start=start, seen=seen, **options))


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
            ("__AbC.mp4", BINARY),
            ("d.x/1.mp4", BINARY),
        ],
    )
    keys = ["no_extension", ".hidden.mp4", "__AbC", "d.x/1"]
    assert summary(read(path)) == [(key, 0, None) for key in keys], "but for shadows of macOS and webdataset's own"


def test_a_link_is_no_video_and_is_told(tmp_path: Path) -> None:
    path = pack_tar(tmp_path / "a.tar", [("a.mp4", BINARY)])
    with tarfile.open(path, "a") as tar:
        for name, kind in (("b.mp4", tarfile.LNKTYPE), ("c.mp4", tarfile.SYMTYPE), ("c.txt", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.mp4"
            tar.addfile(info)
    videos = read(path)
    assert summary(videos) == [("a", 0, None), ("b", 0, "unreadable"), ("c", 0, "unreadable")]
    assert videos[1].reject is not None and "'a.mp4'" in videos[1].reject.message


def test_joined_tars_are_read_to_the_end(tmp_path: Path) -> None:
    tars = [pack_tar(tmp_path / name, [(f"{name}.mp4", BINARY)]).read_bytes() for name in ("a", "b", "c")]
    joined = tmp_path / "all.tar"
    joined.write_bytes(tars[0] + tars[1] + bytes(2**20 + 512) + tars[2])
    videos = read(joined)
    assert summary(videos) == [("a", 0, None), ("b", 0, None), ("c", 0, None)]
    for number, video in enumerate(videos, 1):
        assert read(joined, video.end) == videos[number:]


def test_the_member_that_may_be_the_video_is_tried_not_its_thumbnail(tmp_path: Path) -> None:
    members = [("1.jpg", BINARY), ("1.unknown", b"\x00video"), ("2.jpg", BINARY), ("3.npy", BINARY), ("3.vob", BINARY)]
    videos = read(pack_tar(tmp_path / "a.tar", members))
    assert summary(videos) == [("1", 0, None), ("2", 0, None), ("3", 0, None)]
    assert videos[0].data == b"\x00video", "the thumbnail beside it is none"
    assert videos[1].data == BINARY, "a picture alone is a still"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_member_that_is_too_large_is_not_read(tmp_path: Path, mode: str) -> None:
    members = [("1.mp4", b"\0" * 5000), ("1.txt", "one"), ("2.mp4", BINARY), ("3.mp4", b"\0" * 5000)]
    path = pack_tar(tmp_path / ("a.tar" if mode == "w" else "a.tar.gz"), members, mode)
    videos = read(path, max_bytes=4999)
    assert summary(videos) == [("1", 0, "limit"), ("2", 0, None), ("3", 0, "limit")]
    assert (
        videos[0].reject
        and videos[0].reject.message == "5,000 bytes, at most 4,999 are allowed"
        and videos[0].data == b""
    )
    assert videos[0].ref.size_bytes == 5000 and videos[0].ref.text == {"txt": "one"}
    assert summary(read(path, max_bytes=5000)) == [("1", 0, None), ("2", 0, None), ("3", 0, None)]
    if mode == "w":  # cut off within the last one
        path.write_bytes(path.read_bytes()[: 512 * 20])
        assert summary(read(path, max_bytes=4999)) == [("1", 0, "limit"), ("2", 0, None), ("3", 0, "truncated")]


def test_each_video_of_a_sample_has_its_own_text(tmp_path: Path) -> None:
    names = [("a v1.0.mp4", BINARY), ("a v1.0.txt", "zero"), ("a v1.1.mp4", BINARY), ("a v1.1.txt", "one")]
    zero, one = read(pack_tar(tmp_path / "a.tar", [*names, ("a v1.json", "{}"), ("a v1.x.json", "[]")]))
    assert zero.ref.text == {"txt": "zero", "json": "{}", "x.json": "[]"}
    assert one.ref.text == {"txt": "one", "json": "{}", "x.json": "[]"}


def test_text_that_is_not_utf8_is_kept_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (video,) = read(pack_tar(tmp_path / "a.tar", [("1.mp4", BINARY), ("1.txt", b"caf\xe9")]))
    assert video.ref.text == {"txt": "caf\\xe9"}
    assert "a.tar: 1.txt is not UTF-8" in caplog.text


@pytest.mark.parametrize("size", [-512, -1024])
def test_a_size_below_zero_does_not_go_in_circles(tmp_path: Path, size: int) -> None:
    path = pack_tar(tmp_path / "a.tar", [("1.mp4", b"\0" * 512), ("2.mp4", BINARY)])
    data = bytearray(path.read_bytes())
    header = bytearray(data[1024:1536])
    header[124:136] = b"\xff" * 4 + size.to_bytes(8, "big", signed=True)  # base 256, as GNU tar writes large ones
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    data[1024:1536] = header
    path.write_bytes(data)
    assert summary(read(path)) == [("1", 0, None), ("2", 0, "truncated")]


@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": "x,y", "GNU.sparse.size": "1"},
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"},
        {"size": "9" * 23},
    ],
)
def test_nonsense_in_a_header_costs_what_follows_and_no_more(tmp_path: Path, headers: dict[str, str]) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        add_member(tar, "1.mp4", BINARY)
        info = tarfile.TarInfo("2.mp4")
        info.pax_headers = headers
        tar.addfile(info)
    videos = read(path)
    assert summary(videos)[0] == ("1", 0, None) and [video.reject.error for video in videos[1:] if video.reject] == [
        "truncated"
    ]


def test_what_breaks_off_does_not_take_whole_videos_along(tmp_path: Path) -> None:
    """Not the earlier video of the same key, nor another one of the same sample."""
    same = pack_tar(tmp_path / "a.tar", [("a.mp4", b"\0" * 512), ("a.mp4", b"\0" * 512)])
    assert summary(read(cut(same, 1024 + 512 + 9))) == [("a", 0, None), ("a", 1, "truncated")]
    beside = pack_tar(tmp_path / "b.tar", [("a.cam1.mp4", b"\0" * 512), ("a.cam2.mp4", b"\0" * 512)])
    assert summary(read(cut(beside, 1024 + 512 + 9))) == [("a", 0, None), ("a", 1, "truncated")]


def test_a_run_that_resumes_before_the_end_finds_that_the_tar_breaks_off(tmp_path: Path) -> None:
    """The last whole video ends where the file does; that the end is missing must still be recorded, once."""
    path = cut(pack_tar(tmp_path / "a.tar", [(f"{i}.mp4", b"\0" * 512) for i in range(3)]), 3 * 1024)
    videos = read(path)
    assert summary(videos) == [("0", 0, None), ("1", 0, None), ("2", 0, None), ("", 0, "truncated")]
    for number, video in enumerate(videos, 1):
        assert read(path, video.end) == videos[number:]


@pytest.mark.parametrize(
    ("listed", "standing", "refused"),
    [("0" * 32, "1" * 32, True), ("0" * 32, "0" * 32, False), ("0" * 32 + "-7", "1" * 32, False), (None, "1", False)],
)
def test_a_tar_of_other_content_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: str | None, standing: str, refused: bool
) -> None:
    path = pack_tar(tmp_path / "a.tar", [("1.mp4", BINARY)])
    store = open_store(str(tmp_path))
    opened = store.open("a.tar")
    opened.etag = standing
    monkeypatch.setattr(store, "open", lambda _: opened)
    shard = dataclasses.replace(shard_of(path), etag=listed)
    if refused:
        with pytest.raises(ShardError, match=r"a\.tar: its etag is 1+, but 0+ when the input was listed"):
            list(read_shard(store, shard, start=START))
    else:
        assert len(list(read_shard(store, shard, start=START))) == 1


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
