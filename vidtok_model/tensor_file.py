"""A `.safetensors`, whose header says which model its weights are of."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vidtok_model.checks import check_decoder
from vidtok_model.config import TokenizerConfig
from vidtok_model.tokenizer import VideoTokenizer

# Keys of the header. The source's sha256 is that of the file which the weights were converted from.
_NAME, _CONFIG, _SOURCE_SHA256 = "vidtok.name", "vidtok.config", "vidtok.source_sha256"


def read_config(path: str | Path) -> TokenizerConfig | None:
    """Which model a file's weights are of, as its header says it; the weights aren't read.

    Args:
        path: A local checkpoint.

    Returns:
        The configuration; None where the file doesn't say it, as no `.ckpt` does.

    Raises:
        ValueError: If there is no such file, it can't be read, or its header describes no model.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: there is no such file")
    if path.suffix != ".safetensors":
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header: Mapping[str, str] = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} can't be read as safetensors: {error}") from error
    if _CONFIG not in header:
        return None
    try:
        return TokenizerConfig.from_dict(json.loads(header[_CONFIG]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} has a header that describes no model: {error}") from error


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Raises:
        ValueError: If it can't be read.
    """
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} can't be read as safetensors: {error}") from error


def save_tokenizer(tokenizer: VideoTokenizer, path: str | Path, *, source_sha256: str | None = None) -> None:
    """Writes a model to a file that `load_tokenizer` needs no name for; arguments and errors as of `save_weights`."""
    check_decoder(tokenizer)
    save_weights(tokenizer.state_dict(), tokenizer.config, path, source_sha256=source_sha256)


def save_weights(
    weights: Mapping[str, Tensor], config: TokenizerConfig, path: str | Path, *, source_sha256: str | None = None
) -> None:
    """Writes weights, and in the header which model they are of. The file appears whole, or not at all.

    Args:
        weights: By name, in any dtype and on any device; kept as they are.
        config: The model.
        path: Where to; ends in `.safetensors`. What stands there is replaced.
        source_sha256: That of the file which the weights come from, where they come from one.

    Raises:
        ValueError: If the path ends otherwise, or can't be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"{path} ends in {path.suffix!r}: expected .safetensors")
    header = {"format": "pt", _NAME: config.name, _CONFIG: json.dumps(config.to_dict())}
    if source_sha256 is not None:
        header[_SOURCE_SHA256] = source_sha256
    # Each in memory of its own: the format knows no strides, and no two names for one tensor.
    tensors = {
        name: value.detach().to("cpu").clone(memory_format=torch.contiguous_format) for name, value in weights.items()
    }
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written, plain = Path(folder, path.name), Path(folder, "plain")
            safetensors.torch.save_file(tensors, written, metadata=header)
            plain.touch()  # with the mode that a new file has here; the library's is for its owner alone
            shutil.copymode(plain, written)
            os.replace(written, path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} can't be written: {error}") from error
