"""A job's weights, loaded. What only has to know which they are needs no PyTorch, and takes checkpoints.py."""

from collections.abc import Mapping
from typing import Any

import torch

from pipeline.checkpoints import Weights, local_file, name_source
from pipeline.config import JobConfig
from pipeline.errors import ConfigError
from pipeline.secrets import redact_url
from pipeline.storage import absolute_url
from vidtok_model import TokenizerConfig, VideoTokenizer, load_tokenizer, random_tokenizer

__all__ = ["check_fit", "load_weights"]


def load_weights(
    config: TokenizerConfig,
    weights: Weights,
    *,
    checkpoint: str | None = None,
    device: str,
    dtype: torch.dtype,
    options: Mapping[str, Any] | None = None,
) -> VideoTokenizer:
    """The tokenizer with given weights, to encode or decode with.

    Args:
        config: the model.
        weights: which weights.
        checkpoint: where they lie now; by default, where they were found.
        device: a torch device.
        dtype: of weights and activations.
        options: how to reach the checkpoint's store, which is not asked where the cache holds these weights.

    Raises:
        ConfigError: the checkpoint is gone, does not fit the model, or is not the one that `weights` names.
    """
    if weights.is_random:
        return random_tokenizer(config, seed=weights.seed).to(device=device, dtype=dtype)
    url = absolute_url(checkpoint or weights.checkpoint)
    path, found = local_file(url, options, sha256=weights.identity)
    if found != weights.identity:
        raise ConfigError(f"model.checkpoint: {redact_url(url)} has sha256 {found}, expected {weights.identity}")
    try:
        return load_tokenizer(config, path, device=device, dtype=dtype)
    except ValueError as error:
        raise ConfigError(f"model.checkpoint: {name_source(error, path, url)}") from None


def check_fit(config: JobConfig, weights: Weights) -> None:
    """Loads a job's weights, to see that they are those of its model; errors as of `load_weights`."""
    load_weights(
        config.model.tokenizer_config(),
        weights,
        checkpoint=config.model.checkpoint,
        device="cpu",
        dtype=torch.float32,
        options=config.storage.input.model_dump(),
    )
