"""Where weights begin."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidtok_model.layers import Conv, FrameAttention, ResidualBlock
from vidtok_model.resampling import SpatialDown, SpatialUp, TemporalDown, TemporalUp
from vidtok_model.tokenizer import VideoTokenizer

__all__ = ["make_pyramid"]

_RANDOM_PART = 0.3
# So that an FSQ model's first latents spread over its levels, and rounding leaves colours in them.
_LATENT_GAIN = 5.0


@torch.no_grad()
def make_pyramid(tokenizer: VideoTokenizer, *, seed: int) -> VideoTokenizer:
    """Turns random weights into a pyramid of averages: blocks change nothing yet, halving averages, doubling repeats.

    Brightness and colours find their way through such a network from the first iteration on. A small model that begins
    with PyTorch's own random weights, as the published ones did, learns them last.

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
            _kernel(module.conv2, 0)
            if isinstance(module.nin_shortcut, Conv):
                nn.init.orthogonal_(_kernel(module.nin_shortcut, 1), generator=generator)
        elif isinstance(module, FrameAttention):
            _kernel(module.proj_out, 0)
        elif isinstance(module, SpatialDown):
            _pass_on(_kernel(module.conv, _RANDOM_PART), average)
        elif isinstance(module, SpatialUp):
            _pass_on(_kernel(module.conv, _RANDOM_PART), tent)
        elif isinstance(module, TemporalDown | TemporalUp):
            _pass_on(_kernel(module.conv, _RANDOM_PART), center)
    _kernel(tokenizer.encoder.conv_out, _LATENT_GAIN if tokenizer.config.is_discrete else 1)
    return tokenizer


def _kernel(conv: nn.Module, random_part: float) -> Tensor:
    """A convolution's kernel, so much left of it, and nothing of its bias."""
    (inner,) = (module for module in conv.modules() if isinstance(module, Conv))
    inner.bias.zero_()
    return inner.weight.mul_(random_part)


def _pass_on(weight: Tensor, kernel: Tensor) -> None:
    """Adds a kernel from each channel to itself."""
    channels = torch.arange(len(weight))
    weight[channels, channels] += kernel.to(weight)
