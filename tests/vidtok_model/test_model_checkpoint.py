"""Checkpoints: the two formats, what is left out, and what is refused."""

import pytest
import torch

from tests.vidtok_model.support import TINY_FSQ, TINY_KL, lightning_checkpoint, save, tiny_tokenizer
from vidtok_model import CARRIED, MODELS, load_tokenizer, random_tokenizer, save_tokenizer

WEIGHT = "encoder.conv_in.conv.weight"


@pytest.fixture
def state():
    return {key: value.clone() for key, value in tiny_tokenizer(TINY_FSQ).state_dict().items()}


def test_every_format_gives_the_same_numbers(state, tmp_path):
    clips = torch.rand(1, 3, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = tiny_tokenizer(TINY_FSQ).encode(clips).tokens
    plain = save(state, tmp_path / "plain.ckpt")
    lightning = save(lightning_checkpoint(state), tmp_path / "lightning.ckpt")
    tensors = save({**state, "loss.logvar": torch.zeros(())}, tmp_path / "weights.safetensors")
    compiled = save(
        {key.replace("coder.", "coder._orig_mod.", 1): value for key, value in state.items()}, tmp_path / "c.ckpt"
    )
    for path in (plain, lightning, tensors, str(tensors), compiled):
        tokenizer = load_tokenizer(TINY_FSQ, path)
        assert not tokenizer.training
        assert not any(parameter.requires_grad or parameter.is_meta for parameter in tokenizer.parameters())
        assert {parameter.dtype for parameter in tokenizer.parameters()} == {torch.float32}
        loaded = tokenizer.state_dict()
        assert loaded.keys() == state.keys()
        assert all(torch.equal(loaded[key], value) for key, value in state.items())
        encoded = tokenizer.encode(clips)
        assert torch.equal(encoded.tokens, expected)
        assert torch.equal(tokenizer.tokens_to_latents(expected), encoded.latents)


def test_a_released_models_name_asks_for_its_width(state, tmp_path):
    path = save(state, tmp_path / "weights.safetensors")
    message = "doesn't fit vidtok_fsq_causal_488_4096: of 416 weights, .* expected float 128x3x3x3x3"
    with pytest.raises(ValueError, match=message):
        load_tokenizer("vidtok_fsq_causal_488_4096", path)


def test_half_precision_files_and_models(state, tmp_path):
    path = save({key: value.half() for key, value in state.items()}, tmp_path / "half.safetensors")
    assert {parameter.dtype for parameter in load_tokenizer(TINY_FSQ, path).parameters()} == {torch.float32}
    for dtype in (torch.bfloat16, torch.float16):
        tokenizer = load_tokenizer(TINY_FSQ, path, dtype=dtype)
        full = {name for name, parameter in tokenizer.named_parameters() if parameter.dtype != dtype}
        # The ends, and what is no convolution.
        assert {name for name in full if "conv" in name} == {
            f"{half}.{end}.conv.{kind}"
            for half in ("encoder", "decoder")
            for end in ("conv_in", "conv_out")
            for kind in ("weight", "bias")
        }
        assert all("norm" in name or "mix_factor" in name for name in full if "conv" not in name)
    with pytest.raises(ValueError, match=r"dtype=torch\.int8: expected float32, bfloat16 or float16"):
        load_tokenizer(TINY_FSQ, path, dtype=torch.int8)


def test_a_decoder_that_is_not_needed_is_left_in_the_file(state, tmp_path):
    path = save(state, tmp_path / "weights.safetensors")
    whole, half = load_tokenizer(TINY_FSQ, path), load_tokenizer(TINY_FSQ, path, has_decoder=False)
    assert list(half.state_dict()) == [name for name in whole.state_dict() if name.startswith("encoder.")]
    clips = torch.linspace(-1, 1, 3 * 5 * 16 * 16).view(1, 3, 5, 16, 16)
    tokens = half.encode(clips).tokens
    assert torch.equal(tokens, whole.encode(clips).tokens)
    for use in (half.decode_tokens, lambda _: half.stream_decoder(), lambda _: save_tokenizer(half, path)):
        with pytest.raises(ValueError, match="is here without its decoder"):
            use(tokens)


def test_torchs_random_numbers_are_left_alone(state, tmp_path):
    path = save(state, tmp_path / "weights.safetensors")
    before = torch.random.get_rng_state()
    load_tokenizer(TINY_FSQ, path)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_all_that_is_wrong_is_listed_at_once(state, tmp_path):
    dropped = [key for key in state if key.startswith("decoder.up.1.block.")]
    for key in dropped:
        del state[key]
    state["encoder.surprise"] = torch.zeros(1)
    state["regularization.codebook"] = torch.zeros(1)
    state["encoder.conv_in.conv.bias"] = torch.zeros(5)
    state[WEIGHT] = torch.zeros(state[WEIGHT].shape, dtype=torch.int64)
    state["encoder.mid.attn_1.q.conv.bias"] = "a string"
    with pytest.raises(ValueError) as caught:
        load_tokenizer(TINY_FSQ, save({"state_dict": state}, tmp_path / "wrong.ckpt"))
    message = str(caught.value)
    assert "wrong.ckpt doesn't fit tiny_fsq" in message
    assert f"{len(dropped)} missing (" in message
    assert dropped[0] in message and f"and {len(dropped) - 5} more" in message
    assert "2 not of this model (encoder.surprise, regularization.codebook)" in message
    assert "3 of another shape or type (" in message
    assert "encoder.conv_in.conv.bias is float 5, expected float 4" in message
    assert f"{WEIGHT} is int64 4x3x3x3x3, expected float 4x3x3x3x3" in message
    assert "encoder.mid.attn_1.q.conv.bias is a str" in message


@pytest.mark.parametrize(
    ("spoil", "said"), [(lambda weight: weight.to("meta"), "without values"), (torch.Tensor.to_sparse, "sparse_coo")]
)
def test_weights_without_values(state, tmp_path, spoil, said):
    state[WEIGHT] = spoil(state[WEIGHT])
    with pytest.raises(ValueError, match=rf"{WEIGHT} is a tensor .*{said}"):
        load_tokenizer(TINY_FSQ, save({"state_dict": state}, tmp_path / "odd.ckpt"))


def test_another_kind_of_model_doesnt_fit(state, tmp_path):
    with pytest.raises(ValueError, match=r"conv_out\.conv\.weight is float 3x8x3x3x3, expected float 6x8x3x3x3"):
        load_tokenizer(TINY_KL, save(state, tmp_path / "weights.safetensors"))


def test_the_model_that_would_fit_is_named(tmp_path):
    """At the width that was asked for; models of one shape are told together."""
    narrow = {name: config.replace(base_channels=8) for name, config in MODELS.items()}
    asked = narrow["vidtok_fsq_causal_41616_262144"]
    endings = {
        "vidtok_kl_causal_488_8chn": "; it holds the weights of vidtok_kl_causal_488_8chn",
        "vidtok_kl_causal_488_4chn_v1_1": "; it holds the weights of vidtok_kl_causal_488_4chn or "
        "vidtok_kl_causal_488_4chn_v1_1, whose names and shapes are the same",
    }
    for name, ending in endings.items():
        weights = random_tokenizer(narrow[name], seed=0).state_dict()
        with pytest.raises(ValueError) as caught:
            load_tokenizer(asked, save(weights, tmp_path / "weights.ckpt"))
        assert str(caught.value).endswith(ending)
    del weights[WEIGHT]  # then it fits none
    with pytest.raises(ValueError, match=r"of another shape or type \([^;]*\)$"):
        load_tokenizer(asked, save(weights, tmp_path / "weights.ckpt"))


def test_no_checkpoint():
    (name, config), *_ = CARRIED.items()
    for asked in (name, config):
        assert load_tokenizer(asked).config == config
    with pytest.raises(ValueError, match=f"is of {name}, not of {name}: its base_channels"):
        load_tokenizer(config.replace(base_channels=8))
    with pytest.raises(ValueError, match="no weights are carried for vidtok_kl_causal_488_4chn: give the path of a"):
        load_tokenizer("vidtok_kl_causal_488_4chn")
    with pytest.raises(ValueError, match="no weights are carried for any model: give the path of a"):
        load_tokenizer(None)
    with pytest.raises(ValueError, match="unknown model 'vidtok_kl_causal_488': did you mean"):
        load_tokenizer("vidtok_kl_causal_488", "weights.ckpt")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.ckpt", r"nothing\.ckpt: there is no such file"),
        ("nothing.safetensors", r"nothing\.safetensors: there is no such file"),
        ("folder.ckpt", r"folder\.ckpt: there is no such file"),
        ("weights.bin", r"weights\.bin ends in '\.bin': expected \.safetensors or \.ckpt"),
        ("weights", "weights ends in '': expected"),
        ("text.safetensors", r"text\.safetensors can't be read as safetensors: "),
        ("empty.safetensors", r"empty\.safetensors can't be read as safetensors: "),
        ("text.ckpt", r"text\.ckpt (is refused|can't be read)"),
        ("empty.ckpt", r"empty\.ckpt can't be read as a torch file"),
        ("cut.ckpt", r"cut\.ckpt can't be read as a torch file"),
        ("tensor.ckpt", r"tensor\.ckpt holds a Tensor: expected weights by name"),
    ],
)
def test_refused_files(name, message, state, tmp_path):
    (tmp_path / "folder.ckpt").mkdir()
    for text in ("text.safetensors", "text.ckpt", "weights.bin", "weights"):
        (tmp_path / text).write_text("These are not weights.")
    for empty in ("empty.safetensors", "empty.ckpt"):
        (tmp_path / empty).touch()
    whole = save(state, tmp_path / "whole.ckpt").read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: len(whole) // 2])
    save(torch.zeros(3), tmp_path / "tensor.ckpt")
    with pytest.raises(ValueError, match=message):
        load_tokenizer(MODELS["vidtok_fsq_causal_488_4096"], tmp_path / name)
