"""The start of the small carried models: a linear part that is fitted, and the whole model that does the same."""

import copy
from itertools import repeat

import pytest
import torch
import torch.nn.functional as F

from jobs.tiny_axes import align
from jobs.tiny_linear import LinearPart
from jobs.tiny_start import complete, fit, make_pyramid
from tests.vidtok_model.support import TINY_KL
from vidtok_model import CARRIED, random_tokenizer
from vidtok_model.blocks import FrameAttention, ResidualBlock
from vidtok_model.golden import golden_clip
from vidtok_model.metrics import psnr
from vidtok_model.resampling import SpatialDown, SpatialUp, TemporalUp

FSQ = next(name for name, config in CARRIED.items() if config.is_discrete)


def smooth_clips(count: int, size: int) -> torch.Tensor:
    return F.interpolate(golden_clip("smooth", (count, 3, 2, 4, 4)), size=(5, size, size), mode="trilinear")


@pytest.mark.parametrize("name", CARRIED)
def test_the_whole_model_does_what_its_linear_part_did(name):
    smooth = smooth_clips(4, 32)
    part = LinearPart(make_pyramid(random_tokenizer(name, seed=1), seed=0))
    if part.tokenizer.config.is_discrete:
        align(part, smooth)
    alone = copy.deepcopy(part)
    whole = complete(part, smooth)
    latents = alone.latents(smooth).movedim(-1, 1)
    encoded = whole.encode(smooth)
    if whole.config.is_discrete:
        assert (encoded.latents != latents).float().mean() < 0.05, "rounded elsewhere"
    else:
        assert torch.allclose(encoded.mean, latents, atol=0.02)
        assert (encoded.logvar == -8).all()
    expected = alone(smooth)
    decoded = whole.decode(latents, smooth.shape[2])
    # The LayerNorm is nearly a division by a constant, not quite.
    assert psnr(expected, decoded).mean() > 30


def test_fsq_rounds_the_principal_axes_and_little_is_lost():
    part = LinearPart(make_pyramid(random_tokenizer(FSQ, seed=1), seed=0))
    smooth = smooth_clips(16, 32)
    before = part(smooth)
    align(part, smooth)
    assert psnr(before, part(smooth)).mean() > 35, "rounded"
    # What each channel's deviation from its mean adds to the output, most of it in the first one.
    latents = part.latents(smooth)
    deviation, mean = torch.std_mean(latents.flatten(0, -2), dim=0)
    quiet = mean.expand(1, 5, 5, 5, -1)
    energies = []
    for channel, one in enumerate(deviation):
        loud = quiet.clone()
        loud[0, 2, 2, 2, channel] += one
        energies.append((part.decode(loud) - part.decode(quiet)).square().sum().item())
    assert energies == sorted(energies, reverse=True) and energies[0] > 10 * energies[-1]
    part.is_rounding = False
    correlation = torch.corrcoef(part.latents(smooth).flatten(0, -2).T)
    assert torch.allclose(correlation, torch.eye(len(correlation)), atol=1e-3)


def test_the_linear_part_learns():
    part = LinearPart(make_pyramid(random_tokenizer("vidtok_tiny_kl_causal_488_16chn", seed=1), seed=0))
    clip = smooth_clips(1, 32)
    before = F.mse_loss(part(clip), clip).item()
    blocks = copy.deepcopy(part.tokenizer.decoder.mid.state_dict())
    fit(part, repeat(clip), steps=40)
    assert F.mse_loss(part(clip), clip).item() < 0.75 * before
    after = part.tokenizer.decoder.mid.state_dict()
    assert all(torch.equal(value, blocks[name]) for name, value in after.items())


def test_a_pyramid_begins_as_averages_and_repetitions(monkeypatch):
    monkeypatch.setattr("jobs.tiny_start._RANDOM_PART", 0.0)
    pyramid = make_pyramid(random_tokenizer(TINY_KL, seed=3), seed=0)
    found = set()
    for name, layer in pyramid.named_modules():
        channels = next((len(parameter) for parameter in layer.parameters() if parameter.ndim > 1), 0)
        if isinstance(layer, ResidualBlock):
            channels = layer.norm1.norm.normalized_shape[0]
        x_BTHWC = golden_clip(name, (1, max(1, channels), 4, 8, 8)).movedim(1, -1).contiguous()
        x_TCHW = x_BTHWC[0].movedim(-1, 1)
        match layer:
            case ResidualBlock():
                expected_TCHW = layer.nin_shortcut(x_BTHWC)[0].movedim(-1, 1)
            case FrameAttention():
                expected_TCHW = x_TCHW
            case SpatialDown():
                expected_TCHW = F.avg_pool2d(x_TCHW, 2)
            case SpatialUp():
                blurred = F.avg_pool2d(F.pad(F.interpolate(x_TCHW, scale_factor=2), (1, 1, 1, 1)), 2, stride=1)
                expected_TCHW = F.avg_pool2d(blurred, 2, stride=1)
            case TemporalUp():
                earlier = F.pad(x_TCHW.repeat_interleave(2, dim=0), (0, 0, 0, 0, 0, 0, 1, 0))[:-1]
                share = layer.mix_factor.sigmoid()
                expected_TCHW = share * x_TCHW.repeat_interleave(2, dim=0) + (1 - share) * earlier
            case _:
                continue
        found.add(type(layer))
        assert torch.allclose(layer(x_BTHWC)[0].movedim(-1, 1), expected_TCHW, atol=1e-5), name
    assert len(found) == 5
    shortcut = pyramid.encoder.down[1].block[0].nin_shortcut.weight.flatten(1)
    assert torch.allclose(shortcut.T @ shortcut, torch.eye(shortcut.shape[1]), atol=1e-5)
