"""The encoder and the decoder.

Shape suffixes as in layers.py. Attribute names (`down_temporal`, `nin_shortcut`, ...) are those of the published
weights.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vidtok_model.blocks import FrameAttention, spatial_block, swish, temporal_block, volume_block
from vidtok_model.config import TokenizerConfig
from vidtok_model.layers import ChannelNorm, convolve, time_conv
from vidtok_model.memory import Memory
from vidtok_model.resampling import SpatialDown, SpatialUp, TemporalDown, TemporalUp

_VIDEO_CHANNELS = 3
_KERNEL = (3, 3, 3)


class Level(nn.Module):
    """One level's blocks on one kind of axis, and the change of size after them, if any."""

    def __init__(self, blocks: list[nn.Module], *, down: nn.Module | None = None, up: nn.Module | None = None) -> None:
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.downsample = down
        self.upsample = up


class Middle(nn.Module):
    """What stands between the levels and the latents: block, attention, block."""

    def __init__(self, config: TokenizerConfig, channels: int) -> None:
        super().__init__()
        self.block_1 = volume_block(channels, config.time_padding)
        self.attn_1 = FrameAttention(channels, config.time_padding)
        self.block_2 = volume_block(channels, config.time_padding)

    def forward(self, x_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives the shape of x."""
        y_BTHWC: Tensor = self.block_2(self.attn_1(self.block_1(x_BTHWC, memory)), memory)
        return y_BTHWC


class Encoder(nn.Module):
    """From frames to the numbers that the regularizer turns into latents.

    Args:
        config: The model. Its output has z channels (FSQ) or 2z (KL: mean, then log-variance).
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        padding = config.time_padding
        widths = [config.base_channels * multiplier for multiplier in config.channel_multipliers]
        self.conv_in = time_conv(_VIDEO_CHANNELS, config.base_channels, _KERNEL, padding)
        self.down = nn.ModuleList()
        self.down_temporal = nn.ModuleList()
        for level, (before, width) in enumerate(itertools.pairwise([config.base_channels, *widths])):
            spatial = [spatial_block(before if i == 0 else width, width) for i in range(config.blocks_per_level)]
            temporal = [temporal_block(width, padding) for _ in spatial]
            smaller = SpatialDown(width) if level in config.spatial_down_levels else None
            fewer = TemporalDown(width, padding) if level in config.temporal_down_levels else None
            self.down.append(Level([*spatial], down=smaller))
            self.down_temporal.append(Level([*temporal], down=fewer))
        self.mid = Middle(config, widths[-1])
        self.checkpoints_activations = False  # of its levels, in training: computed again, not kept
        self.norm_out = ChannelNorm(widths[-1])
        out_channels = config.latent_channels * (1 if config.is_discrete else 2)
        self.conv_out = time_conv(widths[-1], out_channels, _KERNEL, padding)

    def forward(self, frames_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives (B, T/f, H/s, W/s, z or 2z), where f and s are the time and the spatial factor.

        Args:
            frames_BTHWC: Contiguous, T a multiple of f: the clip with its copies of the first frame in front.
            memory: Of a stream, whose next chunk the frames are; None: they are a clip by themselves.
        """
        x_BTHWC = convolve(self.conv_in, frames_BTHWC, memory)
        for spatial, temporal in zip(self.down, self.down_temporal, strict=True):
            x_BTHWC = _run(self.checkpoints_activations, x_BTHWC, spatial, temporal, memory)
        x_BTHWC = self.mid(x_BTHWC, memory)
        return convolve(self.conv_out, swish(self.norm_out(x_BTHWC)), memory)


class Decoder(nn.Module):
    """From latents to frames."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        padding = config.time_padding
        widths = [config.base_channels * multiplier for multiplier in config.channel_multipliers]
        self.conv_in = time_conv(config.latent_channels, widths[-1], _KERNEL, padding)
        self.mid = Middle(config, widths[-1])
        self.checkpoints_activations = False  # as the encoder's
        self.up = nn.ModuleList()
        self.up_temporal = nn.ModuleList()
        # A latent meets the deepest level first; level i stands at place i of the lists, as in the published names.
        for level, width in enumerate(widths):
            before = widths[min(level + 1, len(widths) - 1)]
            spatial = [spatial_block(before if i == 0 else width, width) for i in range(config.blocks_per_level + 1)]
            temporal = [temporal_block(width, padding) for _ in spatial]
            larger = SpatialUp(width) if level in config.spatial_up_levels else None
            # Every temporal up that was met before has doubled what the first latent frame became.
            first_frames = 2 ** sum(other > level for other in config.temporal_up_levels)
            more = TemporalUp(width, padding, first_frames) if level in config.temporal_up_levels else None
            self.up.append(Level([*spatial], up=larger))
            self.up_temporal.append(Level([*temporal], up=more))
        self.norm_out = ChannelNorm(widths[0])
        self.conv_out = time_conv(widths[0], _VIDEO_CHANNELS, _KERNEL, padding)

    def forward(self, latents_BTHWC: Tensor, memory: Memory | None = None) -> Tensor:
        """Gives (B, T'*f, H'*s, W'*s, 3): all frames, the ones that stand for the encoder's front padding too.

        Args:
            latents_BTHWC: (B, T', H', W', z), contiguous.
            memory: Of a stream, whose next chunk the latents are; None: they are a clip by themselves.
        """
        x_BTHWC: Tensor = self.mid(convolve(self.conv_in, latents_BTHWC, memory), memory)
        for spatial, temporal in zip(reversed(self.up), reversed(self.up_temporal), strict=True):
            x_BTHWC = _run(self.checkpoints_activations, x_BTHWC, spatial, temporal, memory)
        return convolve(self.conv_out, swish(self.norm_out(x_BTHWC)), memory)


def _run(checkpoints: bool, x_BTHWC: Tensor, *level: nn.Module | Memory | None) -> Tensor:
    if checkpoints and torch.is_grad_enabled():
        kept: Tensor = checkpoint(_run_level, x_BTHWC, *level, use_reentrant=False)
        return kept
    return _run_level(x_BTHWC, *level)  # type: ignore[arg-type]


def _run_level(x_BTHWC: Tensor, spatial: nn.Module, temporal: nn.Module, memory: Memory | None) -> Tensor:
    """Spatial and temporal blocks in turns, then the changes of size: space before time."""
    assert isinstance(spatial, Level) and isinstance(temporal, Level)
    for space_block, time_block in zip(spatial.block, temporal.block, strict=True):
        x_BTHWC = time_block(space_block(x_BTHWC), memory)
    for resample in (spatial.downsample, spatial.upsample):
        if resample is not None:
            x_BTHWC = resample(x_BTHWC)
    for resample in (temporal.downsample, temporal.upsample):
        if resample is not None:
            x_BTHWC = resample(x_BTHWC, memory)
    return x_BTHWC
