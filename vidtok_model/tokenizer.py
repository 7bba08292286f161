"""The video tokenizer: clips to latents or tokens, and back.

Shape suffixes: B batch, C channels, T frames, H height, W width. Clips and latents come and go in the usual order,
(B, C, T, H, W); inside, activations are (B, T, H, W, C).
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn

from vidtok_model.checks import check_clips, check_decoder, check_latents, check_sample, check_tokens
from vidtok_model.config import TokenizerConfig
from vidtok_model.layers import Conv
from vidtok_model.models import get_config
from vidtok_model.networks import Decoder, Encoder
from vidtok_model.regularizers import Encoded, FiniteScalarQuantizer, make_regularizer, regularize
from vidtok_model.streams import StreamDecoder, StreamEncoder


class VideoTokenizer(nn.Module):
    """A model of the VidTok family (arXiv 2412.13061).

    `state_dict()` has the names and shapes of the published weights. A new model has initial values for training;
    `load_tokenizer` gives one with weights, ready for use. Gradients flow unless the caller turns them off
    (`torch.inference_mode()`).

    Input is moved to the ends' dtype, not to their device. Non-finite input isn't looked for; an FSQ model marks
    where it led to by the token -1.

    Args:
        config: Which model.
        has_decoder: Whether it decodes too; without, it has about half the weights.
    """

    def __init__(self, config: TokenizerConfig, *, has_decoder: bool = True) -> None:
        super().__init__()
        self.config = config
        self.has_decoder = has_decoder
        self.encoder = Encoder(config)
        if has_decoder:
            self.decoder = Decoder(config)
        self.regularizer = make_regularizer(config)

    def compute_in(self, dtype: torch.dtype) -> Self:
        """Lets the convolutions and the attention between the ends of each network compute in `dtype`.

        The first and the last convolution of each, norms and swishes, and what residual blocks add up are float32.

        Args:
            dtype: float32, bfloat16 or float16.

        Raises:
            ValueError: If it is another one.
        """
        if dtype not in (torch.float32, torch.bfloat16, torch.float16):
            raise ValueError(f"dtype={dtype}: expected float32, bfloat16 or float16")
        ends = ("coder.conv_in", "coder.conv_out")
        for name, module in self.float().named_modules():
            if isinstance(module, Conv) and not name.removesuffix(".conv").endswith(ends):
                module.to(dtype)
        return self

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
        check_clips(config, clips_BCTHW)
        check_sample(config, sample)
        z_BTHWC = self.encoder(self.encoder_input(clips_BCTHW))
        return regularize(self.regularizer, z_BTHWC, sample=sample, generator=generator)

    def encoder_input(self, clips_BCTHW: Tensor) -> Tensor:
        """Clips as the encoder takes them: (B, T, H, W, 3), contiguous, copies of the first frame in front if needed.

        Raises:
            ValueError: If the model can't take clips of that length.
        """
        front_frames = self.config.front_frames(clips_BCTHW.shape[2])
        x_BTHWC = clips_BCTHW.to(self.dtype).permute(0, 2, 3, 4, 1)
        if front_frames:
            x_BTHWC = torch.cat([x_BTHWC[:, :1].expand(-1, front_frames, -1, -1, -1), x_BTHWC], dim=1)
        return x_BTHWC.contiguous()

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
            (B, 3, T, H, W) in `dtype`, about in [-1, 1] (not clamped).

        Raises:
            ValueError: If the latents have another shape or dtype, the decoder gives fewer than `num_frames`, or there
                is none.
        """
        config = self.config
        check_decoder(self)
        check_latents(config, latents_BCTHW)
        latent_frames = latents_BCTHW.shape[2]
        decoded_frames = config.decoded_frames(latent_frames)
        kept_frames = decoded_frames if num_frames is None else num_frames
        if not 1 <= kept_frames <= decoded_frames:
            raise ValueError(
                f"num_frames={num_frames}: {latent_frames} latent frames of {config.name} give {decoded_frames} "
                f"frames; expected 1 to {decoded_frames}"
            )
        x_BTHWC = self.decoder(latents_BCTHW.to(self.dtype).permute(0, 2, 3, 4, 1).contiguous())
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
        check_tokens(config, tokens_BTHW)
        return self.regularizer.codes(tokens_BTHW.long())

    def stream_encoder(self, *, sample: bool = False, generator: torch.Generator | None = None) -> StreamEncoder:
        """A stream that encodes a video of any length in chunks; for models of version 1.1.

        Args:
            sample: As in `encode`.
            generator: As in `encode`.

        Raises:
            ValueError: If the model is of another version, or `sample` is asked of an FSQ model.
        """
        return StreamEncoder(self, sample=sample, generator=generator)

    def stream_decoder(self) -> StreamDecoder:
        """A stream that decodes latents or tokens of a video of any length in chunks; for models of version 1.1.

        Raises:
            ValueError: If the model is of another version.
        """
        return StreamDecoder(self)

    @property
    def dtype(self) -> torch.dtype:
        """Of what the networks take and give; what lies between may be another one (`compute_in`)."""
        return self.encoder.norm_out.norm.weight.dtype


def random_tokenizer(config: TokenizerConfig | str, seed: int, *, has_decoder: bool = True) -> VideoTokenizer:
    """A model with initial weights, for tests and demonstrations: it computes, but has learned nothing.

    Args:
        config: Which model; a string is a released model's name.
        seed: The same seed gives the same weights. torch's global generator is left as it was.
        has_decoder: As of `VideoTokenizer`. The encoder's weights are the same without one.

    Returns:
        The model on the CPU in float32, in evaluation mode, its weights not asking for gradients.

    Raises:
        ValueError: If no released model has that name.
    """
    config = get_config(config) if isinstance(config, str) else config
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(seed)
        tokenizer = VideoTokenizer(config, has_decoder=has_decoder)
    return tokenizer.eval().requires_grad_(False)
