"""A checkpoint from anywhere, as a `.safetensors` that says which model it is of."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.checkpoints import local_file, name_source
from pipeline.errors import ConfigError
from pipeline.storage import absolute_url
from pipeline.weights import said_model
from vidtok_model import TokenizerConfig, get_config
from vidtok_model.checkpoint import read_checkpoint
from vidtok_model.tensor_file import save_weights

__all__ = ["Conversion", "convert_checkpoint"]


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What was written.

    Attributes:
        config: the model.
        num_weights: how many names there are.
        source_sha256: of the file that they come from.
    """

    config: TokenizerConfig
    num_weights: int
    source_sha256: str


def convert_checkpoint(source: str, target: Path, *, model: str | None, options: Mapping[str, Any]) -> Conversion:
    """Writes the weights of a checkpoint, in their dtypes, with the model and the source's sha256 in the header.

    Args:
        source: a path or URL of a `.ckpt` or `.safetensors`.
        target: the `.safetensors` to write.
        model: a released model's name; None: what the source's header says, or else its file name.
        options: how to reach the source's store.

    Raises:
        ConfigError: the target cannot be written, nothing says which model it is, or the weights are not that model's.
        StorageError: the source's store failed.
    """
    if target.suffix != ".safetensors":
        raise ConfigError(f"{target}: expected a file that ends in .safetensors")
    if not target.parent.is_dir():  # told before anything is fetched
        raise ConfigError(f"{target}: there is no folder {target.parent}")
    url = absolute_url(source)
    path, sha256 = local_file(url, options, key="convert")
    try:
        asked = get_config(model) if model is not None else said_model(url, path)
        config, weights = read_checkpoint(path, asked)
        save_weights(weights, config, target, source_sha256=sha256)
    except ValueError as error:
        raise ConfigError(f"convert: {name_source(error, path, url)}") from None
    return Conversion(config=config, num_weights=len(weights), source_sha256=sha256)
