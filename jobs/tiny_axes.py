"""The latents of a small FSQ model on their principal axes, before they are rounded; tiny_start.py asks for it."""

import torch
from torch import Tensor

from jobs.tiny_linear import LinearPart, convolution

__all__ = ["align"]

# How far a latent of standard deviation 1 is drawn out over its levels, of which the best is taken.
_FSQ_GAINS = (0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.3)


@torch.no_grad()
def align(part: LinearPart, clips_BCTHW: Tensor) -> None:
    """Turns the latents of an FSQ model to their principal axes, and begins to round them.

    Rounding costs each channel the same share of its variance, and nearly all of a picture's variance is brightness.
    So the channels with the most levels, the first ones, get the axes with the most of the output's energy.

    Args:
        part: Fitted without rounding; changed in place.
        clips_BCTHW: What the axes are taken from.
    """
    encoder_end, decoder_start = (
        convolution(half) for half in (part.tokenizer.encoder.conv_out, part.tokenizer.decoder.conv_in)
    )
    z_NC = part.latents(clips_BCTHW).flatten(0, -2).double()
    mean_C = z_NC.mean(dim=0)
    root = _square_root(_output_energy(part))
    energies, axes = torch.linalg.eigh(root @ torch.cov(z_NC.T) @ root)
    # Latents are mean_C + basis @ unit, where unit has variance 1 in each channel and no correlation.
    basis = (torch.linalg.inv(root) @ axes * energies.sqrt()).flip(1)
    unit_NC = (z_NC - mean_C) @ torch.linalg.inv(basis).T
    gains_C, slopes_C, offsets_C = _spread(part, unit_NC)
    to_unit = gains_C[:, None] * torch.linalg.inv(basis)
    from_codes = basis * slopes_C
    encoder_end.bias.copy_(to_unit @ (encoder_end.bias.double() - mean_C))
    encoder_end.weight.copy_(torch.einsum("ij,j...->i...", to_unit, encoder_end.weight.double()))
    constant_C = mean_C + basis @ offsets_C
    decoder_start.bias.add_(decoder_start.weight.flatten(2).sum(dim=2) @ constant_C.float())
    decoder_start.weight.copy_(torch.einsum("oi...,ij->oj...", decoder_start.weight.double(), from_codes))
    part.is_rounding = True


def _square_root(matrix: Tensor) -> Tensor:
    """Of a positive definite matrix."""
    values, vectors = torch.linalg.eigh(matrix)
    root: Tensor = (vectors * values.clamp_min(values.max() * 1e-9).sqrt()) @ vectors.T
    return root


def _output_energy(part: LinearPart) -> Tensor:
    """The scalar products of what one latent's channels, each at 1, add to the output, (z, z)."""
    channels = part.tokenizer.config.latent_channels
    latents_BTHWC = torch.zeros(channels + 1, 5, 5, 5, channels)
    latents_BTHWC[range(channels), 2, 2, 2, range(channels)] = 1
    frames = part.decode(latents_BTHWC).double()
    added = (frames[:-1] - frames[-1]).flatten(1)
    return added @ added.T


def _spread(part: LinearPart, unit_NC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gain of each channel whose codes, times a slope and plus an offset, come nearest to it; the last two too."""
    best: list[tuple[float, float, float, float]] = [(float("inf"), 0, 0, 0)] * unit_NC.shape[1]
    for gain in _FSQ_GAINS:
        codes_NC = part.rounded((gain * unit_NC).float()[None, None, None])[0, 0, 0].double()
        for channel, (code, unit) in enumerate(zip(codes_NC.T, unit_NC.T, strict=True)):
            slope = float(torch.cov(torch.stack([code, unit]))[0, 1] / code.var())
            offset = float(unit.mean() - slope * code.mean())
            error = float((slope * code + offset - unit).square().mean())
            best[channel] = min(best[channel], (error, gain, slope, offset))
    _, gains, slopes, offsets = torch.tensor(best, dtype=torch.float64).T
    return gains, slopes, offsets
