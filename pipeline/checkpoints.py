"""Where a job's weights lie: a checkpoint in any store, as a local file with its sha256."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.config import RANDOM_CHECKPOINT, ModelConfig
from pipeline.errors import ConfigError
from pipeline.secrets import redact_url, storable
from pipeline.storage import absolute_url, open_store

__all__ = ["Weights", "local_file", "locate_weights", "sha256_of"]


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
    return Weights(checkpoint=storable(url), identity=sha256_of(local_file(url, options)))


def local_file(url: str, options: Mapping[str, Any] | None) -> Path:
    """A checkpoint as a file of this machine, fetched once where it lies in a store; errors as of `locate_weights`."""
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
    cached.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(cached.parent / ".lock"):  # all workers of a node begin at once, and one of them fetches
        if not cached.exists():
            _fetch(store.open(name + question + query), cached)
    return cached


def _cache_folder() -> Path:
    base = os.environ.get("VIDTOK_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "vidtok")
    return Path(base)


def _fetch(source: Any, target: Path) -> None:
    descriptor, name = tempfile.mkstemp(dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file, source:
            while block := source.read(2**24):
                file.write(block)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def sha256_of(path: Path) -> str:
    """A file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
