"""FSQ and KL: digits, rounding, gradients, float32 throughout."""

import numpy as np
import pytest
import torch

from tests.vidtok_model.support import TINY_FSQ, TINY_KL, tiny_tokenizer
from vidtok_model import MODELS
from vidtok_model.regularizers import DiagonalGaussian, FiniteScalarQuantizer

CODEBOOKS = [*sorted({config.fsq_levels for config in MODELS.values() if config.is_discrete}), (3, 4, 5), (2, 7)]


def encoder_outputs(latents_BCTHW, levels):
    """Values that quantize to these codes: the bounding function, inverted."""
    levels = torch.tensor(levels, dtype=torch.float64)
    half_range = (levels - 1) * 1.001 / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0)
    steps = latents_BCTHW.permute(0, 2, 3, 4, 1).double() * (levels // 2)
    return (torch.atanh((steps + offset) / half_range) - torch.atanh(offset / half_range)).float()


@pytest.mark.parametrize("levels", CODEBOOKS, ids=str)
def test_every_token_comes_back(levels):
    quantizer = FiniteScalarQuantizer(levels)
    tokens_BTHW = torch.arange(int(np.prod(levels))).reshape(1, 1, 1, -1)
    latents_BCTHW = quantizer.codes(tokens_BTHW)
    assert latents_BCTHW.dtype == torch.float32
    assert latents_BCTHW.abs().max() <= 1
    assert torch.unique(latents_BCTHW[0].flatten(1).T, dim=0).shape == (tokens_BTHW.numel(), len(levels))
    encoded = quantizer(encoder_outputs(latents_BCTHW, levels))
    assert torch.equal(encoded.tokens, tokens_BTHW)
    assert torch.equal(encoded.latents, latents_BCTHW)


def test_the_first_channel_is_the_least_significant_digit():
    codes_BCTHW = FiniteScalarQuantizer((8, 8, 8)).codes(torch.tensor([[[[0, 1, 8, 64, 511]]]]))
    expected = [[-1, -1, -1], [-0.75, -1, -1], [-1, -0.75, -1], [-1, -1, -0.75], [0.75, 0.75, 0.75]]
    assert codes_BCTHW[0, :, 0, 0].T.tolist() == expected


def test_extreme_values_stay_in_the_codebook_and_broken_ones_are_marked():
    z = torch.tensor([[1e9] * 3, [-1e9] * 3, [float("nan"), 0, 0], [0, float("inf"), 0]]).reshape(1, 1, 1, 4, 3)
    assert FiniteScalarQuantizer((8, 8, 8))(z).tokens.flatten().tolist() == [511, 0, -1, -1]


def test_the_gradient_is_that_of_the_bounded_value():
    z = torch.linspace(-2, 2, 24, requires_grad=True)
    latents = FiniteScalarQuantizer((8, 8))(z.reshape(1, 1, 3, 4, 2)).latents
    (gradient,) = torch.autograd.grad(latents.sum(), z)
    shift = np.arctanh(0.5 / 3.5035)
    expected = 3.5035 / 4 * (1 - torch.tanh(z.detach() + shift) ** 2)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_quantizing_happens_in_float32(how):
    config = TINY_FSQ.replace(name="tiny_fsq_in_bfloat16")
    tokenizer = tiny_tokenizer(config if how == "weights" else TINY_FSQ)
    if how == "weights":
        tokenizer.to(torch.bfloat16)
    seen = []
    hook = tokenizer.encoder.register_forward_hook(lambda module, given, z: seen.append(z))
    clips = torch.rand((4, 3, 13, 16, 16), generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        encoded = tokenizer.encode(clips)
        decoded = tokenizer.decode_tokens(encoded.tokens)
    hook.remove()
    assert seen[0].dtype == decoded.dtype == torch.bfloat16
    assert decoded.isfinite().all()
    assert encoded.latents.dtype == torch.float32
    expected = FiniteScalarQuantizer((8, 8, 8))(seen[0].float())
    assert torch.equal(encoded.tokens, expected.tokens)
    assert torch.equal(encoded.latents, expected.latents)
    # Rounded to bfloat16 on the way, some of these positions would get another token: the test can fail.
    bounded = torch.tanh(seen[0] + torch.tensor(0.14370).bfloat16()) * torch.tensor(3.5035).bfloat16() - 0.5
    assert (bounded.round() / 4 != expected.latents.permute(0, 2, 3, 4, 1)).any()


def test_the_log_variance_is_clamped_and_is_the_second_half():
    z = torch.tensor([1.0, -100.0, -100.0, 100.0]).reshape(1, 1, 1, 1, 4)
    encoded = DiagonalGaussian()(z)
    assert encoded.mean.flatten().tolist() == [1, -100]
    assert encoded.logvar.flatten().tolist() == [-30, 20]


def test_a_sample_has_the_distributions_mean_and_variance():
    mean, logvar = torch.tensor([2.0, -1.0]), torch.tensor([0.0, -2.0])
    z = torch.cat([mean, logvar]).expand(1, 8, 50, 50, 4)
    encoded = DiagonalGaussian()(z, sample=True, generator=torch.Generator().manual_seed(0))
    per_channel = encoded.latents[0].flatten(1)
    torch.testing.assert_close(per_channel.mean(1), mean, atol=0.03, rtol=0)
    torch.testing.assert_close(per_channel.var(1).log(), logvar, atol=0.03, rtol=0)


def test_sampling_is_asked_for_and_follows_its_generator():
    tokenizer = tiny_tokenizer(TINY_KL)
    clips = torch.zeros(1, 3, 5, 8, 8)
    first, again, other = (
        tokenizer.encode(clips, sample=True, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.latents, again.latents)
    assert not torch.equal(first.latents, other.latents)
    assert torch.equal(first.mean, other.mean)
    assert torch.equal(tokenizer.encode(clips).latents, first.mean)


def test_a_kl_model_runs_in_bfloat16():
    tokenizer = tiny_tokenizer(TINY_KL.replace(name="tiny_kl_in_bfloat16")).to(torch.bfloat16)
    encoded = tokenizer.encode(torch.zeros(1, 3, 5, 8, 8))
    assert encoded.mean.dtype == encoded.logvar.dtype == torch.float32
    assert tokenizer.decode(encoded.latents).dtype == torch.bfloat16
