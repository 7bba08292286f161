"""VideoTokenizer: what it takes and refuses, and what must not depend on what."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.vidtok_model.support import (
    TINY_FSQ,
    TINY_KL,
    TINY_KL_NONCAUSAL,
    TINY_KL_V1_1,
    golden_tokenizer,
    tiny_tokenizer,
)
from vidtok_model import VideoTokenizer, blocks, networks, random_tokenizer
from vidtok_model.layers import Conv
from vidtok_model.networks import Decoder, Encoder

ROOT = Path(__file__).resolve().parents[2]
# The tiny models' factors are 4 in time and 2 in space.
REFUSED_CLIPS = [
    (torch.zeros(3, 5, 8, 8), r"clips have shape \(3, 5, 8, 8\): expected \(B, C, T, H, W\)"),
    (torch.zeros(0, 3, 5, 8, 8), r"clips have shape \(0, 3, 5, 8, 8\): .* none of them 0"),
    (torch.zeros(1, 4, 5, 8, 8), r"clips have 4 channels in shape \(1, 4, 5, 8, 8\): expected 3"),
    (torch.zeros(1, 3, 6, 8, 8), "num_frames=6: tiny_kl takes"),
    (torch.zeros(1, 3, 5, 8, 7), "frame size 8x7 .*: tiny_kl takes positive multiples of 2"),
    (torch.zeros(1, 3, 5, 8, 8, dtype=torch.uint8), "clips are torch.uint8: expected a float dtype"),
    ([[1.0]], "clips are of type list: expected a torch tensor"),
]
REFUSED_LATENTS = [
    (torch.zeros(3, 2, 4, 4), {}, r"latents have shape \(3, 2, 4, 4\): expected \(B, C, T, H, W\)"),
    (torch.zeros(1, 4, 2, 4, 4), {}, r"latents have 4 channels in shape \(1, 4, 2, 4, 4\): tiny_kl takes 3"),
    (torch.zeros(1, 3, 0, 4, 4), {}, "none of them 0"),
    (torch.zeros(1, 3, 2, 4, 4, dtype=torch.int64), {}, "latents are torch.int64: expected a float dtype"),
    (torch.zeros(1, 3, 2, 4, 4), {"num_frames": 6}, "num_frames=6: 2 latent frames of tiny_kl give 5 frames"),
    (torch.zeros(1, 3, 2, 4, 4), {"num_frames": 0}, "num_frames=0: .* expected 1 to 5"),
]
REFUSED_TOKENS = [
    (torch.zeros(2, 4, 4, dtype=torch.int64), r"tokens have shape \(2, 4, 4\): expected \(B, T, H, W\)"),
    (torch.zeros(1, 2, 4, 4), "tokens are torch.float32: expected integers"),
    (torch.zeros(1, 2, 4, 4, dtype=torch.bool), "tokens are torch.bool: expected integers"),
    (torch.full((1, 2, 4, 4), 512), "tokens lie between 512 and 512: tiny_fsq has tokens from 0 to 511"),
    (torch.full((1, 2, 4, 4), -1), "tokens lie between -1 and -1: tiny_fsq has tokens from 0 to 511"),
]


@pytest.fixture(autouse=True)
def _inference(request):
    with torch.inference_mode("gradient" not in request.node.name):
        yield


def random_clips(*shape: int, seed: int = 0) -> torch.Tensor:
    """Uniform noise in [-1, 1]."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize(("clips", "message"), REFUSED_CLIPS)
def test_refused_clips(clips, message):
    with pytest.raises(ValueError, match=message):
        tiny_tokenizer(TINY_KL).encode(clips)


@pytest.mark.parametrize(("latents", "options", "message"), REFUSED_LATENTS)
def test_refused_latents(latents, options, message):
    with pytest.raises(ValueError, match=message):
        tiny_tokenizer(TINY_KL).decode(latents, **options)


@pytest.mark.parametrize(("tokens", "message"), REFUSED_TOKENS)
def test_refused_tokens(tokens, message):
    with pytest.raises(ValueError, match=message):
        tiny_tokenizer(TINY_FSQ).decode_tokens(tokens)


