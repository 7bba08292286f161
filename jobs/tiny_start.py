"""Where the small carried models begin: the convolutions outside their blocks are fitted first, as a linear model.

    python -m jobs.tiny_start NAME FOLDER OUT

A model of 1.7 M parameters that begins with random weights learns colours and detail slowly: what halves and doubles
frames mixes them with noise, and the LayerNorm before the last convolutions takes the contrast away. Without blocks,
norms and swishes an iteration is three times as fast, and the linear model learns in a quarter of an hour what the
whole one did not in an hour. Then the rest is set so that the whole model does what the linear one did.
"""

import argparse
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jobs.tiny_axes import align
from jobs.tiny_linear import LinearPart, convolution
from jobs.tiny_set import TEXTURE
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.encode import frames_to_clips
from pipeline.records import Frames
from vidtok_model import CARRIED, VideoTokenizer, random_tokenizer, save_tokenizer
from vidtok_model.blocks import FrameAttention, ResidualBlock
from vidtok_model.layers import Conv
from vidtok_model.resampling import SpatialDown, SpatialUp, TemporalDown, TemporalUp
from vidtok_model.training.optimizers import Muon

_BATCH, _FRAMES, _SIZE = 4, 9, 64
_REAL_SHARE = 0.8
_RATE, _WARMUP = 1.5e-3, 50
_RANDOM_PART = 0.3
_LOGVAR = -8.0
# Of a constant pair's square to the energy of the features beside it, by which a LayerNorm is nearly a division.
_CONSTANT = 8.0


@torch.no_grad()
def make_pyramid(tokenizer: VideoTokenizer, *, seed: int) -> VideoTokenizer:
    """Turns random weights into a pyramid of averages: blocks change nothing, halving averages, doubling repeats.

    Args:
        tokenizer: With random weights, which are changed in place.
        seed: Of the matrices between levels of different width.
    """
    generator = torch.Generator().manual_seed(seed)
    average = torch.tensor([[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]])
    tent = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    center = torch.zeros(3, 3, 3)
    center[1, 1, 1] = 1
    for module in tokenizer.modules():
        if isinstance(module, ResidualBlock):
            _scaled(module.conv2, 0)
            if isinstance(module.nin_shortcut, Conv):
                nn.init.orthogonal_(_scaled(module.nin_shortcut, 1), generator=generator)
        elif isinstance(module, FrameAttention):
            _scaled(module.proj_out, 0)
        elif isinstance(module, SpatialDown):
            _pass_on(_scaled(module.conv, _RANDOM_PART), average)
        elif isinstance(module, SpatialUp):
            _pass_on(_scaled(module.conv, _RANDOM_PART), tent)
        elif isinstance(module, TemporalDown | TemporalUp):
            _pass_on(_scaled(module.conv, _RANDOM_PART), center)
    return tokenizer


def _scaled(module: nn.Module, share: float) -> Tensor:
    """A convolution's kernel, so much left of it, and nothing of its bias."""
    conv = convolution(module)
    conv.bias.zero_()
    return conv.weight.mul_(share)


def _pass_on(weight: Tensor, kernel: Tensor) -> None:
    """Adds a kernel from each channel to itself."""
    channels = torch.arange(len(weight))
    weight[channels, channels] += kernel.to(weight)


def fit(part: LinearPart, clips: Iterator[Tensor], steps: int) -> float:
    """Fits the linear part to clips (B, 3, T, H, W) by their mean squared error; gives that of the last iterations."""
    part.requires_grad_(True)
    kernels = [parameter for parameter in part.parameters() if parameter.ndim >= 2]
    vectors = [parameter for parameter in part.parameters() if parameter.ndim < 2]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.Adam(vectors, lr=_RATE), Muon(kernels, lr=_RATE)]
    losses = []
    for step in range(steps):
        clips_BCTHW = next(clips)
        loss = F.mse_loss(part(clips_BCTHW), clips_BCTHW)
        part.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        factor = min(1, (step + 1) / _WARMUP) * (0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps)))
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = _RATE * factor
            optimizer.step()
        losses.append(loss.item())
    part.requires_grad_(False)
    return float(np.mean(losses[-50:]))


