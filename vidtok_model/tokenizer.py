"""The video tokenizer: clips to latents or tokens, and back.

Shape suffixes: B batch, C channels, T frames, H height, W width. Clips and latents come and go in the usual order,
(B, C, T, H, W); inside, activations are (B, T, H, W, C).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vidtok_model.config import TokenizerConfig
from vidtok_model.models import get_config
from vidtok_model.networks import Decoder, Encoder
from vidtok_model.regularizers import DiagonalGaussian, Encoded, FiniteScalarQuantizer, make_regularizer

_CLIP_AXES = ("B", "C", "T", "H", "W")
_TOKEN_AXES = ("B", "T", "H", "W")


class VideoTokenizer(nn.Module):
    """A model of the VidTok family (arXiv 2412.13061).

    `state_dict()` has the names and shapes of the published weights. A new model has initial values for training;
    `load_tokenizer` gives one with weights, ready for use. Gradients flow unless the caller turns them off
    (`torch.inference_mode()`).

    Input is moved to the weights' dtype, not to their device. Non-finite input isn't looked for; an FSQ model marks
    where it led to by the token -1.

    Args:
        config: Which model.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.regularizer = make_regularizer(config)

    def encode(self, clips_BCTHW: Tensor, *, sample: bool = False, generator: torch.Generator | None = None) -> Encoded:
        """Encodes a batch of clips.

        Args:
            clips_BCTHW: (B, 3, T, H, W), any float dtype, in [-1, 1]. H and W are multiples of the spatial factor; T is
                a length that `TokenizerConfig.latent_frames` takes (one frame, an image, is one for causal models).
            sample: Whether a KL model's latents are a sample of the distribution rather than its mean.
            generator: Where the sample's noise comes from; by default torch's global generator.

        Returns:
            Latents, and tokens (FSQ) or the distribution (KL).

        Raises:
            ValueError: If the clips have another shape or dtype, or `sample` is asked of an FSQ model.
        """
        config = self.config
        _check_floats("clips", clips_BCTHW, _CLIP_AXES)
        _, channels, num_frames, height, width = clips_BCTHW.shape
        if channels != 3:
            raise ValueError(f"clips have {channels} channels in shape {tuple(clips_BCTHW.shape)}: expected 3 (RGB)")
        config.latent_shape(num_frames, height, width)
        if sample and config.is_discrete:
            raise ValueError(f"sample=True: {config.name} is an FSQ model, whose latents are no distribution")

        x_BTHWC = clips_BCTHW.to(self._dtype).permute(0, 2, 3, 4, 1)
        front_frames = config.front_frames(num_frames)
        if front_frames:
            x_BTHWC = torch.cat([x_BTHWC[:, :1].expand(-1, front_frames, -1, -1, -1), x_BTHWC], dim=1)
        z_BTHWC = self.encoder(x_BTHWC.contiguous())
        if isinstance(self.regularizer, DiagonalGaussian):
            encoded: Encoded = self.regularizer(z_BTHWC, sample=sample, generator=generator)
        else:
            encoded = self.regularizer(z_BTHWC)
        return encoded

    def decode(self, latents_BCTHW: Tensor, num_frames: int | None = None) -> Tensor:
        """Decodes a batch of latents.

        A model of version 1.1 puts frames in front of a clip whose length is no multiple of the time factor, and its
        decoder gives them back: the caller keeps the clip's own frames, the last T, which `num_frames=T` does here. The
        others drop what they put in front. (A version 1.0 causal model drops time_factor - 1 frames always, which are
        real ones where the clip's length was a multiple of the time factor.)

        Args:
            latents_BCTHW: (B, z, T', H', W'), any float dtype.
            num_frames: Give the last that many frames. By default, all that the decoder gives.

        Returns:
            (B, 3, T, H, W) in the weights' dtype, about in [-1, 1] (not clamped).

        Raises:
            ValueError: If the latents have another shape or dtype, or the decoder gives fewer than `num_frames`.
        """
        config = self.config
        _check_floats("latents", latents_BCTHW, _CLIP_AXES)
        channels, latent_frames = latents_BCTHW.shape[1:3]
        if channels != config.latent_channels:
            raise ValueError(
                f"latents have {channels} channels in shape {tuple(latents_BCTHW.shape)}: "
                f"{config.name} takes {config.latent_channels}"
            )
        decoded_frames = config.decoded_frames(latent_frames)
        kept_frames = decoded_frames if num_frames is None else num_frames
        if not 1 <= kept_frames <= decoded_frames:
            raise ValueError(
                f"num_frames={num_frames}: {latent_frames} latent frames of {config.name} give {decoded_frames} "
                f"frames; expected 1 to {decoded_frames}"
            )
        x_BTHWC = self.decoder(latents_BCTHW.to(self._dtype).permute(0, 2, 3, 4, 1).contiguous())
        kept_BTHWC: Tensor = x_BTHWC[:, -kept_frames:]
        return kept_BTHWC.permute(0, 4, 1, 2, 3).contiguous()

    def decode_tokens(self, tokens_BTHW: Tensor, num_frames: int | None = None) -> Tensor:
        """Decodes a batch of tokens; for FSQ models.

        Args:
            tokens_BTHW: (B, T', H', W'), any integer dtype, in [0, codebook_size).
            num_frames: As in `decode`.

        Returns:
            (B, 3, T, H, W) as `decode` gives.

        Raises:
            ValueError: If the tokens have another shape, dtype or range, the decoder gives fewer than `num_frames`, or
                the model has no tokens.
        """
        return self.decode(self.tokens_to_latents(tokens_BTHW), num_frames)

    def tokens_to_latents(self, tokens_BTHW: Tensor) -> Tensor:
        """The latents that tokens stand for; for FSQ models.

        Args:
            tokens_BTHW: (B, T', H', W'), any integer dtype, in [0, codebook_size).

        Returns:
            (B, z, T', H', W') float32, equal to the latents that the tokens came with.

        Raises:
            ValueError: If the tokens have another shape, dtype or range, or the model has no tokens.
        """
        config = self.config
        if not isinstance(self.regularizer, FiniteScalarQuantizer):
            raise ValueError(f"{config.name} is a KL model and has no tokens: decode its latents")
        _check_shape("tokens", tokens_BTHW, _TOKEN_AXES)
        if tokens_BTHW.is_floating_point() or tokens_BTHW.is_complex() or tokens_BTHW.dtype == torch.bool:
            raise ValueError(f"tokens are {tokens_BTHW.dtype}: expected integers")
        tokens_BTHW = tokens_BTHW.long()
        lowest, highest = (int(extreme) for extreme in torch.aminmax(tokens_BTHW))
        if lowest < 0 or highest >= (config.codebook_size or 0):
            raise ValueError(
                f"tokens lie between {lowest} and {highest}: {config.name} has tokens from 0 to "
                f"{(config.codebook_size or 0) - 1}"
            )
        return self.regularizer.codes(tokens_BTHW)

    @property
    def _dtype(self) -> torch.dtype:
        return self.decoder.norm_out.norm.weight.dtype


