"""Without gradients the networks go tile by tile over their input; the results are those of the whole."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch

from jobs.bench.plain import plain_encode
from tests.memory import forget_peak, peak_bytes
from vidtok_model import get_config, random_tokenizer, tiles
from vidtok_model.blocks import spatial_block, temporal_block
from vidtok_model.golden import golden_clip, golden_tokenizer
from vidtok_model.layers import Conv

MODELS = ["vidtok_fsq_causal_488_32768", "vidtok_kl_noncausal_488_4chn", "vidtok_kl_causal_488_4chn_v1_1"]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("tile_bytes", [1, 2**14, 2**40])
def test_tiles_change_nothing(name, tile_bytes, monkeypatch):
    """Of one byte: each frame and each pixel alone."""
    tokenizer = golden_tokenizer(name)
    clips = golden_clip(name, (2, 3, 16, 32, 32))
    with torch.enable_grad():  # the form that nothing is parted in
        whole = tokenizer.encoder(tokenizer.encoder_input(clips))
        latents = torch.linspace(-1, 1, 2 * 4 * 4 * 4 * tokenizer.config.latent_channels).view(2, 4, 4, 4, -1)
        frames = tokenizer.decoder(latents)
    monkeypatch.setattr(tiles, "_TILE_BYTES", tile_bytes)
    with torch.inference_mode():
        torch.testing.assert_close(tokenizer.encoder(tokenizer.encoder_input(clips)), whole, rtol=1e-5, atol=2e-5)
        torch.testing.assert_close(tokenizer.decoder(latents), frames, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("block", [spatial_block(8, 8), temporal_block(8, "zeros_in_front"), spatial_block(8, 12)])
def test_a_block_that_widens_nothing_writes_over_its_input(block):
    x_BTHWC = torch.randn(2, 3, 4, 4, 8)
    given = x_BTHWC.clone()
    with torch.no_grad():
        y_BTHWC = block(x_BTHWC)
    torch.testing.assert_close(y_BTHWC, block(given.requires_grad_()))
    assert (y_BTHWC.data_ptr() == x_BTHWC.data_ptr()) == (y_BTHWC.shape == x_BTHWC.shape)
    assert torch.equal(x_BTHWC, given) or y_BTHWC.shape == x_BTHWC.shape


def test_clips_are_left_as_they_are():
    tokenizer = golden_tokenizer(MODELS[1])  # nothing is put in front of its clips
    clips = golden_clip("clip", (1, 3, 16, 32, 32)).movedim(1, -1).contiguous().movedim(-1, 1)
    before = clips.clone()
    with torch.inference_mode():
        latents = tokenizer.encode(clips).latents
        given = latents.clone()
        tokenizer.decode(latents)
    assert torch.equal(clips, before) and torch.equal(latents, given)


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.01), (torch.float16, 0.001)])
@pytest.mark.parametrize("name", ["vidtok_kl_causal_488_4chn", "vidtok_fsq_causal_488_32768"])
def test_half_precision_between_the_ends_costs_less_than_autocast(name, dtype, most):
    """Of the published formulation."""
    exact, half = golden_tokenizer(name), golden_tokenizer(name).compute_in(dtype)
    clips = golden_clip(name, (1, 3, 17, 32, 32))
    with torch.inference_mode():
        expected, got = (one.encoder(one.encoder_input(clips)).movedim(-1, 1) for one in (exact, half))
        with torch.autocast("cpu", dtype=dtype):
            cast = plain_encode(exact, clips).float()
    assert got.dtype == torch.float32
    error, autocast_error = ((value - expected).square().mean().sqrt() for value in (got, cast))
    print(name, dtype, float(error), float(autocast_error))
    assert 0 < error < most
    assert error < autocast_error


def test_gradients_flow_in_half_precision():
    tokenizer = golden_tokenizer(MODELS[1]).compute_in(torch.bfloat16)
    clips = golden_clip("clip", (1, 3, 16, 32, 32))
    with torch.no_grad():
        expected = tokenizer.encode(clips).mean
    torch.testing.assert_close(tokenizer.encode(clips).mean, expected, rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "change",
    [
        lambda conv: conv.weight.mul_(2),
        lambda conv: conv.load_state_dict({"weight": conv.weight * 2, "bias": conv.bias}),
        lambda conv: conv.load_state_dict({"weight": conv.weight * 2, "bias": conv.bias}, assign=True),
        lambda conv: conv.to(torch.bfloat16).to(torch.float32).weight.data.mul_(2),
        lambda conv: setattr(conv, "weight", torch.nn.Parameter(conv.weight * 2, requires_grad=False)),
    ],
    ids=["in place", "loaded", "assigned", "another dtype for a while", "another tensor"],
)
@pytest.mark.parametrize("kernel", [(3, 3), (3,), (3, 3, 3)])
@torch.no_grad()
def test_packed_weights_are_those_that_a_layer_has(kernel, change):
    conv = Conv(16, 16, kernel).requires_grad_(False)
    x_BTHWC = torch.randn(2, 4, 8, 8, 16)
    for _ in range(3):
        before = conv(x_BTHWC)
        change(conv)
        with torch.enable_grad():  # never packed
            expected = conv(x_BTHWC)
        assert not torch.equal(expected, before)
        torch.testing.assert_close(conv(x_BTHWC), expected)
        torch.testing.assert_close(copy.deepcopy(conv)(x_BTHWC), expected)
        torch.testing.assert_close(pickle.loads(pickle.dumps(conv))(x_BTHWC), expected)


@torch.no_grad()
def test_what_learns_is_never_packed():
    """Some optimizers change weights behind PyTorch's back."""
    conv = Conv(16, 16, (3, 3))
    x_BTHWC = torch.randn(1, 2, 8, 8, 16)
    before = conv(x_BTHWC)
    conv.weight.data.mul_(2)
    assert not torch.equal(conv(x_BTHWC), before)


@torch.no_grad()
def test_weights_are_packed_once_for_a_size_of_frames(monkeypatch):
    """However many frames a tile has; for another size oneDNN may want another order."""
    packed = []
    real = torch.ops.mkldnn._reorder_convolution_weight
    spy = SimpleNamespace(
        _reorder_convolution_weight=lambda *given: packed.append(given[-1]) or real(*given),
        _convolution_pointwise=torch.ops.mkldnn._convolution_pointwise,
    )
    monkeypatch.setattr(torch.ops, "mkldnn", spy)
    conv = Conv(16, 16, (3, 3)).requires_grad_(False)
    for frames, size in [(2, 8), (3, 8), (2, 8), (2, 6), (3, 6)]:
        conv(torch.randn(1, frames, size, size, 16))
    assert [tuple(shape[2:]) for shape in packed] == [(8, 8), (6, 6)]


def test_memory_is_little_more_than_the_largest_activation():
    """17 frames of 128x128, 20 with those in front, and 32 channels at full size: 42 MB."""
    tokenizer = random_tokenizer(get_config("vidtok_kl_causal_488_4chn").replace(base_channels=32), seed=0)
    largest = 20 * 128 * 128 * 32 * 4
    with torch.inference_mode():
        tokenizer.encode(torch.zeros(1, 3, 17, 16, 16))  # what the first call keeps
        clips = torch.zeros(1, 3, 17, 128, 128)
        forget_peak()
        before = peak_bytes()
        tokenizer.encode(clips)
    assert peak_bytes() - before < 2.5 * largest  # with tiles of 4 MB; five times as much, where nothing is parted