@torch.no_grad()
def complete(part: LinearPart, clips_BCTHW: Tensor) -> VideoTokenizer:
    """Sets the rest of the model so that all of it does what its linear part does.

    Args:
        part: Fitted; changed in place.
        clips_BCTHW: What the features' energy is taken from.
    """
    tokenizer = part.tokenizer
    encoder: Any = tokenizer.encoder
    decoder: Any = tokenizer.decoder
    latents_BTHWC = part.latents(clips_BCTHW)
    _double(
        [encoder.down[-1].block[0].nin_shortcut],
        encoder.conv_out,
        part.encoder_features,
        part.encoder_output(clips_BCTHW),
    )
    _double(
        [decoder.up[1].upsample, decoder.up_temporal[1].upsample],
        decoder.conv_out,
        part.decoder_features,
        part.decoder_output(latents_BTHWC),
    )
    for module in tokenizer.modules():
        if isinstance(module, ResidualBlock):
            _scaled(module.conv2, 0)
        elif isinstance(module, FrameAttention):
            _scaled(module.proj_out, 0)
    if not tokenizer.config.is_discrete:
        logvar = convolution(encoder.conv_out)
        logvar.weight[tokenizer.config.latent_channels :] = 0
        logvar.bias[tokenizer.config.latent_channels :] = _LOGVAR
    return tokenizer


def _double(makers: list[nn.Module], reader: nn.Module, features: int, x_BTHWC: Tensor) -> None:
    """Features with both signs, and a constant with both, through the convolutions that make them and the reader."""
    energy = x_BTHWC.square().sum(dim=-1).flatten()
    constant = (_CONSTANT * torch.quantile(energy[:: max(1, len(energy) // 10**6)], 0.99)).sqrt()
    positive, negative = slice(features), slice(features, 2 * features)
    for place, maker in enumerate(makers):
        conv = convolution(maker)
        if place:  # what it reads is doubled already
            conv.weight[positive, positive] /= 2
            conv.weight[positive, negative] = -conv.weight[positive, positive]
            conv.weight[:, 2 * features :] = 0
        conv.weight[negative] = -conv.weight[positive]
        conv.bias[negative] = -conv.bias[positive]
        conv.weight[2 * features :] = 0
        conv.bias[2 * features :] = torch.stack([constant, -constant])
    conv = convolution(reader)
    deviation = ((2 * constant.square() + 2 * energy.mean()) / conv.weight.shape[1]).sqrt()
    conv.weight[:, positive] *= deviation
    conv.weight[:, negative] = -conv.weight[:, positive]
    conv.weight[:, 2 * features :] = 0


def drawn(folder: Path, seed: int) -> Iterator[Tensor]:
    """Batches of pieces of a folder's videos, mostly of real ones, (B, 3, T, H, W) in [-1, 1], without end."""
    draw = np.random.default_rng(seed)
    videos = [(path.name.startswith(TEXTURE), _frames(path)) for path in sorted(folder.glob("*.mp4"))]
    kinds = [[video for is_generated, video in videos if is_generated == kind] for kind in (False, True)]
    while True:
        pieces = []
        for _ in range(_BATCH):
            kind = kinds[draw.random() >= _REAL_SHARE]
            video = kind[draw.integers(len(kind))]
            space = np.subtract(video.shape[:3], (_FRAMES, _SIZE, _SIZE))
            t, y, x = (draw.integers(most, endpoint=True) for most in space)
            piece = video[t : t + _FRAMES, y : y + _SIZE, x : x + _SIZE]
            pieces.append(piece[:, :, ::-1] if draw.integers(2) else piece)
        yield frames_to_clips(torch.from_numpy(np.stack(pieces)))


def _frames(path: Path) -> Frames:
    data, options = path.read_bytes(), DecodeOptions(size=128, crop="keep", factor=2)
    return np.stack([frame.pixels_HWC for frame in decode_frames(io.BytesIO(data), len(data), options)])


def main() -> None:
    """Writes a model."""
    parser = argparse.ArgumentParser(description="The start of a small carried model.")
    parser.add_argument("name", choices=list(CARRIED))
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1200, help="An FSQ model takes as many again with rounding.")
    arguments = parser.parse_args()
    part = LinearPart(make_pyramid(random_tokenizer(arguments.name, seed=1), seed=0))
    clips = drawn(arguments.folder, seed=1)
    error = fit(part, clips, arguments.steps)
    if part.tokenizer.config.is_discrete:
        align(part, torch.cat([next(clips) for _ in range(16)]))
        error = fit(part, clips, arguments.steps)
    save_tokenizer(complete(part, torch.cat([next(clips) for _ in range(16)])), arguments.out)
    print(f"{arguments.out}: {10 * np.log10(4 / error):.2f} dB on the last pieces that it was fitted to")


if __name__ == "__main__":
    main()
