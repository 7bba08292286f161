"""Halving and doubling of frames and of frame sizes.

Shape suffixes as in layers.py: activations are contiguous (B, T, H, W, C).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok_model.config import TimePadding
from vidtok_model.layers import Conv, TimePad, convolve, time_conv
from vidtok_model.memory import Memory
from vidtok_model.tiles import tiles

_INITIAL_MIX = 2.0  # sigmoid(2) = 0.88: resampling in time starts as mostly the average or the repeated frames


class SpatialDown(nn.Module):
    """Halves height and width."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, (3, 3), stride=2, pad_space=False)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Gives (B, T, H/2, W/2, C)."""
        return by_frames(self._halved, x_BTHWC, 0.5)

    def _halved(self, x_BTHWC: Tensor) -> Tensor:
        # One zero column on the right, one zero row below: not what a convolution's own padding can do.
        y_BTHWC: Tensor = self.conv(F.pad(x_BTHWC, (0, 0, 0, 1, 0, 1)))
        return y_BTHWC


class SpatialUp(nn.Module):
    """Doubles height and width: every pixel four times, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = Conv(channels, channels, (3, 3))

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Gives (B, T, 2H, 2W, C)."""
        return by_frames(self._doubled, x_BTHWC, 2)

    def _doubled(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, C = x_BTHWC.shape
        x_BTHhWwC = x_BTHWC.view(B, T, H, 1, W, 1, C).expand(B, T, H, 2, W, 2, C)
        y_BTHWC: Tensor = self.conv(x_BTHhWwC.reshape(B, T, 2 * H, 2 * W, C))
        return y_BTHWC


def by_frames(change: Callable[[Tensor], Tensor], x_BTHWC: Tensor, scale: float) -> Tensor:
    """What `change` makes of each frame alone, whose sides it multiplies by `scale`; without gradients by tiles."""
    if torch.is_grad_enabled():
        return change(x_BTHWC)
    B, T, H, W, C = x_BTHWC.shape
    y_BTHWC = x_BTHWC.new_empty(B, T, int(H * scale), int(W * scale), C)
    for x, y in tiles("frames", x_BTHWC, y_BTHWC):
        y.copy_(change(x))
    return y_BTHWC


class TemporalDown(nn.Module):
    """Halves the frames: a learned mix of an average over three frames and a convolution."""

    def __init__(self, channels: int, padding: TimePadding) -> None:
        super().__init__()
        self.pad = TimePad(1, padding)
        self.conv = time_conv(channels, channels, (3, 3, 3), padding, stride=2, padded=False)
        self.mix_factor = nn.Parameter(torch.tensor([_INITIAL_MIX]))

    def forward(self, x_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives (B, T/2, H, W, C)."""
        # Both see the padding: a zero frame counts in the average, whose divisor is always 3.
        x_BTHWC = self.pad(x_BTHWC, memory)
        average_BTHWC = ((x_BTHWC[:, :-1:2] + x_BTHWC[:, 1::2]) + x_BTHWC[:, 2::2]) / 3
        return mix(average_BTHWC, self.conv(x_BTHWC), self.mix_factor)


class TemporalUp(nn.Module):
    """Doubles the frames: a learned mix of the widened clip and a convolution of it.

    Args:
        channels: C.
        padding: The model's rule; version 1.1's interpolates, the others repeat each frame.
        first_frames: Frames of the layer's input that come from the first latent frame. They are interpolated by
            themselves, because in a stream they are a chunk by themselves.
    """

    def __init__(self, channels: int, padding: TimePadding, first_frames: int) -> None:
        super().__init__()
        self.interpolates = padding == "first_frame_in_front"
        self.first_frames = first_frames
        self.conv = time_conv(channels, channels, (3, 3, 3), padding)
        self.mix_factor = nn.Parameter(torch.tensor([_INITIAL_MIX]))

    def forward(self, x_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives (B, 2T, H, W, C)."""
        y_BTHWC = self._widened(x_BTHWC, memory) if self.interpolates else repeat_frames(x_BTHWC)
        if memory is not None:
            memory.ahead *= 2
        return mix(y_BTHWC, convolve(self.conv, y_BTHWC, memory), self.mix_factor)

    def _widened(self, x_BTHWC: Tensor, memory: Memory | None) -> Tensor:
        before_BTHWC = memory.kept.get(self) if memory is not None else None
        if memory is not None and before_BTHWC is not None:
            memory.keep(self, x_BTHWC, 1)
            return interpolate_frames(torch.cat([before_BTHWC, x_BTHWC], dim=1))[:, 2:].contiguous()
        if memory is not None:
            # The published code keeps n frames, of which only the last has an effect, and after the first chunk (here
            # alone) it keeps of the look-ahead: the published results depend on it.
            memory.kept[self] = x_BTHWC[:, -1:].clone()
        n = self.first_frames
        if x_BTHWC.shape[1] <= n:
            return interpolate_frames(x_BTHWC)
        return torch.cat([interpolate_frames(x_BTHWC[:, :n]), interpolate_frames(x_BTHWC[:, n:])], dim=1)


def mix(plain: Tensor, learned: Tensor, mix_factor: Tensor) -> Tensor:
    """The mix a * plain + (1 - a) * learned, with a = sigmoid(mix_factor)."""
    # Autocast leaves lerp alone and may have given the two different types.
    return torch.lerp(learned.to(plain.dtype), plain, mix_factor.sigmoid().to(plain.dtype))


def repeat_frames(x_BTHWC: Tensor) -> Tensor:
    """Every frame twice."""
    B, T, H, W, C = x_BTHWC.shape
    return x_BTHWC.unsqueeze(2).expand(B, T, 2, H, W, C).reshape(B, 2 * T, H, W, C)


def interpolate_frames(x_BTHWC: Tensor) -> Tensor:
    """Twice the frames by linear interpolation between frame centres, the ends held."""
    B, T, H, W, C = x_BTHWC.shape
    earlier = torch.cat([x_BTHWC[:, :1], x_BTHWC[:, :-1]], dim=1)
    later = torch.cat([x_BTHWC[:, 1:], x_BTHWC[:, -1:]], dim=1)
    # A new frame lies a quarter of a frame before, or after, the centre of the old one that it stands for.
    pair = torch.stack([torch.lerp(x_BTHWC, earlier, 0.25), torch.lerp(x_BTHWC, later, 0.25)], dim=2)
    return pair.view(B, 2 * T, H, W, C)
