"""Refusals of tensors that are not what a tokenizer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidtok_model.config import TokenizerConfig

if TYPE_CHECKING:
    from vidtok_model.tokenizer import VideoTokenizer

__all__ = ["check_clips", "check_decoder", "check_latents", "check_sample", "check_tokens"]

_CLIP_AXES = ("B", "C", "T", "H", "W")
_TOKEN_AXES = ("B", "T", "H", "W")


def check_clips(config: TokenizerConfig, clips_BCTHW: Tensor) -> None:
    """Raises a ValueError unless these are clips of whole pixels of the model: (B, 3, T, H, W), any T."""
    _check_floats("clips", clips_BCTHW)
    channels = clips_BCTHW.shape[1]
    if channels != 3:
        raise ValueError(f"clips have {channels} channels in shape {tuple(clips_BCTHW.shape)}: expected 3 (RGB)")
    config.check_frame_size(*clips_BCTHW.shape[3:])


def check_decoder(tokenizer: VideoTokenizer) -> None:
    """Raises a ValueError where a model is to decode that was made to encode alone."""
    if not tokenizer.has_decoder:
        raise ValueError(f"{tokenizer.config.name} is here without its decoder (has_decoder=False)")


def check_sample(config: TokenizerConfig, sample: bool) -> None:
    """Raises a ValueError where a sample is asked of a model whose latents are no distribution."""
    if sample and config.is_discrete:
        raise ValueError(f"sample=True: {config.name} is an FSQ model, whose latents are no distribution")


def check_latents(config: TokenizerConfig, latents_BCTHW: Tensor) -> None:
    """Raises a ValueError unless these are latents of the model: (B, z, T', H', W')."""
    _check_floats("latents", latents_BCTHW)
    channels = latents_BCTHW.shape[1]
    if channels != config.latent_channels:
        raise ValueError(
            f"latents have {channels} channels in shape {tuple(latents_BCTHW.shape)}: "
            f"{config.name} takes {config.latent_channels}"
        )


def check_tokens(config: TokenizerConfig, tokens_BTHW: Tensor) -> None:
    """Raises a ValueError unless these are tokens of the model: (B, T', H', W') integers of its codebook."""
    _check_shape("tokens", tokens_BTHW, _TOKEN_AXES)
    if tokens_BTHW.is_floating_point() or tokens_BTHW.is_complex() or tokens_BTHW.dtype == torch.bool:
        raise ValueError(f"tokens are {tokens_BTHW.dtype}: expected integers")
    lowest, highest = (int(extreme) for extreme in torch.aminmax(tokens_BTHW.long()))
    if lowest < 0 or highest >= (config.codebook_size or 0):
        raise ValueError(
            f"tokens lie between {lowest} and {highest}: {config.name} has tokens from 0 to "
            f"{(config.codebook_size or 0) - 1}"
        )


def _check_shape(what: str, values: Tensor, axes: tuple[str, ...]) -> None:
    if not isinstance(values, Tensor):
        raise ValueError(f"{what} are of type {type(values).__name__}: expected a torch tensor ({', '.join(axes)})")
    if values.ndim != len(axes) or 0 in values.shape:
        raise ValueError(f"{what} have shape {tuple(values.shape)}: expected ({', '.join(axes)}), none of them 0")


def _check_floats(what: str, values: Tensor) -> None:
    _check_shape(what, values, _CLIP_AXES)
    if not values.is_floating_point():
        raise ValueError(f"{what} are {values.dtype}: expected a float dtype")
