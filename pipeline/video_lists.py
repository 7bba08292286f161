"""Videos that lie in no tar: listed once, grouped into shards, and frozen in `inputs/videos-<hash>.parquet`.

A list is in the order in which its videos are read: the spans of one video follow each other.
"""

import dataclasses
import hashlib
import io
import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigError, ShardError
from pipeline.input_config import InputConfig
from pipeline.manifests import ManifestRow, read_manifest, stand_in
from pipeline.records import Shard, VideoRange
from pipeline.samples import TEXT_EXTENSIONS
from pipeline.secrets import redact_url
from pipeline.shards import Found, find_files
from pipeline.storage import Store

__all__ = ["ListedVideo", "VideoLists", "list_videos", "read_listed"]

_ROWS_OF_A_GROUP = 4096
_TEXT = pa.map_(pa.string(), pa.string())
_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("url", pa.string()),
    ("is_link", pa.bool_()),
    ("key", pa.string()),
    ("occurrence", pa.int32()),
    ("size_bytes", pa.int64()),
    ("start_seconds", pa.float64()),
    ("end_seconds", pa.float64()),
    ("text", _TEXT),
    ("beside", _TEXT),
    ("problem", pa.string()),
]
_SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedVideo:
    """One video, or one span of a video.

    Attributes:
        url: where it lies: a path below the input's root, or a URL.
        is_link: whether `url` stands for a signed link, which only the manifest holds.
        key: names it.
        occurrence: how many of the same key came before it in the manifest, or among the files.
        size_bytes: as listed, or None.
        start_seconds: where the span begins on the video's own clock, or None.
        end_seconds: where it ends, or None.
        text: caption and metadata by extension.
        beside: paths of text files that belong to it, by extension.
        problem: why it cannot be read, or None.
    """

    url: str
    is_link: bool = False
    key: str
    occurrence: int = 0
    size_bytes: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None
    text: dict[str, str] = field(default_factory=dict)
    beside: dict[str, str] = field(default_factory=dict)
    problem: str | None = None

    @property
    def identity(self) -> tuple[str, str, float | None, float | None]:
        """Equal where two rows ask for the same."""
        return self.url, self.key, self.start_seconds, self.end_seconds


@dataclass
class VideoLists:
    """Shards of listed videos, and the files that list them, which must be written before the shards.

    Attributes:
        shards: in order.
        files: content by path below the dataset's root.
    """

    shards: list[Shard] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)


def list_videos(
    source: InputConfig,
    options: Mapping[str, Any],
    standing: Iterable[tuple[Shard, Sequence[ListedVideo]]] = (),
) -> VideoLists:
    """Finds the videos that a job's input names and that no shard has yet, and groups them into shards.

    Args:
        source: files, or manifests.
        options: how to reach their store, as for `open_store`.
        standing: the shards that there are, with their videos.

    Raises:
        ConfigError: nothing is there, or a manifest cannot be read.
        StorageError: the store failed.
    """
    found = find_files(source, options)
    known: dict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
    for shard, videos in standing:
        known[shard.path].update(video.identity for video in videos)
    lists = VideoLists()
    if source.kind == "videos":
        _add(lists, ".", "videos", _files(found), known["."], source.videos_per_shard)
        return lists
    for path in sorted(found.files):
        rows = (_listed(row, path) for row in read_manifest(found.store, path, source.columns))
        _add(lists, path, _stem(path), rows, known[path], source.videos_per_shard)
    if not lists.shards and not any(known.values()):
        raise ConfigError(f"input.manifests: {', '.join(map(redact_url, source.patterns))}: there is no row")
    return lists


def _files(found: Found) -> Iterator[ListedVideo]:
    for path, info in sorted(found.files.items()):
        stem = path.rpartition(".")[0]
        beside = {name: f"{stem}.{name}" for name in sorted(TEXT_EXTENSIONS) if f"{stem}.{name}" in found.others}
        yield ListedVideo(url=path, key=path, size_bytes=info.size_bytes, beside=beside)


