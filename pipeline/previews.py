"""Some clips of a job there and back: encoded as its rows are, and decoded from these."""

import random
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field

import torch

from pipeline.config import JobConfig
from pipeline.encode import ClipEncoder, frames_to_clips
from pipeline.probing import decoded_clips
from pipeline.reconstruct import decode_row, decode_stream
from pipeline.records import Batch, Clip, Frames, Position, VideoEnd, VideoRef
from pipeline.rows import build_rows
from pipeline.sampling import VideoSample
from vidtok_model import VideoTokenizer
from vidtok_model.metrics import psnr

__all__ = ["ClipChoice", "Preview", "choose_clips", "previews"]

_BEGINNING = Position(sample=0, offset=None)


@dataclass(kw_only=True)
class ClipChoice:
    """Clips of a sample.

    Attributes:
        clips: those that were chosen, as their videos came.
        rejects: videos of the sample that give no rows, and why.
    """

    clips: list[Clip] = field(default_factory=list)
    rejects: list[tuple[VideoRef, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Preview:
    """One clip there and back.

    Attributes:
        clip: as it went in.
        decoded_THWC: as it came back, without the frames that pad it; or None where the model made no row of it.
        psnr: mean over these frames in dB.
        problem: why there is no row, or None.
    """

    clip: Clip
    decoded_THWC: Frames | None = None
    psnr: float = float("nan")
    problem: str | None = None


def choose_clips(
    sample: VideoSample,
    count: int,
    seed: int,
    *,
    num_decoders: int,
    on_progress: Callable[[int, int], None] = lambda *_: None,
) -> ClipChoice:
    """Some clips of a sample's videos: as many of each video as are needed, by chance; of a stream its beginning.

    Raises:
        ShardError, StorageError: as of `VideoSample.videos`.
    """
    job, dice = sample.plan.config, random.Random(seed)
    most = -(-count // max(1, len(sample.places)))  # of one video
    chosen = ClipChoice()
    held: list[Clip] = []
    seen = done = 0
    videos = (video for _, video in sample.videos())
    with closing(decoded_clips(videos, job, num_decoders=num_decoders)) as items:
        for item in items:
            if isinstance(item, Clip):
                if item.segment_index:
                    continue  # it follows from those before it
                seen += 1
                if len(held) < most:
                    held.append(item)
                elif (place := dice.randrange(seen)) < most:  # so that each is as likely to stay
                    held[place] = item
                continue
            if item.reject is None:
                chosen.clips += sorted(held, key=lambda clip: clip.clip_index)
            else:
                chosen.rejects.append((item.ref, f"{item.reject.error} ({item.reject.stage}): {item.reject.message}"))
            held, seen, done = [], 0, done + 1
            on_progress(done, max(done, len(sample.places)))
    chosen.clips = chosen.clips[:count]
    return chosen


def previews(clips: list[Clip], job: JobConfig, tokenizer: VideoTokenizer) -> Iterator[Preview]:
    """Sends clips through a model, as rows of a dataset."""
    device = next(tokenizer.parameters()).device
    encoder = ClipEncoder(tokenizer, device=str(device), batch_size=1, threads=job.executor.threads)
    encoder.begin_thread()
    for clip in clips:
        end = VideoEnd(ref=clip.ref, reject=None, end=_BEGINNING)
        batch = Batch(clips=[clip], ends=[end], closes_part=True)
        part = next(build_rows([(batch, encoder.begin([clip])())], logvar=job.rows.logvar))
        if part.rejects:
            yield Preview(clip=clip, problem=str(part.rejects[0]["message"]))
            continue
        row = part.rows[0]
        decoded = next(decode_stream([row], tokenizer)) if job.is_stream else decode_row(row, tokenizer)
        count = len(clip.frames_THWC) - clip.num_padded_frames
        pair = (frames_to_clips(torch.from_numpy(frames[None, :count])) for frames in (clip.frames_THWC, decoded))
        yield Preview(clip=clip, decoded_THWC=decoded[:count], psnr=float(psnr(*pair).mean()))
