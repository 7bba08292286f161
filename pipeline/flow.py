"""The page to read first: how one shard of videos becomes committed rows.

    list_shards -> read_shard -> decode -> cut_clips -> batch_clips
                -> encode -> build_rows -> write_part -> commit_shard

Every stage is a generator that pulls from the one before it, so that a shard streams through in the memory of a
batch and a part. Four of them are at work at the same time, each in a thread (ahead.py): what reads, what decodes and
cuts, what encodes, and what writes, which is the caller's. `list_shards` runs once, in the driver (job.py); the rest is
here.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from pipeline.ahead import AHEAD_BYTES, Ahead, Clock
from pipeline.batches import batch_clips, bytes_per_position, num_positions
from pipeline.clips import cut_clips
from pipeline.config import JobConfig
from pipeline.decoding.options import DecodeOptions
from pipeline.encode import ClipEncoder, encode
from pipeline.listed_videos import VideoFetcher, read_listed_videos
from pipeline.progress import Counters
from pipeline.records import Batch, DecodedFrame, EncodedClip, Shard, Video
from pipeline.rows import build_rows
from pipeline.samples import not_yet_done, read_shard, read_some
from pipeline.shard_log import ShardLog, read_commit
from pipeline.stopping import check_stop
from pipeline.storage import Store
from pipeline.video_lists import read_listed
from vidtok_model import TokenizerConfig

__all__ = ["VideoDecoder", "Work", "tokenize_shard"]


class VideoDecoder(Protocol):
    """Decodes videos in order: in processes of its own (DecoderPool), or here (DecoderHere)."""

    def decode(self, videos: Iterable[Video], options: DecodeOptions) -> Iterator[tuple[Video, Iterator[DecodedFrame]]]:
        """Yields each video without its bytes, and its frames; see DecoderPool.decode."""
        ...

    def close(self) -> None:
        """Ends what it started."""
        ...


@dataclass(kw_only=True)
class Work:
    """What stays the same from shard to shard.

    Attributes:
        config: the job.
        tokenizer_config: the model's configuration.
        input: the root of the shards.
        output: the root of the dataset.
        fetcher: gets videos that lie in no tar.
        decoder: from videos to frames.
        encoder: the model, on its device.
        schema: columns of a row.
        provenance: what every part's footer says of how it was made.
        counters: work done so far; updated as it is done.
        queues: between the stages of the shard that is under way.
        on_progress: called after each batch.
        before_writing: called before each part is put, and told whether the encoder gave what is not finite; may raise,
            and then the part is not put.
    """

    config: JobConfig
    tokenizer_config: TokenizerConfig
    input: Store
    output: Store
    fetcher: VideoFetcher
    decoder: VideoDecoder
    encoder: ClipEncoder
    schema: pa.Schema
    provenance: dict[str, Any]
    counters: Counters = field(default_factory=Counters)
    queues: tuple[Ahead[Any], ...] = ()
    on_progress: Callable[[Counters], None] = lambda _: None
    before_writing: Callable[[bool], None] = lambda _: None

    def queue_bytes(self) -> Mapping[str, int]:
        """Bytes that stand in each queue now."""
        return {queue.name: queue.standing_bytes for queue in self.queues}


def tokenize_shard(shard: Shard, work: Work, *, attempt_id: str) -> dict[str, Any]:
    """Tokenizes one shard and commits it; whatever earlier attempts wrote is kept and not done again.

    Args:
        shard: which one.
        work: the rest.
        attempt_id: names this attempt, 32 hex digits.

    Returns:
        The commit (see ShardLog.commit).

    Raises:
        ShardError: the shard cannot be done now.
        StorageError: a store failed.
        CommitConflict: another result stands in the dataset.
        WorkerUnfit: this worker does not compute what it should.
        Stopped: this process was told to stop; its last part is in the store.
    """
    standing = read_commit(work.output, shard.shard_id)
    if standing is not None:
        return standing  # another driver was faster
    clock = Clock()
    log = ShardLog(work.output, shard, schema=work.schema, provenance=work.provenance, attempt_id=attempt_id)
    while not _write_parts(shard, work, log, clock):
        pass  # another attempt's part was adopted: read again from its end
    commit = log.commit()
    work.counters.add_time(*clock.take())
    return commit


def _write_parts(shard: Shard, work: Work, log: ShardLog, clock: Clock) -> bool:
    """Goes through what is left of a shard; False where it met a part that another attempt wrote."""
    with (
        Ahead(
            _videos(shard, work, log),
            size_of=lambda video: len(video.data),
            max_bytes=AHEAD_BYTES,
            clock=clock,
            stages=("read", "decode"),
        ) as videos,
        Ahead(
            _batches(videos, work),
            size_of=lambda batch: sum(clip.frames_THWC.nbytes for clip in batch.clips),
            max_bytes=AHEAD_BYTES,
            clock=clock,
            stages=("decode", "encode"),
            source=videos,
        ) as batches,
        Ahead(
            encode(batches, work.encoder, batches.is_ready),
            size_of=lambda encoded: sum(clip.nbytes for clip in encoded[1]),
            max_bytes=AHEAD_BYTES,
            clock=clock,
            stages=("encode", "write"),
            source=batches,
        ) as encoded,
    ):
        work.queues = (videos, batches, encoded)
        for part in build_rows(_counted(encoded, work, clock), logvar=work.config.rows.logvar):
            work.before_writing(any(reject["error"] == "not_finite" for reject in part.rejects))
            if not log.append(part):
                return False
            work.counters.bytes_written += log.parts[-1].size_bytes
            check_stop()  # what is finished is in the store
    return True


def _batches(videos: Iterator[Video], work: Work) -> Iterator[Batch]:
    """Videos decoded, and cut into batches of clips."""
    job = work.config
    position_bytes = bytes_per_position(work.tokenizer_config, logvar=job.rows.logvar)
    clips = cut_clips(
        work.decoder.decode(videos, job.decode_options()),
        lengths=job.clip_lengths,
        clips=job.clips,
        takes_stills=work.tokenizer_config.is_causal and job.clips.stills == "encode",
    )
    return batch_clips(
        clips,
        batch_size=work.encoder.batch_size,
        part_bytes=job.rows.part_bytes,
        clip_bytes=lambda clip: num_positions(work.tokenizer_config, clip) * position_bytes,
    )


def _videos(shard: Shard, work: Work, log: ShardLog) -> Iterator[Video]:
    """What is left to read of a shard."""
    max_bytes = work.config.limits.video_bytes
    wanted = None if shard.only is None else not_yet_done(shard.only, log.keys)
    if shard.videos is not None:
        listed = read_listed(work.output, shard)
        return read_listed_videos(shard, listed, work.fetcher, start=log.position, wanted=wanted)
    if wanted is not None:
        return read_some(work.input, shard, wanted, max_bytes=max_bytes)
    return read_shard(work.input, shard, start=log.position, seen=log.keys, max_bytes=max_bytes)


def _counted(
    encoded: Iterator[tuple[Batch, list[EncodedClip]]], work: Work, clock: Clock
) -> Iterator[tuple[Batch, list[EncodedClip]]]:
    counters = work.counters
    for batch, results in encoded:
        yield batch, results
        counters.clips += len(batch.clips)
        counters.frames += sum(len(clip.frames_THWC) - clip.num_padded_frames for clip in batch.clips)
        counters.tokens += sum(num_positions(work.tokenizer_config, clip) for clip in batch.clips)
        for end in batch.ends:
            counters.bytes_read += end.ref.size_bytes
            counters.count_end(end)
        counters.add_time(*clock.take())
        work.on_progress(counters)
