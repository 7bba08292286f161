"""What turns the encoder's output into latents: finite scalar quantization (FSQ), or a Gaussian's parameters (KL).

Shape suffixes: B batch, T frames, H height, W width, C channels (z of them, 2z for a KL model's encoder output).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from vidtok_model.config import TokenizerConfig

_LOGVAR_RANGE = (-30.0, 20.0)
_BOUND_SLACK = 1e-3  # the outermost levels are reached at a finite input, not only in the limit
INVALID_TOKEN = -1
"""The token of a position where the encoder gave NaN or infinity; no codebook has it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """What `VideoTokenizer.encode` gives of a batch of clips; its floats are float32 whatever the model computes in."""

    latents: Tensor
    """(B, z, T', H', W'), what the decoder takes: the codes, multiples of 1/(L // 2) in [-1, 1] (FSQ); the mean, or a
    sample of the distribution where one was asked for (KL)."""

    tokens: Tensor | None
    """(B, T', H', W') int64 in [0, codebook_size), or -1 where the encoder gave NaN or infinity. None for a KL model.
    """

    mean: Tensor | None
    """(B, z, T', H', W'), the distribution's mean. None for an FSQ model."""

    logvar: Tensor | None
    """(B, z, T', H', W'), the logarithm of its variance, in [-30, 20]. None for an FSQ model."""

    @classmethod
    def join(cls, pieces: Sequence[Self]) -> Self:
        """What a stream gave piece by piece, joined in time."""
        return cls._joined(pieces, {"latents": 2, "tokens": 1, "mean": 2, "logvar": 2})

    @classmethod
    def side_by_side(cls, batches: Sequence[Self]) -> Self:
        """Several batches as one."""
        return cls._joined(batches, {"latents": 0, "tokens": 0, "mean": 0, "logvar": 0})

    @classmethod
    def _joined(cls, pieces: Sequence[Self], axes: Mapping[str, int]) -> Self:
        given: dict[str, list[Any]] = {name: [getattr(piece, name) for piece in pieces] for name in axes}
        joined: dict[str, Any] = {
            name: None if values[0] is None else torch.cat(values, axes[name]) for name, values in given.items()
        }
        return cls(**joined)


class FiniteScalarQuantizer(nn.Module):
    """FSQ (arXiv 2309.15505): each channel is bounded and rounded to one of its levels.

    It has no weights, and computes in float32 whatever it is given and whatever autocast says: near a boundary, a
    rounding error of bfloat16 would be another token.

    Args:
        levels: L of each channel, at least 2.
    """

    levels: Tensor
    basis: Tensor

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__()
        basis = [math.prod(levels[:channel]) for channel in range(len(levels))]
        # Integers only: `.to(bfloat16)` would round a buffer of floats. On a named device, so that they are real
        # numbers even where a model is built on the meta device. Not persistent: the published weights lack them.
        for name, values in (("levels", levels), ("basis", basis)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.int64, device="cpu"), persistent=False)

    def forward(self, z_BTHWC: Tensor) -> Encoded:
        """Quantizes, with a straight-through gradient: that of the bounded value.

        Args:
            z_BTHWC: The encoder's output, any float dtype.
        """
        with torch.autocast(z_BTHWC.device.type, enabled=False):
            z = z_BTHWC.float()
            bounded = self.bounded(z)
            half_width = self.levels // 2
            steps = bounded.round()
            # Not bounded + (steps - bounded): that may miss the exact code by a rounding error.
            codes_BTHWC = (steps.detach() + (bounded - bounded.detach())) / half_width
            tokens_BTHW = ((steps.detach().long() + half_width) * self.basis).sum(dim=-1)
            tokens_BTHW = tokens_BTHW.where(z.isfinite().all(dim=-1), INVALID_TOKEN)
        return Encoded(latents=_channels_second(codes_BTHWC), tokens=tokens_BTHW, mean=None, logvar=None)

    def bounded(self, z_BTHWC: Tensor) -> Tensor:
        """What is rounded to a level of each channel, in steps between levels; z is float32."""
        half_range = (self.levels - 1) * (1 + _BOUND_SLACK) / 2
        offset = 0.5 * (1 - self.levels % 2)  # an even number of levels has none in the middle
        return torch.tanh(z_BTHWC + torch.atanh(offset / half_range)) * half_range - offset

    def codes(self, tokens_BTHW: Tensor) -> Tensor:
        """The latents (B, z, T, H, W), float32, of int64 tokens in [0, codebook_size), which the caller has checked."""
        half_width = self.levels // 2
        digits_BTHWC = tokens_BTHW.unsqueeze(-1) // self.basis % self.levels
        return _channels_second((digits_BTHWC - half_width).float() / half_width)


class DiagonalGaussian(nn.Module):
    """The KL regularizer: the encoder's output is a mean and a log-variance for each channel (arXiv 1312.6114)."""

    def forward(self, z_BTHWC: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Encoded:
        """Gives the distribution, with its mean or a sample as the latents.

        Args:
            z_BTHWC: The encoder's output, 2z channels, any float dtype.
            sample: Whether the latents are a sample rather than the mean.
            generator: Where the noise comes from. It may be on another device than z.
        """
        mean, logvar = (_channels_second(half) for half in z_BTHWC.float().chunk(2, dim=-1))
        logvar = logvar.clamp(*_LOGVAR_RANGE)
        latents = mean
        if sample:
            device = mean.device if generator is None else generator.device
            noise = torch.randn(mean.shape, generator=generator, device=device, dtype=mean.dtype).to(mean.device)
            latents = mean + torch.exp(0.5 * logvar) * noise
        return Encoded(latents=latents, tokens=None, mean=mean, logvar=logvar)


def make_regularizer(config: TokenizerConfig) -> FiniteScalarQuantizer | DiagonalGaussian:
    """The regularizer of a model. It has no weights."""
    return FiniteScalarQuantizer(config.fsq_levels) if config.is_discrete else DiagonalGaussian()


def regularize(
    regularizer: nn.Module, z_BTHWC: Tensor, *, sample: bool = False, generator: torch.Generator | None = None
) -> Encoded:
    """The encoder's output through whichever regularizer the model has; `sample` is asked of KL models only."""
    if isinstance(regularizer, DiagonalGaussian):
        encoded: Encoded = regularizer(z_BTHWC, sample=sample, generator=generator)
    else:
        encoded = regularizer(z_BTHWC)
    return encoded


def _channels_second(x_BTHWC: Tensor) -> Tensor:
    """(B, C, T, H, W), contiguous: latents are small, and leave the model in the usual order."""
    return x_BTHWC.permute(0, 4, 1, 2, 3).contiguous()
