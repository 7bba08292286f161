"""The building blocks, all on one layout of activations.

Shape suffixes: B batch, T frames, H height, W width, C channels (I in, O out); N is B*T, P is H*W. A name as `x_BTHWC`
says the order in memory too: activations are contiguous (B, T, H, W, C) from the first layer to the last. The same
bytes are (B*T, C, H, W) in channels-last for a 2D convolution, (B, C, T, H*W) in channels-last for one along time, and
(B, C, T, H, W) in channels-last-3d for a 3D one, so each operation gets the form it is fast in as a view. LayerNorm
finds its channels on the last axis, where it wants them.

Views are made by `view`, which raises rather than copy. Convolutions give back channels-last what they were given
channels-last; a backend that doesn't (PyTorch's own kernel for the tiniest 3D inputs, say) costs a copy in `_to_layout`
and changes nothing else.
"""

from __future__ import annotations

import math
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok_model.config import TimePadding
from vidtok_model.memory import Memory
from vidtok_model.packing import PackedConvolution

_NORM_EPSILON = 1e-6


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each position; its weights are named `norm.weight` and `norm.bias`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=_NORM_EPSILON)

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Gives x normalised, in the same shape, in the weights' dtype."""
        norm = self.norm
        x_BTHWC = x_BTHWC.to(norm.weight.dtype)
        return F.layer_norm(x_BTHWC, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


class Conv(nn.Module):
    """A convolution over (H, W), T or (T, H, W), by the number of its kernel's axes.

    Height and width are padded with zeros so that they stay (`pad_space`), time likewise with `pad_time`; a caller that
    wants another padding pads the input itself.

    Args:
        in_channels: I.
        out_channels: O.
        kernel: Its extent: (H, W), (T,) or (T, H, W).
        stride: Along time for (T, H, W) kernels, along height and width for (H, W) ones.
        pad_space: Whether to pad height and width by half the kernel.
        pad_time: Whether to pad time by half the kernel at both ends.
        zero: Whether to start with all weights zero, rather than with PyTorch's default.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: tuple[int, ...],
        *,
        stride: int = 1,
        pad_space: bool = True,
        pad_time: bool = False,
        zero: bool = False,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.time_padding = kernel[0] // 2 if pad_time else 0
        self.space_padding = kernel[-1] // 2 if pad_space else 0
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, *kernel))
        self.bias = nn.Parameter(torch.empty(out_channels))
        self._convolve = PackedConvolution()
        self._initialize(zero)

    def _initialize(self, zero: bool) -> None:
        if zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)
            return
        # What torch.nn's convolutions do: uniform with bound 1/sqrt(fan in), for weight and bias.
        bound = 1 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def _apply(self, *given: Any, **more: Any) -> Self:
        self._convolve = PackedConvolution()  # weights that were another dtype for a while are others
        super()._apply(*given, **more)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x_BTHWC: Tensor) -> Tensor:
        """Gives (B, T', H', W', O), in the weights' dtype (under autocast, in what that says)."""
        if not torch.is_autocast_enabled(x_BTHWC.device.type):
            x_BTHWC = x_BTHWC.to(self.weight.dtype)
        kernel_axes = self.weight.ndim - 2
        if math.prod(self.weight.shape[2:]) == 1:
            # A kernel of one position is a matrix product on the last axis.
            return F.linear(x_BTHWC, self.weight.flatten(1), self.bias)
        if kernel_axes == 1:
            return self._along_time(x_BTHWC)
        return self._along_space(x_BTHWC) if kernel_axes == 2 else self._along_both(x_BTHWC)

    def _along_space(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, C = x_BTHWC.shape
        x_NCHW = x_BTHWC.view(B * T, H, W, C).permute(0, 3, 1, 2)
        y_NCHW = self._convolve(x_NCHW, self.weight, self.bias, (self.stride,) * 2, (self.space_padding,) * 2)
        y_NHWC = _to_layout(y_NCHW, (0, 2, 3, 1))
        return y_NHWC.view(B, T, *y_NHWC.shape[1:])

    def _along_time(self, x_BTHWC: Tensor) -> Tensor:
        B, T, H, W, C = x_BTHWC.shape
        x_BCTP = x_BTHWC.view(B, T, H * W, C).permute(0, 3, 1, 2)
        y_BCTP = self._convolve(x_BCTP, self.weight, self.bias, (1, 1), (self.time_padding, 0))
        y_BTPC = _to_layout(y_BCTP, (0, 2, 3, 1))
        return y_BTPC.view(B, y_BTPC.shape[1], H, W, -1)

    def _along_both(self, x_BTHWC: Tensor) -> Tensor:
        x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
        padding = (self.time_padding, self.space_padding, self.space_padding)
        y_BCTHW = self._convolve(x_BCTHW, self.weight, self.bias, (self.stride, 1, 1), padding)
        return _to_layout(y_BCTHW, (0, 2, 3, 4, 1))


def _to_layout(y: Tensor, order: tuple[int, ...]) -> Tensor:
    """The channels of `y` moved last; a view, unless the backend gave some other layout than channels-last."""
    return y.permute(order).contiguous()


class TimePad(nn.Module):
    """The padding in time that a layer can't leave to its convolution: the one place where layers add frames.

    It holds no weights. In a stream, the frames last seen stand in front of every chunk but the first.

    Args:
        frames: How many.
        padding: Where, and what.
    """

    def __init__(self, frames: int, padding: TimePadding) -> None:
        super().__init__()
        self.frames = frames
        self.padding = padding

    def forward(self, x_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives x with `frames` more frames: in front if causal, else behind."""
        before_BTHWC = memory.kept.get(self) if memory is not None else None
        y_BTHWC = self._padded(x_BTHWC) if before_BTHWC is None else torch.cat([before_BTHWC, x_BTHWC], dim=1)
        if memory is not None:
            memory.keep(self, y_BTHWC, self.frames)
        return y_BTHWC

    def _padded(self, x_BTHWC: Tensor) -> Tensor:
        first_BTHWC = x_BTHWC[:, :1]
        if self.padding == "first_frame_in_front":
            return torch.cat([first_BTHWC.expand(-1, self.frames, -1, -1, -1), x_BTHWC], dim=1)
        zeros_BTHWC = first_BTHWC.new_zeros(1).expand(x_BTHWC.shape[0], self.frames, *x_BTHWC.shape[2:])
        pieces = [zeros_BTHWC, x_BTHWC] if self.padding == "zeros_in_front" else [x_BTHWC, zeros_BTHWC]
        return torch.cat(pieces, dim=1)


class CausalConv(nn.Module):
    """A convolution whose output at frame t sees frame t and earlier ones.

    Args:
        pad: What goes in front; None where the caller has seen to that, or the kernel is one frame long.
        conv: The convolution; its weights are named `conv.weight` and `conv.bias`.
    """

    def __init__(self, pad: TimePad | None, conv: Conv) -> None:
        super().__init__()
        self.pad = pad
        self.conv = conv

    def forward(self, x_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives (B, T', H', W', O)."""
        y_BTHWC: Tensor = self.conv(x_BTHWC if self.pad is None else self.pad(x_BTHWC, memory))
        return y_BTHWC


def convolve(conv: nn.Module, x_BTHWC: Tensor, memory: Memory | None) -> Tensor:
    """A convolution's output, whether it is one that looks back in time, and so has a memory in a stream, or not."""
    y_BTHWC: Tensor = conv(x_BTHWC, memory) if isinstance(conv, CausalConv) else conv(x_BTHWC)
    return y_BTHWC


def time_conv(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, ...],
    padding: TimePadding,
    *,
    stride: int = 1,
    padded: bool = True,
    zero: bool = False,
) -> nn.Module:
    """A convolution over T or (T, H, W) that pads time as the model does, under the published names.

    Args:
        in_channels: I.
        out_channels: O.
        kernel: (T,) or (T, H, W).
        padding: The model's rule.
        stride: Along time.
        padded: False where the caller pads time itself.
        zero: Whether to start with all weights zero.
    """
    padded = padded and kernel[0] > 1
    both_sides = padding == "zeros_on_both_sides"
    conv = Conv(in_channels, out_channels, kernel, stride=stride, pad_time=padded and both_sides, zero=zero)
    if both_sides:
        return conv
    return CausalConv(TimePad(kernel[0] - 1, padding) if padded else None, conv)
