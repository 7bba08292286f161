"""The 23 released models, and the small ones that the package carries, by name."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vidtok_model.config import TokenizerConfig

# Compression in time, height and width -> the fields that bring it about, where they aren't the defaults (4x8x8).
_GEOMETRIES: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "488": {},
    "41616": {
        "channel_multipliers": (1, 2, 4, 4, 4),
        "spatial_down_levels": (0, 1, 2, 3),
        "temporal_down_levels": (2, 3),
        "spatial_up_levels": (1, 2, 3, 4),
    },
    "288": {"temporal_down_levels": (1,), "temporal_up_levels": (2,)},
    "444": {"spatial_down_levels": (1, 2), "spatial_up_levels": (1, 2)},
    "888": {"temporal_down_levels": (0, 1, 2), "temporal_up_levels": (1, 2, 3)},
}

# Family, geometry, then the sizes released as version 1.0 and as 1.1. A KL model's size is its latent channels, an FSQ
# model's its codebook; every channel of a codebook has 8 levels.
_RELEASES: tuple[tuple[str, str, tuple[int, ...], tuple[int, ...]], ...] = (
    ("kl_causal", "488", (4, 8, 16), (4, 16)),
    ("kl_causal", "41616", (4,), (16,)),
    ("kl_causal", "288", (8,), (8,)),
    ("kl_causal", "444", (4,), ()),
    ("kl_noncausal", "488", (4, 16), ()),
    ("kl_noncausal", "41616", (4, 16), ()),
    ("fsq_causal", "488", (262144, 32768, 4096), (32768,)),
    ("fsq_causal", "41616", (262144,), (262144,)),
    ("fsq_causal", "888", (), (32768,)),
    ("fsq_noncausal", "488", (262144,), ()),
    ("fsq_noncausal", "41616", (262144,), ()),
)
_LEVELS_PER_CHANNEL = 8


def _released_models() -> dict[str, TokenizerConfig]:
    models: dict[str, TokenizerConfig] = {}
    for family, geometry, *sizes_of_versions in _RELEASES:
        regularizer, _, causality = family.partition("_")
        for version, sizes in zip(("1.0", "1.1"), sizes_of_versions, strict=True):
            for size in sizes:
                discrete = regularizer == "fsq"
                # The number of base-8 digits of a token is the number of channels: 8**5 = 32768.
                channels = round(math.log(size, _LEVELS_PER_CHANNEL)) if discrete else size
                name = f"vidtok_{family}_{geometry}_{size}{'' if discrete else 'chn'}"
                name += "_v1_1" if version == "1.1" else ""
                models[name] = TokenizerConfig.from_dict(
                    {
                        "name": name,
                        "latent_channels": channels,
                        "is_causal": causality == "causal",
                        "version": version,
                        "fsq_levels": (_LEVELS_PER_CHANNEL,) * channels if discrete else (),
                        **_GEOMETRIES[geometry],
                    }
                )
    return models


MODELS: Mapping[str, TokenizerConfig] = MappingProxyType(_released_models())
"""The 23 released models by their published names."""


def _carried_models() -> dict[str, TokenizerConfig]:
    small = {"base_channels": 16, "channel_multipliers": (1, 1, 3, 4), "blocks_per_level": 1}
    kinds: dict[str, dict[str, Any]] = {
        "vidtok_tiny_kl_causal_488_16chn": {"latent_channels": 16},
        "vidtok_tiny_fsq_causal_488_1073741824": {
            "latent_channels": 10,
            "fsq_levels": (32, 16, 16, 8, 8, 8, 4, 4, 4, 4),
        },
    }
    return {name: TokenizerConfig.from_dict({**small, "name": name, **fields}) for name, fields in kinds.items()}


CARRIED: Mapping[str, TokenizerConfig] = MappingProxyType(_carried_models())
"""Small models whose weights the package carries, by name; `weights/README.md` is their card."""


def get_config(name: str) -> TokenizerConfig:
    """The released or carried model of that name.

    Raises:
        ValueError: If there is none; the message gives the names nearest to it.
    """
    models = {**MODELS, **CARRIED}
    if name in models:
        return models[name]
    near = difflib.get_close_matches(str(name), models, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"the models are {', '.join(models)}"
    raise ValueError(f"unknown model {name!r}: {hint}")


def carried_weights(name: str) -> Path:
    """The file of a carried model's weights.

    Raises:
        ValueError: If no weights of that name are carried.
    """
    if name not in CARRIED:
        raise ValueError(f"no weights are carried for {name}, only for {' and '.join(CARRIED)}")
    return Path(__file__).parent / "weights" / f"{name}.safetensors"
