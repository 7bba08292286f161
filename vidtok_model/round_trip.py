"""There and back: videos of any length encoded and decoded, in bounded memory.

Shape suffixes: B batch, C channels, T frames, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidtok_model.config import TokenizerConfig

if TYPE_CHECKING:
    from vidtok_model.regularizers import Encoded
    from vidtok_model.tokenizer import VideoTokenizer

__all__ = ["chunk_frames", "round_trip"]

# Of a stream, at a time: what bounds the memory. The result does not depend on it.
_STREAM_CHUNK_FRAMES = 16


def chunk_frames(config: TokenizerConfig) -> int:
    """How many frames `round_trip` wants at a time."""
    return _STREAM_CHUNK_FRAMES if config.version == "1.1" else config.clip_frames


def round_trip(
    chunks: Iterator[Tensor],
    tokenizer: VideoTokenizer,
    *,
    sample: bool = False,
    generator: torch.Generator | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Encodes and decodes one video as the published evaluation does.

    A model of version 1.1 takes the video as one stream. Others take clips of `clip_frames` frames, each by itself, the
    last one filled up with copies of its last frame.

    Args:
        chunks: The video's frames in order, (B, 3, T, H, W) in [-1, 1]; T is `chunk_frames`, and less in the last one.
        tokenizer: The model.
        sample: Whether to decode a sample of a KL model's distribution rather than its mean.
        generator: Where the samples' noise comes from.

    Yields:
        Frames as they went in and as they come back, of the same shape. Behind the last clip's own frames stand the
        copies that filled it up; a stream gives none.

    Raises:
        ValueError: If chunks have another shape.
    """
    if tokenizer.config.version == "1.1":
        yield from _through_stream(chunks, tokenizer, sample, generator)
        return
    clip_frames = tokenizer.config.clip_frames
    for chunk_BCTHW in chunks:
        missing = clip_frames - chunk_BCTHW.shape[2]
        clips_BCTHW = torch.cat([chunk_BCTHW, chunk_BCTHW[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
        with torch.no_grad():
            encoded = tokenizer.encode(clips_BCTHW, sample=sample, generator=generator)
            decoded = tokenizer.decode(encoded.latents, clip_frames)
        yield clips_BCTHW, decoded


def _through_stream(
    chunks: Iterator[Tensor], tokenizer: VideoTokenizer, sample: bool, generator: torch.Generator | None
) -> Iterator[tuple[Tensor, Tensor]]:
    encoder, decoder = tokenizer.stream_encoder(sample=sample, generator=generator), tokenizer.stream_decoder()
    waiting: list[Tensor] = []

    def encoded() -> Iterator[Encoded | None]:
        for chunk_BCTHW in chunks:
            waiting.append(chunk_BCTHW)
            yield encoder.push(chunk_BCTHW)
        yield encoder.finish()

    def decoded() -> Iterator[Tensor | None]:
        yield from (decoder.push(piece.latents) for piece in encoded() if piece is not None)
        yield decoder.finish()

    for clips_BCTHW in decoded():
        if clips_BCTHW is None:
            continue
        frames_BCTHW = torch.cat(waiting, dim=2)
        waiting[:] = [frames_BCTHW[:, :, clips_BCTHW.shape[2] :]]
        # The last frames may be copies of the last one, to a whole latent.
        given_BCTHW = frames_BCTHW[:, :, : clips_BCTHW.shape[2]]
        if given_BCTHW.shape[2]:
            yield given_BCTHW, clips_BCTHW[:, :, : given_BCTHW.shape[2]]
