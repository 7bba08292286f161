"""Configurations: the family as data, what lengths and sizes it takes, and what is refused."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import vidtok_model
from tests.vidtok_model.support import MANIFEST, TINY_KL
from vidtok_model import MODELS, TokenizerConfig, get_config

LENGTHS = [
    # model, frames of the clip, latent frames, frames that the decoder gives
    ("vidtok_kl_causal_488_4chn", 1, 1, 1),
    ("vidtok_kl_causal_488_4chn", 17, 5, 17),
    ("vidtok_kl_causal_488_4chn", 16, 4, 13),
    ("vidtok_kl_causal_288_8chn", 1, 1, 1),
    ("vidtok_kl_causal_288_8chn", 6, 3, 5),
    ("vidtok_kl_causal_288_8chn", 7, 4, 7),
    ("vidtok_kl_noncausal_488_4chn", 16, 4, 16),
    ("vidtok_kl_causal_488_4chn_v1_1", 1, 1, 4),
    ("vidtok_kl_causal_488_4chn_v1_1", 16, 4, 16),
    ("vidtok_kl_causal_488_4chn_v1_1", 18, 5, 20),
    ("vidtok_fsq_causal_888_32768_v1_1", 33, 5, 40),
]
REFUSED_LENGTHS = [
    ("vidtok_kl_causal_488_4chn", 18, r"num_frames=18: vidtok_kl_causal_488_4chn takes k\*4 \+ 1 frames \(1, 5, 9, "),
    ("vidtok_kl_causal_488_4chn", 3, r"num_frames=3: .* or a positive multiple of 4"),
    ("vidtok_kl_causal_488_4chn", 0, "num_frames=0: "),
    ("vidtok_kl_causal_488_4chn", -4, "num_frames=-4: "),
    ("vidtok_kl_causal_488_4chn", 17.0, r"num_frames=17\.0: "),
    ("vidtok_kl_noncausal_488_4chn", 17, "num_frames=17: vidtok_kl_noncausal_488_4chn takes a positive multiple of 4"),
    ("vidtok_kl_noncausal_488_4chn", 1, "num_frames=1: "),
    ("vidtok_kl_causal_488_4chn_v1_1", 0, "num_frames=0: .* takes any number from 1"),
]
REFUSED_FIELDS = [
    ({"name": ""}, "name='': expected a non-empty string"),
    ({"is_causal": 1}, "is_causal=1: expected true or false"),
    ({"version": "2.0"}, "version='2.0': expected one of '1.0', '1.1'"),
    ({"version": "1.1", "is_causal": False}, "only causal models exist in version 1.1"),
    ({"base_channels": 0}, "base_channels holds 0: expected an integer of at least 1"),
    ({"base_channels": True}, "base_channels holds True"),
    ({"base_channels": "128"}, "base_channels holds '128'"),
    ({"latent_channels": 4.0}, r"latent_channels holds 4\.0"),
    ({"channel_multipliers": ()}, "expected at least one level"),
    ({"channel_multipliers": 4}, "channel_multipliers=4: expected a list of integers"),
    ({"spatial_down_levels": (0, 2)}, r"spatial_down_levels=\(0, 2\): expected rising levels between 0 and 1"),
    ({"temporal_up_levels": (1, 0)}, r"temporal_up_levels=\(1, 0\): expected rising levels"),
    ({"temporal_up_levels": (1, 1)}, "expected rising levels"),
    ({"temporal_up_levels": (1,)}, "expected as many levels that halve as levels that double"),
    ({"fsq_levels": (8, 8)}, "has 2 entries: expected one for each of the 3 latent channels"),
    ({"fsq_levels": (8, 8, 1)}, "fsq_levels holds 1: expected an integer of at least 2"),
    ({"widht": 3}, "unknown configuration field widht; the fields are base_channels, "),
]


def test_public_names():
    assert sorted(vidtok_model.__all__) == [
        "CARRIED",
        "Encoded",
        "MODELS",
        "StreamDecoder",
        "StreamEncoder",
        "TokenizerConfig",
        "VideoTokenizer",
        "carried_weights",
        "get_config",
        "load_tokenizer",
        "random_tokenizer",
        "read_config",
        "save_tokenizer",
    ]
    assert all(hasattr(vidtok_model, name) for name in vidtok_model.__all__)


@pytest.mark.parametrize("name", MODELS)
def test_released_model_agrees_with_the_published_fields(name):
    config, published = MODELS[name], MANIFEST[name]["encoder"]
    assert config.name == name
    assert config.base_channels == 128
    assert list(config.channel_multipliers) == published["ch_mult"]
    assert config.blocks_per_level == published["num_res_blocks"]
    assert config.latent_channels == published["z_channels"]
    assert config.time_factor == published["time_downsample_factor"]
    assert config.is_discrete is not published["double_z"]
    assert list(config.fsq_levels) == (MANIFEST[name]["levels"] or [])
    assert config.version == ("1.1" if "interpolation_mode" in published else "1.0")
    assert config.is_causal is ("init_pad_mode" in published)
    for field, key in (
        ("temporal_down_levels", "tempo_ds"),
        ("temporal_up_levels", "tempo_us"),
        ("spatial_down_levels", "spatial_ds"),
        ("spatial_up_levels", "spatial_us"),
    ):
        if key in published:
            assert list(getattr(config, field)) == published[key]


@pytest.mark.parametrize("name", MODELS)
def test_name_says_what_the_model_is(name):
    config = MODELS[name]
    _, _, _, geometry, size, *_ = name.split("_")
    time, space = {"41616": (4, 16)}.get(geometry, (int(geometry[0]), int(geometry[1])))
    assert (config.time_factor, config.spatial_factor) == (time, space)
    assert size == (str(config.codebook_size) if config.is_discrete else f"{config.latent_channels}chn")
    assert (config.codebook_size is None) is not config.is_discrete
    assert config.clip_frames == (33 if name.endswith("v1_1") else 16 if "noncausal" in name else 17)
    assert config.latent_frames(config.clip_frames) == -(-config.clip_frames // time)


@pytest.mark.parametrize(("name", "frames", "latent_frames", "decoded_frames"), LENGTHS)
def test_lengths(name, frames, latent_frames, decoded_frames):
    assert MODELS[name].latent_frames(frames) == latent_frames
    assert MODELS[name].decoded_frames(latent_frames) == decoded_frames


@pytest.mark.parametrize(("name", "frames", "message"), REFUSED_LENGTHS)
def test_refused_lengths(name, frames, message):
    with pytest.raises(ValueError, match=message):
        MODELS[name].latent_frames(frames)


@given(st.sampled_from(sorted(MODELS)), st.integers(min_value=1, max_value=500))
def test_a_length_of_k_times_the_factor_plus_one_comes_back_whole(name, k):
    config = MODELS[name]
    frames = k * config.time_factor + config.is_causal
    latent_frames = config.latent_frames(frames)
    assert latent_frames == k + config.is_causal
    spare = config.decoded_frames(latent_frames) - frames
    assert spare == (config.time_factor - 1 if config.version == "1.1" else 0)


@pytest.mark.parametrize(("height", "width"), [(36, 32), (32, 36), (0, 32), (32, -8)])
def test_refused_frame_sizes(height, width):
    message = f"frame size {height}x{width} .*: vidtok_kl_causal_488_4chn takes positive multiples of 8 in both"
    with pytest.raises(ValueError, match=message):
        MODELS["vidtok_kl_causal_488_4chn"].check_frame_size(height, width)


def test_latent_shape():
    assert MODELS["vidtok_fsq_causal_41616_262144"].latent_shape(17, 64, 128) == (6, 5, 4, 8)
    with pytest.raises(ValueError, match="num_frames=18"):
        MODELS["vidtok_fsq_causal_41616_262144"].latent_shape(18, 64, 128)


@pytest.mark.parametrize(("changes", "message"), REFUSED_FIELDS)
def test_refused_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        TINY_KL.replace(**changes)
    with pytest.raises(ValueError, match=message):
        TokenizerConfig.from_dict({**TINY_KL.to_dict(), **changes})


def test_a_lacking_field_is_named():
    with pytest.raises(ValueError, match="lacks name, latent_channels"):
        TokenizerConfig.from_dict({})


@pytest.mark.parametrize("name", MODELS)
def test_a_configuration_survives_json(name):
    config = MODELS[name].replace(base_channels=32)
    restored = TokenizerConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert restored == config
    assert hash(restored) == hash(config)


def test_nothing_changes_a_released_model():
    config = get_config("vidtok_kl_causal_488_4chn")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.base_channels = 16
    with pytest.raises(TypeError):
        MODELS["mine"] = config
    with pytest.raises(TypeError):
        TokenizerConfig("positional", 4)


def test_an_unknown_model_gets_the_near_names():
    message = "unknown model 'vidtok_fsq_causal_488_32678': did you mean .*vidtok_fsq_causal_488_32768"
    with pytest.raises(ValueError, match=message):
        get_config("vidtok_fsq_causal_488_32678")
    with pytest.raises(ValueError, match="unknown model '42': the models are vidtok_kl_causal_488_4chn, "):
        get_config("42")
