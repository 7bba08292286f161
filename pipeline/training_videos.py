"""The videos to train on, in an order that follows from a seed: any of them is found again by its number alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.errors import ConfigError, SampleError, ShardError, StorageError
from pipeline.input_config import InputConfig
from pipeline.parts import read_table, table_bytes
from pipeline.records import Position, Shard
from pipeline.samples import index_shard, read_shard
from pipeline.shards import find_files, input_root, list_shards
from pipeline.storage import open_store

__all__ = ["TrainingVideos", "VideoPlace", "index_videos"]

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("path", pa.string()),
    ("size_bytes", pa.int64()),
    ("etag", pa.string()),
    ("sample", pa.int32()),
    ("offset", pa.int64()),
    ("number", pa.int32()),
]
_SCHEMA = pa.schema(_COLUMNS)


@dataclass(frozen=True, kw_only=True)
class VideoPlace:
    """Where one video lies.

    Attributes:
        path: of a tar, or of the video's own file, below the input's root.
        size_bytes: of that file.
        etag: what its store calls its content, or None.
        sample: of a tar, samples before the video's; None: a file.
        offset: of a tar, where the video's sample begins.
        number: how many videos of its sample come before it.
    """

    path: str
    size_bytes: int
    etag: str | None
    sample: int | None = None
    offset: int | None = None
    number: int = 0


def index_videos(source: InputConfig, options: Mapping[str, Any]) -> list[VideoPlace]:
    """Finds every video of the input. Of tars, headers alone are read.

    Raises:
        ConfigError: there are none, or they lie where single ones cannot be read.
        ShardError, StorageError: they cannot be read.
    """
    if source.kind == "videos":
        found = find_files(source, options).files
        return [
            VideoPlace(path=path, size_bytes=info.size_bytes, etag=info.etag) for path, info in sorted(found.items())
        ]
    if source.kind == "manifests":
        raise ConfigError("input.manifests: training takes shards or videos")
    store = open_store(input_root(source), options)
    places = []
    for shard in list_shards(source, options):
        if shard.beginning.offset is None:
            raise ConfigError(f"input.shards: {shard.path}: of a compressed tar no single video can be read")
        for video, start, number in index_shard(store, shard):
            if video.reject is None or video.reject.error == "limit":
                places.append(
                    VideoPlace(
                        path=shard.path,
                        size_bytes=shard.size_bytes,
                        etag=shard.etag,
                        sample=start.sample,
                        offset=start.offset,
                        number=number,
                    )
                )
    if not places:
        raise ConfigError(f"input.shards: {', '.join(source.patterns)}: there is no video in these tars")
    return places


class TrainingVideos:
    """An index of videos, and their bytes."""

    def __init__(self, source: InputConfig, options: Mapping[str, Any], places: list[VideoPlace]) -> None:
        """Reaches the input's store."""
        self.places = places
        self._store = open_store(input_root(source), options)
        self._orders: dict[tuple[int, int], np.ndarray[Any, np.dtype[np.int64]]] = {}

    @staticmethod
    def to_bytes(places: list[VideoPlace]) -> bytes:
        """An index as a Parquet file."""
        return table_bytes(pa.Table.from_pylist([vars(place) for place in places], schema=_SCHEMA))

    @staticmethod
    def from_bytes(data: bytes) -> list[VideoPlace]:
        """The index in such a file."""
        return [VideoPlace(**row) for row in read_table(data).to_pylist()]

    def at(self, number: int, seed: int) -> int:
        """The place in the index of the `number`-th sample: each epoch goes through all, in an order of its own."""
        epoch, position = divmod(number, len(self.places))
        if (seed, epoch) not in self._orders:
            # Of two epochs at the most: a batch may lie in both.
            self._orders = {key: order for key, order in self._orders.items() if key[1] >= epoch - 1}
            self._orders[seed, epoch] = np.random.default_rng([seed, epoch]).permutation(len(self.places))
        return int(self._orders[seed, epoch][position])

    def read(self, index: int) -> bytes:
        """The bytes of one video.

        Raises:
            SampleError: it, or its tar, is gone or broken.
            StorageError: its store failed.
        """
        place = self.places[index]
        if place.sample is None:
            data = self._store.read_if_there(place.path)
            if data is None:
                raise SampleError("read", "missing", f"{place.path} is gone")
            return data
        try:
            return self._from_tar(place, place.sample)
        except ShardError as error:
            raise SampleError("read", "unreadable", str(error)) from None
        except StorageError:
            if self._store.info(place.path) is None:
                raise SampleError("read", "missing", f"{place.path} is gone") from None
            raise

    def _from_tar(self, place: VideoPlace, sample: int) -> bytes:
        shard = Shard(shard_id=place.path, path=place.path, size_bytes=place.size_bytes, etag=place.etag)
        videos = read_shard(self._store, shard, start=Position(sample=sample, offset=place.offset))
        for number, video in enumerate(videos):
            if number == place.number:
                if video.reject is not None:
                    raise SampleError(video.reject.stage, video.reject.error, video.reject.message)
                return video.data
        raise SampleError("read", "missing", f"{place.path}: sample {sample} is gone")
