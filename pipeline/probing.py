"""What comes of some videos of a job's input: the job's own flow over them, mostly with drawn codes for an encoder."""

from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.batches import batch_clips
from pipeline.clips import cut_clips
from pipeline.config import JobConfig
from pipeline.decoding.pool import DecoderLimits, DecoderPool
from pipeline.parts import PROVENANCE, part_bytes
from pipeline.plan import Plan
from pipeline.records import (
    Batch,
    Clip,
    DecodedFrame,
    EncodedClip,
    Reject,
    SourceInfo,
    Video,
    VideoEnd,
    VideoRef,
)
from pipeline.rows import build_rows, row_schema
from pipeline.sampling import Place, VideoSample
from pipeline.shard_log import part_footer
from vidtok_model import TokenizerConfig

__all__ = ["DrawnClip", "DrawnCodes", "Encode", "PartSizes", "ProbedVideo", "decoded_clips", "probe_videos"]

_NEVER = 2**63
_ATTEMPT = "0" * 32

Encode = Callable[[Iterator[Batch]], Iterable[tuple[Batch, list[EncodedClip]]]]


@dataclass(kw_only=True, eq=False)
class ProbedVideo:
    """One video of the sample, and what came of it.

    Attributes:
        place: where it was drawn.
        ref: which one it is.
        ends_sample: whether no other video of its sample follows, so that a part may end with it.
        reject: why it gives no rows, or None.
        source: what its container says, where it could be opened.
        seconds: from its first frame to the end of the last one taken.
        frames: that were taken.
        frame_bytes: of one of these, in pixels.
        flags: as of VideoEnd.
        clips: its clips without their frames, with their codes.
    """

    place: Place
    ref: VideoRef
    ends_sample: bool
    reject: Reject | None = None
    source: SourceInfo | None = None
    seconds: float = 0.0
    frames: int = 0
    frame_bytes: int = 0
    flags: tuple[str, ...] = ()
    clips: list[tuple[Clip, EncodedClip]] = field(default_factory=list)

    @property
    def rows(self) -> list[tuple[Clip, EncodedClip]]:
        """The clips that become rows."""
        return [] if self.reject else self.clips


class DrawnClip(EncodedClip):
    """Codes that no encoder made."""


class DrawnCodes:
    """Codes of clips by chance: as good as any for their number, and such as compress least."""

    def __init__(self, config: TokenizerConfig, seed: int) -> None:
        """Draws for a model."""
        self._config = config
        self._dice = np.random.default_rng(seed)

    def __call__(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[EncodedClip]]]:
        """Stands in for `encode`."""
        for batch in batches:
            codes: list[EncodedClip] = [self.of(clip) for clip in batch.clips]
            batch.clips = [clip.without_frames() for clip in batch.clips]
            yield batch, codes

    def of(self, clip: Clip) -> DrawnClip:
        """Uniform tokens, or normal means and log-variances."""
        shape = self._config.latent_shape(*clip.frames_THWC.shape[:3])
        if self._config.codebook_size is not None:
            return DrawnClip(tokens_THW=self._dice.integers(self._config.codebook_size, size=shape[1:], dtype=np.int32))
        mean, logvar = self._dice.standard_normal((2, *shape), dtype=np.float32)
        return DrawnClip(latents_CTHW=mean, logvar_CTHW=logvar)


def decoded_clips(
    videos: Iterable[Video],
    job: JobConfig,
    *,
    num_decoders: int,
    watch: Callable[[VideoRef, DecodedFrame], None] = lambda *_: None,
) -> Generator[Clip | VideoEnd]:
    """Videos through the job's decoding and cutting, in processes of its own; `watch` is shown each frame."""
    limits = DecoderLimits(
        memory_bytes=job.executor.decoder_memory_bytes,
        stall_seconds=job.executor.stall_seconds,
        base_seconds=job.executor.decode_seconds,
    )
    decoder = DecoderPool(num_decoders, limits)
    try:
        decoded = decoder.decode(videos, job.decode_options())
        yield from cut_clips(
            ((video, _shown(video.ref, frames, watch)) for video, frames in decoded),
            lengths=job.clip_lengths,
            clips=job.clips,
            takes_stills=job.model.tokenizer_config().is_causal and job.clips.stills == "encode",
        )
    finally:
        decoder.close()


