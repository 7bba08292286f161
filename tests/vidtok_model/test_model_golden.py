"""Every released model gives the published code's numbers."""

import numpy as np
import pytest
import torch

from tests.vidtok_model.support import GOLDEN, MANIFEST, assert_close, golden_tokenizer
from vidtok_model import MODELS, Encoded
from vidtok_model.golden import golden_clip

# Clip shapes, and what follows the name in the clip's name.
EXTRA = {
    "vidtok_fsq_causal_488_4096": ((2, 3, 17, 32, 48), ":3"),
    "vidtok_kl_causal_488_8chn": ((1, 3, 16, 48, 32), ""),
    "vidtok_kl_noncausal_488_4chn": ((2, 3, 16, 32, 40), ""),
    "vidtok_kl_causal_288_8chn": ((1, 3, 1, 32, 32), ""),
}
STREAM = [name for name, config in MODELS.items() if config.version == "1.1"]


def check_encoding(encoded: Encoded, golden, name: str) -> None:
    """Compare all that the golden file has, and that what a kind of model lacks is None."""
    if MODELS[name].is_discrete:
        assert encoded.tokens.dtype == torch.int64
        assert np.array_equal(encoded.tokens.numpy(), golden["indices"])
        assert_close(encoded.latents, golden["latents"], "latents")
        assert encoded.mean is None and encoded.logvar is None
    else:
        assert_close(encoded.mean, golden["mean"], "mean")
        if "logvar" in golden:  # the stream files have none
            assert_close(encoded.logvar, golden["logvar"], "logvar")
        assert encoded.tokens is None
        assert torch.equal(encoded.latents, encoded.mean)
    assert all(
        value.is_contiguous() and value.dtype == torch.float32
        for value in (encoded.latents, encoded.mean, encoded.logvar)
        if value is not None
    )


def decode(tokenizer, encoded: Encoded, num_frames=None) -> torch.Tensor:
    """Decode from tokens where there are any."""
    if encoded.tokens is None:
        return tokenizer.decode(encoded.latents, num_frames)
    return tokenizer.decode_tokens(encoded.tokens.int(), num_frames)


@pytest.fixture(autouse=True)
def _inference():
    with torch.inference_mode():
        yield


def test_every_released_model_has_golden_numbers():
    assert sorted(MODELS) == sorted(MANIFEST) == sorted(path.stem for path in GOLDEN.glob("*.npz"))
    assert sorted(EXTRA) == sorted(path.stem for path in (GOLDEN / "extra").glob("*.npz"))
    assert sorted(STREAM) == sorted(path.stem for path in (GOLDEN / "stream").glob("*.npz"))


@pytest.mark.parametrize("name", MODELS)
def test_names_and_shapes_are_the_published_ones(name):
    state = golden_tokenizer(name).state_dict()
    assert {key: list(value.shape) for key, value in state.items()} == MANIFEST[name]["state"]


@pytest.mark.parametrize("name", MODELS)
def test_released_model(name):
    tokenizer, golden = golden_tokenizer(name), np.load(GOLDEN / f"{name}.npz")
    clip = golden_clip(MANIFEST[name]["input_name"], MANIFEST[name]["input"])
    encoded = tokenizer.encode(clip)
    check_encoding(encoded, golden, name)
    assert encoded.latents.shape[1:] == tokenizer.config.latent_shape(*clip.shape[2:])
    reconstruction = decode(tokenizer, encoded)
    assert reconstruction.shape[2] == tokenizer.config.decoded_frames(encoded.latents.shape[2])
    assert_close(reconstruction[..., ::2, ::2], golden["reconstruction"], "reconstruction")


@pytest.mark.parametrize("name", EXTRA)
def test_other_shapes(name):
    tokenizer, golden = golden_tokenizer(name), np.load(GOLDEN / "extra" / f"{name}.npz")
    shape, ending = EXTRA[name]
    encoded = tokenizer.encode(golden_clip(f"extra:{name}{ending}", shape))
    check_encoding(encoded, golden, name)
    assert_close(decode(tokenizer, encoded)[..., ::2, ::2], golden["reconstruction"], "reconstruction")


@pytest.mark.parametrize("name", STREAM)
def test_long_clip_at_once(name):
    tokenizer, golden = golden_tokenizer(name), np.load(GOLDEN / "stream" / f"{name}.npz")
    side = 64 if "41616" in name else 32
    clip = golden_clip(name + (":long1" if "888" in name else ":long"), (1, 3, 49, side, side))
    encoded = tokenizer.encode(clip)
    check_encoding(encoded, golden, name)
    reconstruction = decode(tokenizer, encoded, num_frames=49)
    assert_close(reconstruction[..., ::4, ::4], golden["reconstruction_whole"], "reconstruction")
