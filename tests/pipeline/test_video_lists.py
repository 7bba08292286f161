"""Lists of videos: their order, their shards, and what they cost."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ShardError
from pipeline.input_config import InputConfig
from pipeline.manifests import stand_in
from pipeline.storage import Store, open_store
from pipeline.video_lists import list_videos, read_listed
from tests.support import ROOT


def manifest(folder: Path, rows: list[dict[str, Any]], **given: Any) -> InputConfig:
    (folder / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return InputConfig(manifests=str(folder / "m.jsonl"), **given)


def stored(store: Store, files: dict[str, bytes]) -> Store:
    for path, data in files.items():
        store.put_if_absent(path, data)
    return store


def test_spans_of_a_video_stay_together_in_time(tmp_path: Path) -> None:
    rows = [{"url": f"{n % 5}.mp4", "start_seconds": 20 - n, "id": n} for n in range(20)]
    lists = list_videos(manifest(tmp_path, rows, videos_per_shard=6), {})
    assert [shard.videos and (shard.videos.first, shard.videos.count) for shard in lists.shards] == [
        *((0, 8), (8, 8), (16, 4))
    ]
    store = stored(open_store(str(tmp_path / "out")), lists.files)
    videos = [video for shard in lists.shards for video in read_listed(store, shard)]
    assert [(video.url, video.start_seconds) for video in videos] == [
        (f"{url}.mp4", 20.0 - n) for url in range(5) for n in range(15 + url, -1, -5)
    ]
    # The same input is the same list, byte for byte; and a row's name does not depend on its shard.
    assert list_videos(manifest(tmp_path, rows, videos_per_shard=6), {}) == lists
    other = list_videos(manifest(tmp_path, rows, videos_per_shard=100), {})
    assert other.files == lists.files and len(other.shards) == 1


def test_a_long_list_is_several_files(tmp_path: Path) -> None:
    """A worker reads one of them for a shard."""
    rows = [{"url": f"{n:05d}.mp4"} for n in range(40_000)]
    lists = list_videos(manifest(tmp_path, rows, videos_per_shard=3000), {})
    store = stored(open_store(str(tmp_path / "out")), lists.files)
    read = [[video.url for video in read_listed(store, shard)] for shard in lists.shards]
    assert [len(urls) for urls in read] == [3000] * 13 + [1000]
    assert [url for urls in read for url in urls] == [f"{n:05d}.mp4" for n in range(40_000)]
    assert [shard.videos and shard.videos.first for shard in lists.shards] == [
        *(n * 3000 for n in range(6)),
        *(n * 3000 for n in range(6)),
        *(0, 3000),
    ]
    assert len(lists.files) == 3 and len({shard.shard_id for shard in lists.shards}) == 14


def test_a_list_that_is_gone_or_another(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "out"))
    lists = list_videos(manifest(tmp_path, [{"url": "a.mp4"}]), {})
    ((path, data),) = lists.files.items()
    (shard,) = lists.shards
    with pytest.raises(ShardError, match=rf"{path}: the list of the videos of m-00000-[0-9a-f]+ is gone"):
        read_listed(store, shard)
    for spoilt in (
        b"torn",
        data[:-1] + b"x",
        next(iter(list_videos(manifest(tmp_path, [{"url": "b.mp4"}]), {}).files.values())),
    ):
        store.put(path, spoilt)
        with pytest.raises(ShardError, match=r"is damaged"):
            read_listed(store, shard)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a/b.mp4", "a/b.mp4"),
        ("odd?name=1.mp4", "odd?name=1.mp4"),
        ("s3://bucket/a.mp4", "s3://bucket/a.mp4"),
        ("s3://KEY:SECRET@bucket/a.mp4", "s3://bucket/a.mp4"),
        ("ftp://user:pw@host/a.mp4", "ftp://host/a.mp4"),
        ("abfs://container@account/a.mp4", "abfs://container@account/a.mp4"),
        ("HTTPS://host/a.mp4?Signature=1", "HTTPS://host/a.mp4"),
        ("https://host/a.mp4", "https://host/a.mp4"),
        ("https://user:pass@host/a.mp4", "https://host/a.mp4"),
        ("https://host/a.mp4?X-Amz-Signature=1&X-Amz-Date=2", "https://host/a.mp4"),
        ("https://host/a.mp4?sv=1&se=2&sig=3", "https://host/a.mp4"),
        ("https://host/a.mp4?Expires=1&Signature=2&Key-Pair-Id=3", "https://host/a.mp4"),
    ],
)
def test_what_stands_for_a_url(url: str, expected: str) -> None:
    assert stand_in(url) == expected


def test_what_signs_nothing_tells_addresses_apart() -> None:
    seven, eight = (stand_in(f"https://host/watch?v={n}&token=secret") for n in (7, 8))
    assert seven != eight and "secret" not in seven and seven.startswith("https://host/watch?query=")
    assert stand_in("https://host/watch?token=other&v=7") == seven


@pytest.mark.slow
def test_a_million_rows_take_bounded_memory(tmp_path: Path) -> None:
    count = 1_000_000
    columns = {
        "url": [f"s3://bucket/videos/{n // 5:09d}.mp4" for n in range(count)],
        "id": [f"clip-{n:09d}" for n in range(count)],
        "caption": ["a person does something in a place, and then another thing happens"] * count,
        "start_seconds": [n % 5 * 10.0 for n in range(count)],
        "end_seconds": [n % 5 * 10.0 + 9 for n in range(count)],
    }
    pq.write_table(pa.table(columns), tmp_path / "m.parquet")
    program = (
        "from pipeline.input_config import InputConfig; from pipeline.video_lists import list_videos;"
        "from tests.memory import peak_bytes; before = peak_bytes();"
        f"lists = list_videos(InputConfig(manifests={str(tmp_path / 'm.parquet')!r}), {{}});"
        "print(sum(shard.videos.count for shard in lists.shards), peak_bytes() - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    listed, taken = map(int, done.stdout.split())
    assert listed == count and taken < 1.5 * 2**30, f"{taken:,} bytes"
