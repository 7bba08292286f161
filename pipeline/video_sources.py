"""The videos behind a path, for whoever looks at some and makes no dataset: tars, or a folder's files."""

import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

from pipeline.errors import ConfigError
from pipeline.input_config import InputConfig
from pipeline.records import Position, Video, VideoRef
from pipeline.samples import read_shard
from pipeline.shards import find_files, input_root, list_shards
from pipeline.storage import open_store
from pipeline.video_config import LimitsConfig

__all__ = ["find_videos"]


def find_videos(data: str, options: Mapping[str, Any] | None = None) -> Iterator[Video]:
    """Yields the videos of tars, or else of files.

    Args:
        data: path, brace pattern, glob, folder or prefix: of WebDataset tars, or of video files.
        options: how to reach its store.

    Raises:
        ConfigError: nothing is there.
        ShardError: a tar cannot be read.
        StorageError: the store failed.
    """
    try:
        shards = list_shards(InputConfig(shards=data), options)
    except ConfigError as no_tars:
        yield from _files(data, options, no_tars)
        return
    store = open_store(input_root(InputConfig(shards=data)), options)
    for shard in shards:
        yield from read_shard(store, shard, start=shard.beginning, max_bytes=LimitsConfig().video_bytes)


def _files(data: str, options: Mapping[str, Any] | None, no_tars: ConfigError) -> Iterator[Video]:
    source = InputConfig(videos=data)
    try:
        found = find_files(source, options)
    except ConfigError as no_videos:
        raise ConfigError([*no_tars.problems, *no_videos.problems]) from None
    for number, (path, info) in enumerate(sorted(found.files.items()), 1):
        ref = VideoRef(
            shard_id=posixpath.dirname(path) or ".",
            source_shard=".",
            key=path,
            occurrence=0,
            size_bytes=info.size_bytes,
        )
        yield Video(ref=ref, data=found.store.read(path), end=Position(sample=number, offset=None))
