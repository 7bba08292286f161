"""A small model's convolutions outside its blocks, as a linear model by themselves; tiny_start.py fits it."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from vidtok_model import VideoTokenizer
from vidtok_model.layers import Conv, convolve

__all__ = ["LinearPart", "convolution"]


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
