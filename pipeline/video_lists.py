"""Videos that lie in no tar: listed once, grouped into shards, and frozen in `inputs/videos-<hash>.parquet`.

A list is in the order in which its videos are read: the spans of one video follow each other.
"""

import dataclasses
import hashlib
import json
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError, ShardError
from pipeline.extensions import TEXT_EXTENSIONS
from pipeline.input_config import InputConfig
from pipeline.manifests import ManifestRow, read_manifest, stand_in
from pipeline.parts import read_table, table_bytes
from pipeline.records import Shard, VideoRange
from pipeline.secrets import redact_url
from pipeline.shards import Found, find_files
from pipeline.storage import Store

__all__ = ["ListedVideo", "VideoLists", "list_videos", "listed_in", "read_listed"]

# Of a file, at least, but for the last: a worker reads the whole of one for a shard.
_ROWS_OF_A_FILE = 16_384
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
        start_seconds: where the span begins, from the video's first frame, or None.
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
        name = path.encode("utf-8", "backslashreplace").decode()
        problem = None if name == path else f"{name}: its name is not UTF-8"
        yield ListedVideo(
            url=name, key=name, size_bytes=info.size_bytes, beside={} if problem else beside, problem=problem
        )


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
    of_a_file: list[list[ListedVideo]] = []
    for number, piece in enumerate(slices, 1):
        of_a_file.append(piece)
        if number == len(slices) or sum(map(len, of_a_file)) >= _ROWS_OF_A_FILE:
            _add_file(lists, source, name, of_a_file)
            of_a_file = []


def _add_file(lists: VideoLists, source: str, name: str, slices: Sequence[Sequence[ListedVideo]]) -> None:
    videos = [video for piece in slices for video in piece]
    columns = {column: [getattr(video, column) for video in videos] for column in _SCHEMA.names}
    data = table_bytes(pa.table(columns, schema=_SCHEMA))
    path = f"inputs/videos-{_digest(data)}.parquet"
    lists.files[path] = data
    first = 0
    for piece in slices:
        content = json.dumps([source, [[*video.identity, video.occurrence] for video in piece]])
        lists.shards.append(
            Shard(
                shard_id=f"{name}-{len(lists.shards):05d}-{hashlib.sha256(content.encode()).hexdigest()[:10]}",
                path=source,
                size_bytes=sum(video.size_bytes or 0 for video in piece),
                etag=None,
                videos=VideoRange(path=path, first=first, count=len(piece)),
            )
        )
        first += len(piece)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def _stem(path: str) -> str:
    readable = re.sub(r"[^A-Za-z0-9._-]", "_", posixpath.basename(path).split(".")[0]).lstrip("._-")[:80]
    return readable or "manifest"


def read_listed(store: Store, shard: Shard) -> list[ListedVideo]:
    """The videos of one shard, in order.

    Args:
        store: the dataset's root.
        shard: one that has a list.

    Raises:
        ShardError: the list is gone, or not the one that was written.
        StorageError: the store failed.
    """
    assert shard.videos is not None, "a shard of listed videos"
    return listed_in(store.read_if_there(shard.videos.path), shard)


def listed_in(data: bytes | None, shard: Shard) -> list[ListedVideo]:
    """The videos of one shard in the file that lists them; see `read_listed`."""
    assert shard.videos is not None, "a shard of listed videos"
    path, first, count = shard.videos.path, shard.videos.first, shard.videos.count
    if data is None or f"-{_digest(data)}." not in path:  # which names its content
        raise ShardError(
            f"{path}: the list of the videos of {shard.shard_id} is {'gone' if data is None else 'damaged'}"
        )
    return [_video(row) for row in read_table(data).slice(first, count).to_pylist()]


def _video(row: dict[str, Any]) -> ListedVideo:
    return ListedVideo(**{**row, "text": dict(row["text"]), "beside": dict(row["beside"])})
