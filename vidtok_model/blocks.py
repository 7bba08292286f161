"""Residual blocks, and attention. Shape suffixes as in layers.py.

Without gradients a block writes over its input, tile by tile: of what lies between its input and its sum no more than
a tile exists at a time, which stays in the caches, and a network's memory is little more than its largest activation.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok_model.config import TimePadding
from vidtok_model.layers import ChannelNorm, Conv, convolve, time_conv
from vidtok_model.memory import Memory
from vidtok_model.tiles import Alone, tiles

__all__ = [
    "FrameAttention",
    "ResidualBlock",
    "spatial_block",
    "swish",
    "temporal_block",
    "volume_block",
]


class ResidualBlock(nn.Module):
    """norm, swish, convolution, twice; plus the input.

    Args:
        in_channels: I.
        out_channels: O. Where it differs from I, a 1x1 convolution takes the input to the new width.
        conv1: I -> O.
        conv2: O -> O.
        alone: What both convolutions treat by itself: frames, pixels or nothing.
    """

    def __init__(
        self, in_channels: int, out_channels: int, conv1: nn.Module, conv2: nn.Module, alone: Alone | None = None
    ) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(in_channels)
        self.conv1 = conv1
        self.norm2 = ChannelNorm(out_channels)
        self.conv2 = conv2
        self.nin_shortcut = Conv(in_channels, out_channels, (1, 1)) if in_channels != out_channels else nn.Identity()
        self.alone = alone

    def forward(self, x_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives (B, T, H, W, O); without gradients over x itself, where O is I."""
        if torch.is_grad_enabled():
            return add(self._change(x_BTHWC, memory), self.nin_shortcut(x_BTHWC))
        y_BTHWC: Tensor = x_BTHWC
        if widens := isinstance(self.nin_shortcut, Conv):
            y_BTHWC = x_BTHWC.new_empty((*x_BTHWC.shape[:-1], len(self.nin_shortcut.bias)))
        # What is kept for a stream's next chunk are whole frames.
        for x, y in tiles(self.alone if memory is None else None, x_BTHWC, y_BTHWC):
            change = self._change(x, memory)
            if widens:
                y.copy_(self.nin_shortcut(x))
            y.add_(change)
        return y_BTHWC

    def _change(self, x_BTHWC: Tensor, memory: Memory | None) -> Tensor:
        h_BTHWC = convolve(self.conv1, swish(self.norm1(x_BTHWC)), memory)
        return convolve(self.conv2, swish(self.norm2(h_BTHWC)), memory)


def spatial_block(in_channels: int, out_channels: int) -> ResidualBlock:
    """A residual block on every frame alone."""
    conv1 = Conv(in_channels, out_channels, (3, 3))
    return ResidualBlock(in_channels, out_channels, conv1, Conv(out_channels, out_channels, (3, 3)), "frames")


def temporal_block(channels: int, padding: TimePadding) -> ResidualBlock:
    """A residual block on every pixel alone, along time. It starts as the identity."""
    conv1, conv2 = (time_conv(channels, channels, (3,), padding, zero=zero) for zero in (False, True))
    return ResidualBlock(channels, channels, conv1, conv2, "pixels")


def volume_block(channels: int, padding: TimePadding) -> ResidualBlock:
    """A residual block over time, height and width."""
    conv1, conv2 = (time_conv(channels, channels, (3, 3, 3), padding) for _ in range(2))
    return ResidualBlock(channels, channels, conv1, conv2)


class FrameAttention(nn.Module):
    """Single-head softmax attention among the positions of each frame; plus the input."""

    def __init__(self, channels: int, padding: TimePadding) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.q, self.k, self.v, self.proj_out = (
            time_conv(channels, channels, (1, 1, 1), padding, padded=False) for _ in range(4)
        )

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Gives the shape of x; without gradients over x itself."""
        B, T, H, W, C = x_BTHWC.shape
        h_BTHWC: Tensor = self.norm(x_BTHWC)
        # One head, whose scale C**-0.5 is what scaled_dot_product_attention takes by itself.
        q, k, v = (project(h_BTHWC).view(B * T, 1, H * W, C) for project in (self.q, self.k, self.v))
        change_BTHWC = self.proj_out(F.scaled_dot_product_attention(q, k, v).reshape(B, T, H, W, C))
        return add(change_BTHWC, x_BTHWC) if torch.is_grad_enabled() else x_BTHWC.add_(change_BTHWC)


def swish(x: Tensor) -> Tensor:
    """The swish x * sigmoid(x), over x itself: that is always a norm's fresh output, which nothing else holds."""
    # A second buffer would cost more than the sum: the memory of a large one is new to the process each time.
    return F.silu(x, inplace=True)


def add(fresh: Tensor, x: Tensor) -> Tensor:
    """The sum fresh + x, over `fresh` where the types allow: a convolution's output, which nothing else holds."""
    # Under autocast the two may differ; then the sum has the wider type.
    return fresh.add_(x) if fresh.dtype == x.dtype else fresh + x
