"""Clips and what an encoder might make of them, without videos or models."""

from typing import Any

import numpy as np

from pipeline.records import Batch, Clip, EncodedClip, Position, Reject, SourceInfo, VideoEnd, VideoRef

__all__ = ["batch_of", "clip_of", "end_of", "random_latents", "tokens_of"]

SOURCE = SourceInfo(width=640, height=480, fps=25.0, codec="h264")


def clip_of(key: str = "k", *, index: int = 0, frames: int = 5, padded: int = 0, **ref: Any) -> Clip:
    """A clip of black 8x8 frames, ten a second; `ref` changes its VideoRef."""
    real = frames - padded
    seconds = (index * frames + np.minimum(np.arange(frames), real - 1)) / 10
    plain = {"shard_id": "s-0", "source_shard": "s.tar", "occurrence": 0, "size_bytes": 100}
    return Clip(
        ref=VideoRef(key=key, **{**plain, **ref}),
        source=SOURCE,
        clip_index=index,
        frames_THWC=np.zeros((frames, 8, 8, 3), np.uint8),
        frame_seconds=seconds,
        duration_seconds=real / 10,
        num_padded_frames=padded,
        flags=("upscaled",),
    )


def end_of(clip: Clip, *, sample: int = 1, reject: Reject | None = None) -> VideoEnd:
    """The end of this clip's video."""
    return VideoEnd(ref=clip.ref, reject=reject, end=Position(sample=sample, offset=sample * 1024))


def batch_of(*clips: Clip, ends: list[VideoEnd] | None = None) -> Batch:
    """One batch that closes a part: by default each clip is a whole video."""
    if ends is None:
        ends = [end_of(clip, sample=number) for number, clip in enumerate(clips, 1)]
    return Batch(clips=list(clips), ends=ends, closes_part=True)


def tokens_of(*shape: int) -> EncodedClip:
    """Tokens 0, 1, 2 ... of a grid (T, H, W)."""
    return EncodedClip(tokens_THW=np.arange(np.prod(shape), dtype=np.int32).reshape(shape))


def random_latents(seed: int, *shape: int) -> EncodedClip:
    """Latents and log-variances of a grid (C, T, H, W)."""
    draw = np.random.default_rng(seed).standard_normal((2, *shape)).astype(np.float32)
    return EncodedClip(latents_CTHW=draw[0], logvar_CTHW=draw[1])