def random_tokenizer(config: TokenizerConfig | str, seed: int) -> VideoTokenizer:
    """A model with initial weights, for tests and demonstrations: it computes, but has learned nothing.

    Args:
        config: Which model; a string is a released model's name.
        seed: The same seed gives the same weights. torch's global generator is left as it was.

    Returns:
        The model on the CPU in float32, in evaluation mode, its weights not asking for gradients.

    Raises:
        ValueError: If no released model has that name.
    """
    config = get_config(config) if isinstance(config, str) else config
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        tokenizer = VideoTokenizer(config)
    return tokenizer.eval().requires_grad_(False)


def _check_shape(what: str, values: Tensor, axes: tuple[str, ...]) -> None:
    if not isinstance(values, Tensor):
        raise ValueError(f"{what} are of type {type(values).__name__}: expected a torch tensor ({', '.join(axes)})")
    if values.ndim != len(axes) or 0 in values.shape:
        raise ValueError(f"{what} have shape {tuple(values.shape)}: expected ({', '.join(axes)}), none of them 0")


def _check_floats(what: str, values: Tensor, axes: tuple[str, ...]) -> None:
    _check_shape(what, values, axes)
    if not values.is_floating_point():
        raise ValueError(f"{what} are {values.dtype}: expected a float dtype")
