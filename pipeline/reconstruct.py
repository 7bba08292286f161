"""The way back: a row becomes frames again; and there and back, for frames that lie in no dataset."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipeline.checkpoints import Weights
from pipeline.encode import frames_to_clips
from pipeline.records import DecodedFrame, Frames
from pipeline.rows import SEGMENT_COLUMN
from pipeline.weights import load_weights
from vidtok_model import TokenizerConfig, VideoTokenizer
from vidtok_model.round_trip import chunk_frames, round_trip

__all__ = ["clips_to_frames", "decode_found", "decode_row", "decode_stream", "load_decoder", "reconstructed"]


def load_decoder(
    description: Mapping[str, Any],
    *,
    checkpoint: str | None = None,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> VideoTokenizer:
    """The tokenizer that a dataset (or one part's footer) says it was made with, in float32.

    Args:
        description: dataset.json, or a part's footer.
        checkpoint: where the weights lie now, if no longer where they were; they must be the same ones.
        device: a torch device.
        options: how to reach the checkpoint's store.

    Raises:
        ConfigError: the weights are gone, or other ones.
    """
    model = description["model"]
    weights = Weights(checkpoint=model["checkpoint"], identity=model["weights"], seed=model["seed"])
    config = TokenizerConfig.from_dict(model["config"])
    return load_weights(config, weights, checkpoint=checkpoint, device=device, dtype=torch.float32, options=options)


def decode_found(rows: pa.Table, place: int, tokenizer: VideoTokenizer) -> Frames:
    """Decodes one row of those that `Dataset.find_stream` gives; the frames are as of `decode_row`."""
    if SEGMENT_COLUMN not in rows.column_names:
        return decode_row(rows.slice(place, 1).to_pylist()[0], tokenizer)
    one_by_one = (rows.slice(number, 1).to_pylist()[0] for number in range(len(rows)))
    return next(islice(decode_stream(one_by_one, tokenizer), place, None))


def decode_row(row: Mapping[str, Any], tokenizer: VideoTokenizer) -> Frames:
    """Decodes one row's tokens or latents, by themselves.

    Args:
        row: columns latent_t, latent_h, latent_w, num_frames, and tokens or latents.
        tokenizer: the model that made it.

    Returns:
        uint8 RGB frames (num_frames, H, W, 3), padding included.
    """
    with torch.inference_mode():
        clips = tokenizer.decode(_latents(row, tokenizer))
        frames: Frames = clips_to_frames(clips)[0][-row["num_frames"] :]
        return frames


def decode_stream(rows: Iterable[Mapping[str, Any]], tokenizer: VideoTokenizer) -> Iterator[Frames]:
    """Decodes the rows of one stream, from its first segment on.

    Args:
        rows: as of `decode_row`, in order.
        tokenizer: the model that made them.

    Yields:
        The frames of each row, as `decode_row` gives them; a row's last ones wait for the row behind it.
    """
    stream = tokenizer.stream_decoder()
    lengths: list[int] = []
    held: list[Frames] = []

    def decoded() -> Iterator[torch.Tensor | None]:
        for row in rows:
            lengths.append(row["num_frames"])
            yield stream.push(_latents(row, tokenizer))
        yield stream.finish()

    for clips in decoded():
        held += [] if clips is None else list(clips_to_frames(clips)[0])
        while lengths and len(held) >= lengths[0]:
            length = lengths.pop(0)
            yield np.stack(held[:length])
            del held[:length]


def _latents(row: Mapping[str, Any], tokenizer: VideoTokenizer) -> torch.Tensor:
    shape = (row["latent_t"], row["latent_h"], row["latent_w"])
    device = next(tokenizer.parameters()).device
    if tokenizer.config.is_discrete:
        tokens_BTHW = torch.tensor(row["tokens"], dtype=torch.int64, device=device).reshape(1, *shape)
        return tokenizer.tokens_to_latents(tokens_BTHW)
    latents = np.frombuffer(row["latents"], "<f2").astype(np.float32)
    return torch.from_numpy(latents).to(device).reshape(1, tokenizer.config.latent_channels, *shape)


def reconstructed(
    frames: Iterable[DecodedFrame], tokenizer: VideoTokenizer, *, sample: bool = False
) -> Iterator[tuple[DecodedFrame, Frames]]:
    """Encodes and decodes a video of any length, in bounded memory; see `round_trip`.

    Args:
        frames: of one video and one size.
        tokenizer: the model.
        sample: whether latents of a KL model are a sample, not the mean.

    Yields:
        Each frame with its reconstruction, uint8 RGB (H, W, 3).
    """
    waiting: deque[DecodedFrame] = deque()
    size = chunk_frames(tokenizer.config)
    device = next(tokenizer.parameters()).device

    def chunks() -> Iterator[torch.Tensor]:
        source = iter(frames)
        while chunk := list(islice(source, size)):
            waiting.extend(chunk)
            pixels_BTHWC = torch.from_numpy(np.stack([frame.pixels_HWC for frame in chunk])[None])
            yield frames_to_clips(pixels_BTHWC.to(device))

    for _, decoded_BCTHW in round_trip(chunks(), tokenizer, sample=sample):
        for pixels_HWC in clips_to_frames(decoded_BCTHW)[0]:
            if waiting:  # behind the last frame may come those that repeat it
                yield waiting.popleft(), pixels_HWC


def clips_to_frames(clips_BCTHW: torch.Tensor) -> Frames:
    """The model's clips (B, 3, T, H, W) in [-1, 1] as uint8 RGB frames (B, T, H, W, 3)."""
    pixels = ((clips_BCTHW.float() + 1) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
    return pixels.permute(0, 2, 3, 4, 1).cpu().numpy()
