"""Where a job's weights lie: a checkpoint in any store, as a local file with its sha256."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from pipeline.errors import ConfigError
from pipeline.model_config import CARRIED_CHECKPOINTS, RANDOM_CHECKPOINT, ModelConfig
from pipeline.secrets import redact_url, storable
from pipeline.storage import absolute_url, open_store
from vidtok_model import carried_weights

__all__ = ["Weights", "keep_compiled", "local_file", "locate_weights", "name_source", "sha256_of"]


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
    assert model.checkpoint is not None, "JobConfig requires it"
    if model.checkpoint == RANDOM_CHECKPOINT:
        return Weights(checkpoint=RANDOM_CHECKPOINT, identity=f"seed {model.seed}", seed=model.seed)
    url = absolute_url(model.checkpoint)
    _, sha256 = local_file(url, options)
    return Weights(checkpoint=storable(url), identity=sha256)


def local_file(
    url: str, options: Mapping[str, Any] | None, *, sha256: str | None = None, key: str = "model.checkpoint"
) -> tuple[Path, str]:
    """A checkpoint as a file of this machine, and the sha256 of what is in it.

    What lies in a store is fetched once into a cache, whose files are named by their sha256. One that no longer is what
    its name says is fetched anew.

    Args:
        url: an absolute path, a URL, or carried:// and the name of a model whose weights the package carries.
        options: how to reach its store.
        sha256: what is wanted, where that is known: the cache is then looked into before the store is asked. What is
            found may be another all the same.
        key: what an error calls it.

    Raises:
        ConfigError: there is no such checkpoint.
        StorageError: the store failed.
    """
    if url.startswith(CARRIED_CHECKPOINTS):
        try:
            path = carried_weights(url.removeprefix(CARRIED_CHECKPOINTS))
        except ValueError as error:
            raise ConfigError(f"{key}: {error}") from None
        return path, sha256_of(path)
    if "://" not in url:
        if not Path(url).is_file():
            raise ConfigError(f"{key}: {url}: there is no such file")
        return Path(url), sha256_of(Path(url))
    place, question, query = url.partition("?")  # a presigned link's signature may hold slashes and dots
    folder, _, name = place.rpartition("/")
    suffix = Path(name).suffix
    if sha256 is not None and (cached := _cached(sha256, suffix)):
        return cached, sha256
    store = open_store(folder, options)
    found = store.info(name + question + query)
    if found is None:
        # The Hub says so of a private one, too.
        hint = " (where it is private, a token goes into HF_TOKEN)" if url.startswith("hf://") else ""
        raise ConfigError(f"{key}: {redact_url(url)}: there is no such object{hint}")
    # Named by what the store says of the content, so that a replaced checkpoint is fetched again.
    said = hashlib.sha256(f"{place} {found.size_bytes} {found.etag}".encode()).hexdigest()[:32]
    reference = _cache_folder() / "refs" / said
    reference.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(_cache_folder() / ".lock"):  # all workers of a node begin at once, and one of them fetches
        known = reference.read_text(errors="replace") if reference.is_file() else ""
        cached = _cached(known, suffix)
        if cached is None:
            known, cached = _fetch(store.open(name + question + query), suffix)
            reference.write_text(known)  # one that is cut off names nothing in the cache
    return cached, known


def keep_compiled() -> None:
    """Has torch.compile keep its kernels beside the weights, for all workers of a node and later runs.

    Where TORCHINDUCTOR_CACHE_DIR says another folder, it is that.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(_cache_folder() / "compiled"))
    os.environ.setdefault("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")


def name_source(error: ValueError, path: Path, url: str) -> str:
    """What the model said of the file that it read, with the place that a person knows it by."""
    return str(error) if str(path) == url else str(error).replace(str(path), f"{redact_url(url)} (here as {path})")


def _cache_folder() -> Path:
    base = os.environ.get("VIDTOK_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "vidtok")
    return Path(base)


def _cached(sha256: str, suffix: str) -> Path | None:
    path = _cache_folder() / f"{sha256}{suffix}"
    return path if path.is_file() and sha256_of(path) == sha256 else None


def _fetch(source: Any, suffix: str) -> tuple[str, Path]:
    """Writes what can be read into the cache, and says under which sha256."""
    digest = hashlib.sha256()
    descriptor, name = tempfile.mkstemp(dir=_cache_folder())
    try:
        with os.fdopen(descriptor, "wb") as file, source:
            while block := source.read(2**24):
                digest.update(block)
                file.write(block)
        target = _cache_folder() / f"{digest.hexdigest()}{suffix}"
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return digest.hexdigest(), target


def sha256_of(path: Path) -> str:
    """A file's sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
