"""There and back: what comes out belongs to what went in, whatever the length."""

import pytest
import torch

from tests.support import ROOT
from tests.vidtok_model.support import TINY_FSQ, TINY_KL, TINY_KL_NONCAUSAL, TINY_KL_V1_1, assert_close, tiny_tokenizer
from vidtok_model.golden import golden_clip
from vidtok_model.models import MODELS
from vidtok_model.published import PUBLISHED_QUALITY
from vidtok_model.round_trip import chunk_frames, round_trip


def through(config, length, **options):
    """The clip, and the pairs that come of it."""
    clip = golden_clip("round trip", (1, 3, length, 8, 8))
    pairs = list(round_trip(iter(clip.split(chunk_frames(config), dim=2)), tiny_tokenizer(config), **options))
    return clip, pairs


@pytest.mark.parametrize("config", [TINY_KL, TINY_FSQ, TINY_KL_NONCAUSAL], ids=lambda config: config.name)
@pytest.mark.parametrize("length", [1, 16, 17, 20, 34, 35])
def test_clips_by_themselves(config, length):
    clip, pairs = through(config, length)
    tokenizer, size = tiny_tokenizer(config), config.clip_frames
    assert len(pairs) == -(-length // size)
    for number, (given, decoded) in enumerate(pairs):
        own = clip[:, :, number * size : (number + 1) * size]
        assert given.shape == decoded.shape == (1, 3, size, 8, 8)
        assert torch.equal(given[:, :, : own.shape[2]], own)
        assert torch.equal(given[:, :, own.shape[2] :], own[:, :, -1:].expand(-1, -1, size - own.shape[2], -1, -1))
        with torch.no_grad():
            assert torch.equal(decoded, tokenizer.decode(tokenizer.encode(given).latents, size))


@pytest.mark.parametrize("length", [1, 2, 5, 16, 17, 18, 33, 50])
def test_a_stream(length):
    clip, pairs = through(TINY_KL_V1_1, length)
    assert torch.equal(torch.cat([given for given, _ in pairs], dim=2), clip)
    assert all(given.shape == decoded.shape for given, decoded in pairs)
    encoder, decoder = tiny_tokenizer(TINY_KL_V1_1).stream_encoder(), tiny_tokenizer(TINY_KL_V1_1).stream_decoder()
    encoded = [piece for piece in (encoder.push(clip), encoder.finish()) if piece is not None]
    decoded = [decoder.push(piece.latents) for piece in encoded] + [decoder.finish()]
    whole = torch.cat([piece for piece in decoded if piece is not None], dim=2)[:, :, :length]
    assert_close(torch.cat([decoded for _, decoded in pairs], dim=2), whole.numpy(), "frames")


@pytest.mark.parametrize("config", [TINY_KL, TINY_KL_V1_1], ids=lambda config: config.name)
def test_samples_come_from_the_generator(config):
    first, again, other = (
        torch.cat([decoded for _, decoded in through(config, 20, sample=True, generator=generator)[1]], dim=2)
        for generator in (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_what_is_published():
    """Of every released model but two."""
    assert set(MODELS) - set(PUBLISHED_QUALITY) == {
        "vidtok_fsq_causal_41616_262144_v1_1",
        "vidtok_kl_causal_488_4chn_v1_1",
    }
    assert set(PUBLISHED_QUALITY) < set(MODELS)


def test_the_readme_has_what_is_published():
    text = (ROOT / "vidtok_model" / "README.md").read_text()
    for name, quality in PUBLISHED_QUALITY.items():
        row = f"| {name} | {quality.psnr:.2f} | {quality.ssim:.3f} | {quality.lpips:.3f} | {quality.fvd:.1f} |"
        assert row in text


def test_the_readmes_stream_runs():
    """The code that it shows, on a small model."""
    text = (ROOT / "vidtok_model" / "README.md").read_text()
    code = text.partition("## Long videos")[2].partition("`state_dict()`")[0]
    lines = [line[4:] for line in code.splitlines() if line.startswith("    ")]
    clip = golden_clip("readme", (1, 3, 11, 8, 8))
    names = {"tokenizer": tiny_tokenizer(TINY_KL_V1_1), "chunks": clip.split(3, dim=2)}
    exec("\n".join(lines), names)
    assert sum(piece.shape[2] for piece in names["decoded"] if piece is not None) == 13
