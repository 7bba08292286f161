"""A job's weights, loaded. What only has to know which they are needs no PyTorch, and takes checkpoints.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.checkpoints import Weights, local_file, name_source
from pipeline.config import JobConfig
from pipeline.encode import TORCH_DTYPES, set_arithmetic
from pipeline.errors import ConfigError
from pipeline.model_config import CARRIED_CHECKPOINTS, RANDOM_CHECKPOINT
from pipeline.secrets import redact_url, storable
from pipeline.storage import absolute_url
from vidtok_model import (
    CARRIED,
    MODELS,
    TokenizerConfig,
    VideoTokenizer,
    get_config,
    load_tokenizer,
    random_tokenizer,
    read_config,
)

__all__ = ["check_device", "check_fit", "load_job_weights", "load_model", "load_weights", "said_model"]


def load_weights(
    config: TokenizerConfig,
    weights: Weights,
    *,
    checkpoint: str | None = None,
    device: str,
    dtype: torch.dtype,
    options: Mapping[str, Any] | None = None,
    key: str = "model.checkpoint",
    has_decoder: bool = True,
) -> VideoTokenizer:
    """The tokenizer with given weights, to encode or decode with.

    Args:
        config: the model.
        weights: which weights.
        checkpoint: where they lie now; by default, where they were found.
        device: a torch device.
        dtype: what it computes in.
        options: how to reach the checkpoint's store, which is not asked where the cache holds these weights.
        key: what the checkpoint is called where a person asked for it, for errors.
        has_decoder: whether it is to decode too.

    Raises:
        ConfigError: the checkpoint is gone, does not fit the model, or is not the one that `weights` names.
    """
    if weights.is_random:
        return random_tokenizer(config, seed=weights.seed, has_decoder=has_decoder).to(device).compute_in(dtype)
    url = absolute_url(checkpoint or weights.checkpoint)
    path, found = local_file(url, options, sha256=weights.identity, key=key)
    if found != weights.identity:
        raise ConfigError(f"{key}: {redact_url(url)} has sha256 {found}, expected {weights.identity}")
    try:
        return load_tokenizer(config, path, device=device, dtype=dtype, has_decoder=has_decoder)
    except ValueError as error:
        raise ConfigError(f"{key}: {name_source(error, path, url)}") from None


def load_job_weights(
    config: JobConfig, description: Mapping[str, Any], *, device: str, has_decoder: bool
) -> VideoTokenizer:
    """The tokenizer of a job in the job's dtype, with the weights that its plan found; errors as of `load_weights`.

    Args:
        config: the job.
        description: what dataset.json says, or will say.
        device: a torch device.
        has_decoder: whether it is to decode too.
    """
    set_arithmetic(config.model.dtype)  # before anything is computed
    model = description["model"]
    return load_weights(
        config.model.tokenizer_config(),
        Weights(checkpoint=model["checkpoint"], identity=model["weights"], seed=model["seed"]),
        checkpoint=config.model.checkpoint,
        device=device,
        dtype=TORCH_DTYPES[config.model.dtype],
        options=config.storage.input.model_dump(),
        has_decoder=has_decoder,
    )


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


def load_model(
    name: str | None,
    checkpoint: str | None,
    *,
    device: str,
    dtype: torch.dtype,
    options: Mapping[str, Any] | None = None,
) -> tuple[VideoTokenizer, Weights]:
    """A tokenizer to try out, and which weights it has.

    Args:
        name: a released model's; None: the one that the checkpoint's header says, or else its file name.
        checkpoint: a path or URL, or `random`, with which a name is needed; None: what the package carries of a model.
        device: a torch device.
        dtype: what it computes in.
        options: how to reach the checkpoint's store.

    Raises:
        ConfigError: there is no such device, model or checkpoint, nothing says which model it is, or it is another's.
        StorageError: the checkpoint's store failed.
    """
    check_device(device)
    if checkpoint is None:
        if name not in CARRIED:
            raise ConfigError(f"--checkpoint: {name or 'a model'} needs its weights: a path or URL of them")
        checkpoint = f"{CARRIED_CHECKPOINTS}{name}"
    try:
        if checkpoint == RANDOM_CHECKPOINT:
            if name is None:
                raise ConfigError("--checkpoint random: give --model (`vidtok models` lists them)")
            tokenizer = random_tokenizer(name, seed=0).to(device).compute_in(dtype)
            return tokenizer, Weights(checkpoint=RANDOM_CHECKPOINT, identity="seed 0")
        url = absolute_url(checkpoint)
        path, sha256 = local_file(url, options, key="--checkpoint")
        try:
            config = get_config(name) if name is not None else said_model(url, path)
            tokenizer = load_tokenizer(config, path, device=device, dtype=dtype)
        except ValueError as error:
            raise ConfigError(f"--checkpoint: {name_source(error, path, url)}") from None
        return tokenizer, Weights(checkpoint=storable(url), identity=sha256)
    except ValueError as error:
        raise ConfigError(f"--model: {error}") from None


def said_model(url: str, path: Path) -> TokenizerConfig:
    """The model that a checkpoint says it is of.

    Args:
        url: where it lies, which may name a released model.
        path: where it lies here; its header counts first.

    Raises:
        ConfigError: neither says it.
        ValueError: it cannot be read.
    """
    config = read_config(path)
    stem = Path(url.partition("?")[0]).stem
    if config is None and stem not in MODELS:
        raise ConfigError(
            f"{redact_url(url)} does not say which model it is of, and {stem} is no released model's name: give "
            "--model (`vidtok models` lists them)"
        )
    return config or MODELS[stem]


def check_device(device: str) -> None:
    """Raises a ConfigError unless PyTorch has such a device here."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {device}: {str(error).splitlines()[0]}") from None
