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

from jobs.tiny_set import TEXTURE
from pipeline.decoding.frames import decode_frames
from pipeline.decoding.options import DecodeOptions
from pipeline.encode import frames_to_clips
from pipeline.records import Frames
from vidtok_model import CARRIED, VideoTokenizer, random_tokenizer, save_tokenizer
from vidtok_model.layers import Conv, FrameAttention, ResidualBlock, convolve
from vidtok_model.resampling import SpatialDown, SpatialUp, TemporalDown, TemporalUp
from vidtok_model.training.optimizers import Muon

_BATCH, _FRAMES, _SIZE = 4, 9, 64
_REAL_SHARE = 0.8
_RATE, _WARMUP = 1.5e-3, 50
# How far a latent of standard deviation 1 is drawn out over its levels, of which the best is taken.
_FSQ_GAINS = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)
_RANDOM_PART = 0.3
_LOGVAR = -8.0
# Of a constant pair's square to the energy of the features beside it, by which a LayerNorm is nearly a division.
_CONSTANT = 8.0


class LinearPart(nn.Module):
    """A model of `CARRIED` without blocks, norms and swishes. Its latents go to the decoder as they are until `align`.

    The last features of either half are few: the whole model holds each with both signs, since swish(x) - swish(-x) is
    x, and a constant with both, which the LayerNorm divides by.
    """

    def __init__(self, tokenizer: VideoTokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.is_rounding = False
        encoder, decoder = tokenizer.encoder, tokenizer.decoder
        self.encoder_features = convolution(encoder.conv_out).weight.shape[1] // 2 - 1
        self.decoder_features = convolution(decoder.conv_out).weight.shape[1] // 2 - 1

    def forward(self, clips_BCTHW: Tensor) -> Tensor:
        """Gives the clips as they come back, (B, 3, T, H, W)."""
        frames_BTHWC = self.decode(self.latents(clips_BCTHW))
        return frames_BTHWC.movedim(-1, 1)[:, :, -clips_BCTHW.shape[2] :]

    def latents(self, clips_BCTHW: Tensor) -> Tensor:
        """What the decoder takes, (B, T', H', W', z)."""
        z_BTHWC = convolve(self.tokenizer.encoder.conv_out, self.encoder_output(clips_BCTHW), None)
        return self.rounded(z_BTHWC) if self.is_rounding else z_BTHWC[..., : self.tokenizer.config.latent_channels]

    def rounded(self, z_BTHWC: Tensor) -> Tensor:
        """FSQ's codes."""
        latents_BCTHW: Tensor = self.tokenizer.regularizer(z_BTHWC).latents
        return latents_BCTHW.movedim(1, -1).contiguous()

    def decode(self, latents_BTHWC: Tensor) -> Tensor:
        """All frames, those before the first one too."""
        return convolve(self.tokenizer.decoder.conv_out, self.decoder_output(latents_BTHWC), None)

    def encoder_output(self, clips_BCTHW: Tensor) -> Tensor:
        """The features before the encoder's last convolution; all but the first few are 0."""
        encoder: Any = self.tokenizer.encoder
        x_BTHWC = convolve(encoder.conv_in, self.tokenizer.encoder_input(clips_BCTHW), None)
        for space, time in zip(encoder.down, encoder.down_temporal, strict=True):
            x_BTHWC = _resampled(_widened(x_BTHWC, space), space.downsample, time.downsample)
        return _first(x_BTHWC, self.encoder_features)

    def decoder_output(self, latents_BTHWC: Tensor) -> Tensor:
        """The features before the decoder's last convolution; all but the first few are 0."""
        decoder: Any = self.tokenizer.decoder
        x_BTHWC = convolve(decoder.conv_in, latents_BTHWC, None)
        for level in reversed(range(len(decoder.up))):
            space, time = decoder.up[level], decoder.up_temporal[level]
            x_BTHWC = _resampled(_widened(x_BTHWC, space), space.upsample)
            x_BTHWC = _first(x_BTHWC, self.decoder_features) if level == 1 else x_BTHWC
            x_BTHWC = _resampled(x_BTHWC, time.upsample)
        return _first(x_BTHWC, self.decoder_features)


def convolution(module: nn.Module) -> Conv:
    """The one inside."""
    (found,) = (inner for inner in module.modules() if isinstance(inner, Conv))
    return found


def _widened(x_BTHWC: Tensor, level: nn.Module) -> Tensor:
    for block in level.get_submodule("block").children():
        x_BTHWC = block.get_submodule("nin_shortcut")(x_BTHWC)
    return x_BTHWC


def _resampled(x_BTHWC: Tensor, *resamples: nn.Module | None) -> Tensor:
    for resample in resamples:
        x_BTHWC = x_BTHWC if resample is None else resample(x_BTHWC)
    return x_BTHWC


def _first(x_BTHWC: Tensor, channels: int) -> Tensor:
    return F.pad(x_BTHWC[..., :channels], (0, x_BTHWC.shape[-1] - channels))


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
def align(part: LinearPart, clips_BCTHW: Tensor) -> None:
    """Turns the latents of an FSQ model to their principal axes, and begins to round them.

    Rounding costs each channel the same share of its variance, and nearly all of a picture's variance is brightness.
    So the channels with the most levels, the first ones, get the axes with the most of the output's energy.

    Args:
        part: Fitted without rounding; changed in place.
        clips_BCTHW: What the axes are taken from.
    """
    encoder_end, decoder_start = (
        convolution(half) for half in (part.tokenizer.encoder.conv_out, part.tokenizer.decoder.conv_in)
    )
    z_NC = part.latents(clips_BCTHW).flatten(0, -2).double()
    mean_C = z_NC.mean(dim=0)
    root = _square_root(_output_energy(part))
    energies, axes = torch.linalg.eigh(root @ torch.cov(z_NC.T) @ root)
    # Latents are mean_C + basis @ unit, where unit has variance 1 in each channel and no correlation.
    basis = (torch.linalg.inv(root) @ axes * energies.sqrt()).flip(1)
    unit_NC = (z_NC - mean_C) @ torch.linalg.inv(basis).T
    gains_C, slopes_C, offsets_C = _spread(part, unit_NC)
    to_unit = gains_C[:, None] * torch.linalg.inv(basis)
    from_codes = basis * slopes_C
    encoder_end.bias.copy_(to_unit @ (encoder_end.bias.double() - mean_C))
    encoder_end.weight.copy_(torch.einsum("ij,j...->i...", to_unit, encoder_end.weight.double()))
    constant_C = mean_C + basis @ offsets_C
    decoder_start.bias.add_(decoder_start.weight.flatten(2).sum(dim=2) @ constant_C.float())
    decoder_start.weight.copy_(torch.einsum("oi...,ij->oj...", decoder_start.weight.double(), from_codes))
    part.is_rounding = True


def _square_root(matrix: Tensor) -> Tensor:
    """Of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(values.max() * 1e-9).sqrt()) @ vectors.T
    return root


def _output_energy(part: LinearPart) -> Tensor:
    """The scalar products of what one latent's channels, each at 1, add to the output, (z, z)."""
    channels = part.tokenizer.config.latent_channels
    latents_BTHWC = torch.zeros(channels + 1, 5, 5, 5, channels)
    latents_BTHWC[range(channels), 2, 2, 2, range(channels)] = 1
    frames = part.decode(latents_BTHWC).double()
    added = (frames[:-1] - frames[-1]).flatten(1)
    return added @ added.T


def _spread(part: LinearPart, unit_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gain of each channel whose codes, times a slope and plus an offset, come nearest to it; the last two too."""
    best: list[tuple[float, float, float, float]] = [(float("inf"), 0, 0, 0)] * unit_NC.shape[1]
    for gain in _FSQ_GAINS:
        codes_NC = part.rounded((gain * unit_NC).float()[None, None, None])[0, 0, 0].double()
        for channel, (code, unit) in enumerate(zip(codes_NC.T, unit_NC.T, strict=True)):
            slope = float(torch.cov(torch.stack([code, unit]))[0, 1] / code.var())
            offset = float(unit.mean() - slope * code.mean())
            error = float((slope * code + offset - unit).square().mean())
            best[channel] = min(best[channel], (error, gain, slope, offset))
    _, gains, slopes, offsets = torch.tensor(best, dtype=torch.float64).T
    return gains, slopes, offsets


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
        yield frames_to_clips(torch.from_numpy(np.stack(pieces)), torch.float32)


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