def test_what_a_kind_of_model_lacks():
    with pytest.raises(ValueError, match="tiny_kl is a KL model and has no tokens"):
        tiny_tokenizer(TINY_KL).decode_tokens(torch.zeros(1, 2, 4, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="sample=True: tiny_fsq is an FSQ model"):
        tiny_tokenizer(TINY_FSQ).encode(torch.zeros(1, 3, 5, 8, 8), sample=True)


@pytest.mark.parametrize("config", [TINY_KL, TINY_FSQ, TINY_KL_V1_1], ids=lambda config: config.name)
def test_an_image_is_a_clip_of_one_frame(config):
    tokenizer = tiny_tokenizer(config)
    encoded = tokenizer.encode(random_clips(2, 3, 1, 8, 10))
    assert encoded.latents.shape == (2, 3, 1, 4, 5)
    assert tokenizer.decode(encoded.latents, num_frames=1).shape == (2, 3, 1, 8, 10)
    assert tokenizer.decode(encoded.latents).shape[2] == (4 if config.version == "1.1" else 1)


@pytest.mark.parametrize("name", ["vidtok_kl_causal_488_4chn", "vidtok_kl_causal_488_4chn_v1_1"])
def test_a_still_clip_begins_like_its_image(name):
    tokenizer = golden_tokenizer(name)
    image = random_clips(1, 3, 1, 16, 16)
    still = tokenizer.encode(image.expand(-1, -1, 9, -1, -1)).mean
    torch.testing.assert_close(tokenizer.encode(image).mean, still[:, :, :1], atol=1e-5, rtol=0)
    if tokenizer.config.version == "1.1":  # which knows no edge in time
        torch.testing.assert_close(still[:, :, :1].expand_as(still), still, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_tokens_of_any_integer_dtype(dtype):
    tokenizer = tiny_tokenizer(TINY_FSQ)
    tokens = torch.arange(32, dtype=dtype).reshape(1, 2, 4, 4)
    assert torch.equal(tokenizer.decode_tokens(tokens), tokenizer.decode(tokenizer.tokens_to_latents(tokens.long())))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_clips_of_any_float_dtype(dtype):
    clips = random_clips(1, 3, 5, 8, 8).half()
    tokenizer = tiny_tokenizer(TINY_KL)
    assert torch.equal(tokenizer.encode(clips.to(dtype)).mean, tokenizer.encode(clips.float()).mean)


def test_the_last_frames_are_kept():
    tokenizer = tiny_tokenizer(TINY_KL_V1_1)
    latents = tokenizer.encode(random_clips(1, 3, 6, 8, 8)).latents
    assert torch.equal(tokenizer.decode(latents, num_frames=6), tokenizer.decode(latents)[:, :, -6:])


def test_the_clip_is_left_as_it_was():
    for config in (TINY_KL, TINY_KL_NONCAUSAL):
        clips = random_clips(1, 3, 8, 8, 8)
        before = clips.clone()
        latents = tiny_tokenizer(config).encode(clips).latents
        latents_before = latents.clone()
        tiny_tokenizer(config).decode(latents)
        assert torch.equal(clips, before)
        assert torch.equal(latents, latents_before)


@pytest.mark.parametrize("config", [TINY_KL, TINY_KL_V1_1], ids=lambda config: config.name)
def test_a_causal_model_knows_no_later_frame(config):
    tokenizer = tiny_tokenizer(config)
    clips = random_clips(1, 3, 13, 8, 8)
    changed = clips.clone()
    changed[:, :, 9:] = 0
    mean, mean_changed = tokenizer.encode(clips).mean, tokenizer.encode(changed).mean
    assert torch.equal(mean[:, :, :3], mean_changed[:, :, :3])
    assert not torch.allclose(mean[:, :, 3], mean_changed[:, :, 3], atol=1e-3)


@pytest.mark.parametrize("name", ["vidtok_kl_causal_488_4chn", "vidtok_fsq_causal_488_32768_v1_1"])
def test_a_row_of_a_batch_depends_on_no_other(name):
    tokenizer = golden_tokenizer(name)
    batch = random_clips(3, 3, 5, 16, 24)
    others = torch.cat([random_clips(1, 3, 5, 16, 24, seed=1), batch[1:2], torch.ones(1, 3, 5, 16, 24)])
    first, second = tokenizer.encode(batch), tokenizer.encode(others)
    assert torch.equal(first.latents[1], second.latents[1])
    assert not torch.equal(first.latents[0], second.latents[0])
    if first.mean is not None:
        assert torch.equal(first.mean[1], second.mean[1])
    assert torch.equal(tokenizer.decode(first.latents)[1], tokenizer.decode(second.latents)[1])


@pytest.mark.parametrize("config", [TINY_KL, TINY_KL_V1_1, TINY_KL_NONCAUSAL], ids=lambda config: config.name)
@pytest.mark.parametrize("network", [Encoder, Decoder])
def test_gradient_is_that_without_in_place_operations(network, config, monkeypatch):
    torch.manual_seed(0)
    model = network(config).double()
    channels = 3 if network is Encoder else config.latent_channels
    x_BTHWC = torch.randn(2, 4, 4, 4, channels, dtype=torch.float64, requires_grad=True)
    inputs = [x_BTHWC, *model.parameters()]

    def gradients():
        output = model(x_BTHWC)
        weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).reshape(output.shape)
        return output, *torch.autograd.grad((output * weights).sum(), inputs)

    in_place = gradients()
    for module in (blocks, networks):
        monkeypatch.setattr(module, "swish", lambda x: x * torch.sigmoid(x))
    monkeypatch.setattr(blocks, "add", lambda fresh, x: fresh + x)
    for got, expected in zip(in_place, gradients(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
        assert expected.isfinite().all()


def test_random_weights_follow_the_seed_alone():
    state = torch.random.get_rng_state()
    one, same, other = (random_tokenizer(TINY_KL, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one.state_dict()[key], value) for key, value in same.state_dict().items())
    assert not torch.equal(one.encoder.conv_in.conv.weight, other.encoder.conv_in.conv.weight)
    assert not one.training
    assert not any(parameter.requires_grad for parameter in one.parameters())
    with pytest.raises(ValueError, match="unknown model 'vidtok_kl'"):
        random_tokenizer("vidtok_kl", seed=0)


@pytest.mark.parametrize(
    ("kernel", "reference"), [((3, 3), nn.Conv2d), ((3,), nn.Conv1d), ((3, 3, 3), nn.Conv3d), ((1, 1), nn.Conv2d)]
)
def test_initial_weights_are_pytorchs(kernel, reference):
    torch.manual_seed(0)
    ours = Conv(6, 5, kernel)
    torch.manual_seed(0)
    theirs = reference(6, 5, kernel)
    for name in ("weight", "bias"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name))


def test_other_initial_weights():
    state = VideoTokenizer(TINY_KL).state_dict()
    mixes = [value for key, value in state.items() if key.endswith("mix_factor")]
    assert len(mixes) == 4 and all(value.tolist() == [2.0] for value in mixes)
    zero = {key for key, value in state.items() if not key.endswith("norm.bias") and not value.any()}
    assert zero == {key for key in state if "_temporal." in key and ".conv2." in key}


def test_works_without_the_pipelines_packages():
    program = """
import sys
for name in ("ray", "av", "pyarrow", "fsspec", "pydantic", "webdataset", "pipeline", "jobs"):
    sys.modules[name] = None
import torch
from vidtok_model import get_config, random_tokenizer
tokenizer = random_tokenizer(get_config("vidtok_fsq_causal_488_4096").replace(base_channels=8), seed=0)
encoded = tokenizer.encode(torch.zeros(1, 3, 5, 16, 16))
print(tuple(encoded.tokens.shape), tuple(tokenizer.decode_tokens(encoded.tokens).shape))
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 2, 2, 2) (1, 3, 5, 16, 16)"