def _shown(
    ref: VideoRef, frames: Iterable[DecodedFrame], watch: Callable[[VideoRef, DecodedFrame], None]
) -> Iterator[DecodedFrame]:
    for frame in frames:
        watch(ref, frame)
        yield frame


def probe_videos(
    sample: VideoSample,
    encode: Encode,
    *,
    batch_size: int,
    num_decoders: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> list[ProbedVideo]:
    """Decodes the videos of a sample, cuts them, and encodes their clips.

    Args:
        sample: the videos.
        encode: as `pipeline.encode.encode`, or DrawnCodes.
        batch_size: of what it is given.
        num_decoders: processes that decode.
        on_progress: called with how many places are done, and how many there are.

    Raises:
        ShardError, StorageError: as of `VideoSample.videos`.
    """
    job = sample.plan.config
    probed: dict[int, ProbedVideo] = {}  # by the video's ref, which all that comes of it has

    def videos() -> Iterator[Video]:
        for place, video in sample.videos():
            probed[id(video.ref)] = ProbedVideo(place=place, ref=video.ref, ends_sample=video.end is not None)
            yield video

    def watch(ref: VideoRef, frame: DecodedFrame) -> None:
        video = probed[id(ref)]
        video.source, video.frame_bytes = frame.source, max(video.frame_bytes, frame.pixels_HWC.nbytes)
        video.frames, video.seconds = video.frames + 1, max(video.seconds, frame.seconds + frame.duration_seconds)

    done: set[Place] = set()
    with closing(decoded_clips(videos(), job, num_decoders=num_decoders, watch=watch)) as clips:
        batches = batch_clips(clips, batch_size=batch_size, part_bytes=_NEVER, clip_bytes=lambda _: 0)
        for batch, results in encode(batches):
            for clip, result in zip(batch.clips, results, strict=True):
                probed[id(clip.ref)].clips.append((clip, result))
            for end in batch.ends:
                video = probed[id(end.ref)]
                video.reject, video.flags = end.reject, end.flags
                done.add(video.place)
            on_progress(len(done), len(sample.places))
    return list(probed.values())


class PartSizes:
    """Sizes of parts that are written to memory, as a worker of this job would write them."""

    def __init__(self, plan: Plan) -> None:
        """Takes the job's schema and footers."""
        job, config = plan.config, plan.config.model.tokenizer_config()
        self._logvar = job.rows.logvar
        self._schema = row_schema(is_discrete=config.is_discrete, logvar=job.rows.logvar, is_stream=job.is_stream)
        run = {"device": "cpu", "threads": job.executor.threads, "batch_size": job.executor.batch_size or 1}
        self._provenance = {**{name: plan.description[name] for name in PROVENANCE}, "run": run}

    def of(self, videos: Iterable[ProbedVideo]) -> int:
        """Bytes of one part of these videos, at least one."""
        clips: list[Clip] = []
        codes: list[EncodedClip] = []
        ends: list[VideoEnd] = []
        place = None
        for number, video in enumerate(videos):
            place = place or video.place
            ref = replace(video.ref, occurrence=number)  # in other shards may be others of the same key
            clips += [replace(clip, ref=ref) for clip, _ in video.clips]
            codes += [code for _, code in video.clips]
            ends.append(VideoEnd(ref=ref, reject=video.reject, end=video.place.start, flags=video.flags))
        assert place is not None, "a part has videos"
        batch = Batch(clips=clips, ends=ends, closes_part=True)
        part = next(build_rows([(batch, codes)], logvar=self._logvar))
        footer = part_footer(part, place.shard, place.start, _ATTEMPT, self._provenance)
        return len(part_bytes(part, self._schema, footer))
