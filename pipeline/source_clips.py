"""Back to what a row was made of: its clip, decoded and cut from the input again."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any

from pipeline.clips import cut_clips
from pipeline.config import JobConfig
from pipeline.dataset import Dataset
from pipeline.decoding.here import DecoderHere
from pipeline.errors import ConfigError, ShardError
from pipeline.input_config import InputConfig
from pipeline.listed_videos import VideoFetcher, read_listed_videos
from pipeline.records import Clip, Position, Shard, Video
from pipeline.rows import row_id
from pipeline.samples import read_shard, read_some
from pipeline.shards import input_root
from pipeline.storage import open_store
from pipeline.video_lists import read_listed

__all__ = ["SourceClips"]


class SourceClips:
    """Finds the clips of rows in the input of their dataset, by the job that dataset.json tells of."""

    def __init__(self, dataset: Dataset, *, patterns: str | None = None) -> None:
        """Opens the input.

        Args:
            dataset: of the rows.
            patterns: where the input lies now, if it has moved.

        Raises:
            ConfigError: the dataset does not say what its input is.
            StorageError: its store cannot be reached.
        """
        try:
            config = JobConfig.model_validate(dataset.description["job"])
        except (KeyError, ValueError) as error:  # also pydantic's
            raise ConfigError(f"{dataset.store.root}: its job cannot be read: {type(error).__name__}") from None
        if patterns is not None:
            moved = InputConfig.model_validate({**config.input.model_dump(), config.input.kind: patterns})
            config = config.model_copy(update={"input": moved})
        self._dataset, self._config = dataset, config
        self._shards = dataset.inputs()
        self._store = open_store(input_root(config.input), config.storage.input.model_dump())

    def find(self, row: Mapping[str, Any], part: Mapping[str, Any] | None = None) -> Clip:
        """The clip of a row, cut as it was when the row was made. Of the shard no more is read than is needed.

        Args:
            row: columns id, source_shard and source_key.
            part: what the footer of its part says, by which not even all of its shard is gone through.

        Raises:
            ShardError: the input has no such clip any more.
            StorageError: it cannot be read.
        """
        for shard, begin, last in self._places(row, part):
            for clip in self._clips(self._videos(shard, row["source_key"], begin, last)):
                if row_id(clip) == row["id"]:
                    return clip
        raise ShardError(f"{row['source_shard']}: no clip of {row['source_key']!r} has the id {row['id']}")

    def _places(
        self, row: Mapping[str, Any], part: Mapping[str, Any] | None
    ) -> Iterator[tuple[Shard, Position, int | None]]:
        """Shards, and where in them to begin and behind which sample to end."""
        if part is None:
            yield from ((shard, shard.beginning, None) for shard in self._shards.where("path", row["source_shard"]))
            return
        last = part["range"]["end"]["sample"]
        for shard in self._shards.where("shard_id", part["shard_id"]):
            yield shard, Position(**part["range"]["start"]), last
            yield shard, shard.beginning, last  # of a repeated key, which is the how-manieth counts from here

    def _clips(self, videos: Iterable[Video]) -> Iterator[Clip]:
        config = self._config
        decoded = DecoderHere().decode(videos, config.decode_options())
        for item in cut_clips(decoded, lengths=config.clip_lengths, clips=config.clips, takes_stills=True):
            if isinstance(item, Clip):
                yield item

    def _videos(self, shard: Shard, key: str, begin: Position, last: int | None) -> Iterator[Video]:
        """Those of a key."""
        if shard.videos is not None:
            listed = read_listed(self._dataset.store, shard)
            wanted = {(video.key, video.occurrence) for video in listed if video.key == key}
            fetcher = VideoFetcher(self._config)
            return read_listed_videos(shard, listed, fetcher, start=shard.beginning, wanted=wanted)
        max_bytes = self._config.limits.video_bytes
        if shard.only is not None:
            only = [video for video in shard.only if video[0] == key]
            return read_some(self._store, shard, only, max_bytes=max_bytes)
        videos = read_shard(self._store, shard, start=begin, max_bytes=max_bytes)
        in_part = takewhile(lambda video: last is None or video.end is None or video.end.sample <= last, videos)
        return (video for video in in_part if video.ref.key == key)