def _listed(row: ManifestRow, manifest: str) -> ListedVideo:
    url = stand_in(row.url)
    is_relative = bool(url) and "://" not in url and not url.startswith("/")
    return ListedVideo(
        url=posixpath.normpath(posixpath.join(posixpath.dirname(manifest), url)) if is_relative else url,
        is_link=url != row.url,
        key=row.key,
        start_seconds=row.start_seconds,
        end_seconds=row.end_seconds,
        text=row.text,
        problem=row.problem,
    )


def _add(
    lists: VideoLists, source: str, name: str, videos: Iterable[ListedVideo], known: Counter[tuple[Any, ...]], most: int
) -> None:
    """Adds the shards of one manifest, or of all files."""
    occurrences = Counter(identity[1] for identity in known.elements())
    left = known.copy()
    groups: dict[str, list[ListedVideo]] = defaultdict(list)
    for video in videos:
        if left[video.identity] > 0:
            left[video.identity] -= 1
            continue
        groups[video.url].append(dataclasses.replace(video, occurrence=occurrences[video.key]))
        occurrences[video.key] += 1
    slices: list[list[ListedVideo]] = []
    for group in groups.values():
        # By time, so that one pass goes through a video; what names no span of it stands in front.
        group.sort(key=lambda video: (video.problem is None, video.start_seconds or 0.0, video.end_seconds or 0.0))
        if not slices or len(slices[-1]) >= most:
            slices.append([])
        slices[-1] += group
    if not slices:
        return
    data = _list_bytes([video for piece in slices for video in piece])
    path = f"inputs/videos-{hashlib.sha256(data).hexdigest()[:16]}.parquet"
    lists.files[path] = data
    first = 0
    for piece in slices:
        digest = hashlib.sha256(json.dumps([source, [[*v.identity, v.occurrence] for v in piece]]).encode()).hexdigest()
        lists.shards.append(
            Shard(
                shard_id=f"{name}-{len(lists.shards):05d}-{digest[:10]}",
                path=source,
                size_bytes=sum(video.size_bytes or 0 for video in piece),
                etag=None,
                videos=VideoRange(path=path, first=first, count=len(piece)),
            )
        )
        first += len(piece)


def _stem(path: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", posixpath.basename(path).split(".")[0]).lstrip("._-")[:80]
    return readable or "manifest"


def _list_bytes(videos: Sequence[ListedVideo]) -> bytes:
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, _SCHEMA, compression="zstd", compression_level=1) as writer:
        for begin in range(0, len(videos), _ROWS_OF_A_GROUP):
            some = videos[begin : begin + _ROWS_OF_A_GROUP]
            columns = {name: [getattr(video, name) for video in some] for name in _SCHEMA.names}
            writer.write_table(pa.table(columns, schema=_SCHEMA))
    return sink.getvalue()


def read_listed(store: Store, shard: Shard) -> list[ListedVideo]:
    """The videos of one shard, in order; no more of their list is read than holds them.

    Args:
        store: the dataset's root.
        shard: one that has a list.

    Raises:
        ShardError: the list is not ours.
        StorageError: the store failed.
    """
    assert shard.videos is not None, "a shard of listed videos"
    first, last = shard.videos.first, shard.videos.first + shard.videos.count
    videos: list[ListedVideo] = []
    begin = 0
    try:
        with store.open(shard.videos.path) as raw, pq.ParquetFile(cast("IO[bytes]", raw)) as file:
            for group in range(file.num_row_groups):
                end = begin + file.metadata.row_group(group).num_rows
                if begin < last and end > first:
                    table = file.read_row_group(group, use_threads=False)
                    videos += map(_video, table.slice(max(0, first - begin), last - max(begin, first)).to_pylist())
                begin = end
    except (pa.ArrowException, OSError, TypeError) as error:
        raise ShardError(f"{shard.videos.path}: is no list of videos of ours: {error}") from None
    if len(videos) != shard.videos.count:
        raise ShardError(
            f"{shard.videos.path}: has {begin} rows, {shard.shard_id} begins at {first} and ends at {last}"
        )
    return videos


def _video(row: dict[str, Any]) -> ListedVideo:
    return ListedVideo(**{**row, "text": dict(row["text"]), "beside": dict(row["beside"])})
