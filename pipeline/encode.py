"""encode: batches of uint8 frames through the tokenizer's encoder."""

import math
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from pipeline.records import Batch, Clip, EncodedClip
from vidtok_model import Encoded, StreamEncoder, TokenizerConfig, VideoTokenizer

__all__ = [
    "TORCH_DTYPES",
    "ClipEncoder",
    "bytes_per_position",
    "encode",
    "frames_to_clips",
    "num_positions",
    "set_arithmetic",
]

TORCH_DTYPES = {"fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def encode(batches: Iterable[Batch], encoder: "ClipEncoder") -> Iterator[tuple[Batch, list[EncodedClip]]]:
    """Encodes every batch; with each, one EncodedClip for each of its clips."""
    for batch in batches:
        yield batch, encoder(batch.clips) if batch.clips else []


def num_positions(config: TokenizerConfig, clip: Clip) -> int:
    """Positions of a clip's latent grid: its tokens, for an FSQ model."""
    frames, height, width, _ = clip.frames_THWC.shape
    return math.prod(config.latent_shape(frames, height, width)[1:])


def bytes_per_position(config: TokenizerConfig, *, logvar: bool) -> int:
    """Payload bytes of one position in a row: an int32 token, or float16 channels."""
    return 4 if config.is_discrete else 2 * config.latent_channels * (2 if logvar else 1)


def frames_to_clips(frames_BTHWC: torch.Tensor) -> torch.Tensor:
    """uint8 RGB frames (B, T, H, W, 3) as clips (B, 3, T, H, W), float32 in [-1, 1], in the same order in memory."""
    return (frames_BTHWC.float() / 127.5 - 1).permute(0, 4, 1, 2, 3)


def set_arithmetic(dtype: str) -> None:
    """Lets GPUs round float32 products to TF32 where the dtype is `tf32`, and nowhere else."""
    torch.backends.cuda.matmul.allow_tf32 = dtype == "tf32"
    torch.backends.cudnn.allow_tf32 = dtype == "tf32"


class ClipEncoder:
    """The encoder on one device, fed with batches of one static shape."""

    def __init__(self, tokenizer: VideoTokenizer, *, device: str, dtype: str, batch_size: int) -> None:
        """Takes over `tokenizer`, which must be on `device` in `dtype` already.

        Args:
            tokenizer: the model.
            device: a torch device.
            dtype: fp32, tf32, bf16 or fp16.
            batch_size: clips of every batch; fewer are filled up with black, so that the shape never changes.
        """
        self._tokenizer = tokenizer
        self._device = torch.device(device)
        self._batch_size = batch_size
        self._stream: StreamEncoder | None = None  # of the video whose segments come
        set_arithmetic(dtype)

    def __call__(self, clips: list[Clip]) -> list[EncodedClip]:
        """Encodes up to `batch_size` clips of one size."""
        frames_BTHWC = np.zeros((self._batch_size, *clips[0].frames_THWC.shape), np.uint8)
        for slot, clip in zip(frames_BTHWC, clips, strict=False):
            slot[:] = clip.frames_THWC
        with torch.inference_mode():
            on_device = torch.from_numpy(frames_BTHWC).to(self._device, non_blocking=True)
            encoded = self._encode(clips[0].segment_index, frames_to_clips(on_device))
        if encoded.tokens is not None:
            tokens = encoded.tokens.to("cpu", torch.int32).numpy()
            return [EncodedClip(tokens_THW=tokens[number]) for number in range(len(clips))]
        assert encoded.mean is not None and encoded.logvar is not None, "a KL model gives both"
        mean, logvar = encoded.mean.to("cpu", torch.float32).numpy(), encoded.logvar.to("cpu", torch.float32).numpy()
        return [EncodedClip(latents_CTHW=mean[number], logvar_CTHW=logvar[number]) for number in range(len(clips))]

    def _encode(self, segment_index: int | None, clips_BCTHW: torch.Tensor) -> Encoded:
        if segment_index is None:
            return self._tokenizer.encode(clips_BCTHW)
        if segment_index == 0:
            self._stream = self._tokenizer.stream_encoder()
        assert self._stream is not None, "a stream's segments come in order"
        encoded = self._stream.push(clips_BCTHW)
        assert encoded is not None, "a segment's frames are a whole number of latents"
        return encoded
