"""The same networks written plainly, as a baseline: (B, C, T, H, W) in memory, one operation after another.

Each convolution gets the form that it is written for by moving axes, time is padded by joining tensors, and a swish is
a product with a sigmoid: what most code for such models does. It takes a tokenizer's weights, and gives its results.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidtok_model import VideoTokenizer
from vidtok_model.blocks import FrameAttention, ResidualBlock
from vidtok_model.layers import CausalConv, Conv, TimePad
from vidtok_model.resampling import SpatialDown, SpatialUp, TemporalDown, TemporalUp, interpolate_frames

__all__ = ["plain_decode", "plain_encode"]


def plain_encode(tokenizer: VideoTokenizer, clips_BCTHW: Tensor) -> Tensor:
    """The encoder's output, (B, z or 2z, T', H', W')."""
    encoder: Any = tokenizer.encoder
    front = tokenizer.config.front_frames(clips_BCTHW.shape[2])
    x = torch.cat([clips_BCTHW[:, :, :1].expand(-1, -1, front, -1, -1), clips_BCTHW], dim=2)
    x = _conv(encoder.conv_in, x)
    for space, time in zip(encoder.down, encoder.down_temporal, strict=True):
        x = _level(space, time, x)
    x = _middle(encoder.mid, x)
    return _conv(encoder.conv_out, _swish(_norm(encoder.norm_out, x)))


def plain_decode(tokenizer: VideoTokenizer, latents_BCTHW: Tensor) -> Tensor:
    """All frames that the decoder gives, (B, 3, T, H, W)."""
    decoder: Any = tokenizer.decoder
    x = _middle(decoder.mid, _conv(decoder.conv_in, latents_BCTHW))
    for space, time in zip(reversed(decoder.up), reversed(decoder.up_temporal), strict=True):
        x = _level(space, time, x)
    return _conv(decoder.conv_out, _swish(_norm(decoder.norm_out, x)))


def _level(space: Any, time: Any, x: Tensor) -> Tensor:
    for space_block, time_block in zip(space.block, time.block, strict=True):
        x = _block(time_block, _block(space_block, x))
    for resample in (space.downsample, space.upsample, time.downsample, time.upsample):
        x = x if resample is None else _resampled(resample, x)
    return x


def _middle(mid: Any, x: Tensor) -> Tensor:
    return _block(mid.block_2, _attention(mid.attn_1, _block(mid.block_1, x)))


def _block(block: ResidualBlock, x: Tensor) -> Tensor:
    h = _conv(block.conv1, _swish(_norm(block.norm1, x)))
    h = _conv(block.conv2, _swish(_norm(block.norm2, h)))
    return (_conv(block.nin_shortcut, x) if isinstance(block.nin_shortcut, Conv) else x) + h


def _attention(attention: FrameAttention, x: Tensor) -> Tensor:
    B, C, T, H, W = x.shape
    h = _norm(attention.norm, x)
    q, k, v = (
        _conv(project, h).permute(0, 2, 3, 4, 1).reshape(B * T, 1, H * W, C)
        for project in (attention.q, attention.k, attention.v)
    )
    h = F.scaled_dot_product_attention(q, k, v).view(B, T, H, W, C).permute(0, 4, 1, 2, 3)
    return x + _conv(attention.proj_out, h)


def _resampled(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, SpatialDown):
        return _conv(module.conv, F.pad(x, (0, 1, 0, 1)))
    if isinstance(module, SpatialUp):
        return _conv(module.conv, x.repeat_interleave(2, dim=3).repeat_interleave(2, dim=4))
    if isinstance(module, TemporalDown):
        x = _padded(module.pad, x)
        plain = F.avg_pool3d(x, (3, 1, 1), stride=(2, 1, 1))
    else:
        assert isinstance(module, TemporalUp)
        plain = x = _more_frames(module, x)
    share = module.mix_factor.sigmoid()
    return share * plain + (1 - share) * _conv(module.conv, x)


def _more_frames(module: TemporalUp, x: Tensor) -> Tensor:
    if not module.interpolates:
        return x.repeat_interleave(2, dim=2)
    first = module.first_frames
    pieces = [x.movedim(1, -1)[:, frames] for frames in (slice(first), slice(first, None))]
    return torch.cat([interpolate_frames(piece.contiguous()).movedim(-1, 1) for piece in pieces], dim=2)


def _conv(module: nn.Module, x: Tensor) -> Tensor:
    if isinstance(module, CausalConv):
        x = x if module.pad is None else _padded(module.pad, x)
        module = module.conv
    assert isinstance(module, Conv)
    B, _, T, H, W = x.shape
    weight, bias, time, space = module.weight, module.bias, module.time_padding, module.space_padding
    if weight.ndim == 5:
        return F.conv3d(x, weight, bias, stride=(module.stride, 1, 1), padding=(time, space, space))
    if weight.ndim == 4:
        y = F.conv2d(x.permute(0, 2, 1, 3, 4).flatten(0, 1), weight, bias, stride=module.stride, padding=space)
        return y.view(B, T, *y.shape[1:]).transpose(1, 2)
    y = F.conv1d(x.permute(0, 3, 4, 1, 2).flatten(0, 2), weight, bias, padding=time)
    return y.view(B, H, W, *y.shape[1:]).permute(0, 3, 4, 1, 2)


def _padded(pad: TimePad, x: Tensor) -> Tensor:
    first = x[:, :, :1].expand(-1, -1, pad.frames, -1, -1)
    if pad.padding == "first_frame_in_front":
        return torch.cat([first, x], dim=2)
    zeros = torch.zeros_like(first)
    return torch.cat([zeros, x] if pad.padding == "zeros_in_front" else [x, zeros], dim=2)


def _norm(module: Any, x: Tensor) -> Tensor:
    norm = module.norm
    y = F.layer_norm(x.permute(0, 2, 3, 4, 1), norm.normalized_shape, norm.weight, norm.bias, norm.eps)
    # As the norm leaves it. To bring it back into the order of (B, C, T, H, W) would make the baseline slower.
    return y.permute(0, 4, 1, 2, 3)


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)
