"""Where a job's weights come from: a checkpoint from any store, as a local file with its sha256."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.config import RANDOM_CHECKPOINT, ModelConfig
from pipeline.errors import ConfigError
from pipeline.secrets import redact_url, storable
from pipeline.storage import absolute_url, open_store
from vidtok_model import TokenizerConfig, VideoTokenizer, load_tokenizer, random_tokenizer

__all__ = ["Weights", "load_weights", "locate_weights"]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a job's weights are; enters the fingerprint by `identity`.

    Attributes:
        checkpoint: URL or absolute path, without secrets, or `random`.
        identity: sha256 of the file, or the seed of random weights.
        seed: of random weights.
    """

    checkpoint: str
    identity: str
    seed: int = 0

    @property
    def is_random(self) -> bool:
        """Whether they mean nothing."""
        return self.checkpoint == RANDOM_CHECKPOINT


def locate_weights(model: ModelConfig, options: Mapping[str, Any] | None = None) -> Weights:
    """Finds a job's weights and reads them once, to know which they are.

    Raises:
        ConfigError: there is no such checkpoint.
        StorageError: the store failed.
    """
    assert model.checkpoint is not None, "ModelConfig requires it"
    if model.checkpoint == RANDOM_CHECKPOINT:
        return Weights(checkpoint=RANDOM_CHECKPOINT, identity=f"seed {model.seed}", seed=model.seed)
    url = absolute_url(model.checkpoint)
    return Weights(checkpoint=storable(url), identity=_sha256(_local_file(url, options)))


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
        options: how to reach the checkpoint's store.

    Raises:
        ConfigError: the checkpoint is gone, does not fit the model, or is not the one that `weights` names.
    """
    if weights.is_random:
        return random_tokenizer(config, seed=weights.seed).to(device=device, dtype=dtype)
    url = absolute_url(checkpoint or weights.checkpoint)
    path = _local_file(url, options)
    found = _sha256(path)
    if found != weights.identity:
        raise ConfigError(f"model.checkpoint: {redact_url(url)} has sha256 {found}, expected {weights.identity}")
    try:
        return load_tokenizer(config, path, device=device, dtype=dtype)
    except ValueError as error:
        # The model names the file that it read; a person knows the place that it was fetched from.
        named = str(error) if str(path) == url else str(error).replace(str(path), f"{redact_url(url)} (here as {path})")
        raise ConfigError(f"model.checkpoint: {named}") from None


def _local_file(url: str, options: Mapping[str, Any] | None) -> Path:
    if "://" not in url:
        if not Path(url).is_file():
            raise ConfigError(f"model.checkpoint: {url}: there is no such file")
        return Path(url)
    path, question, query = url.partition("?")  # a presigned link's signature may hold slashes and dots
    folder, _, name = path.rpartition("/")
    store = open_store(folder, options)
    found = store.info(name + question + query)
    if found is None:
        raise ConfigError(f"model.checkpoint: {redact_url(url)}: there is no such object")
    # Named by what the store says of the content, so that a replaced checkpoint is fetched again.
    key = hashlib.sha256(f"{path} {found.size_bytes} {found.etag}".encode()).hexdigest()[:32]
    cached = _cache_folder() / f"{key}{Path(name).suffix}"
    if not cached.exists():
        _fetch(store.open(name + question + query), cached)
    return cached


def _cache_folder() -> Path:
    base = os.environ.get("VIDTOK_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "vidtok")
    return Path(base)


def _fetch(source: Any, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Several workers of a node may fetch at once: each into its own file, the last rename wins with equal bytes.
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file, source:
            while block := source.read(2**24):
                file.write(block)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
