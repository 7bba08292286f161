"""Weights from a local file. A checkpoint is input from outside: it is checked, and never run."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vidtok_model.config import TokenizerConfig
from vidtok_model.models import get_config
from vidtok_model.tokenizer import VideoTokenizer

_SUFFIXES = (".safetensors", ".ckpt")
# What a training checkpoint holds besides the model: the losses' networks, and moving averages of the weights.
_LEFT_OUT = ("loss.", "model_ema.", "ema.")
_MOST_NAMES_LISTED = 5


def load_tokenizer(
    name: str | TokenizerConfig,
    checkpoint: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VideoTokenizer:
    """A model with the weights of a file, ready to encode and decode.

    Args:
        name: A released model's name, or a configuration.
        checkpoint: A local file: `.safetensors`, or `.ckpt` as PyTorch Lightning writes it. Weights of a loss and
            averaged copies (`loss.*`, `model_ema.*`, `ema.*`) in it are left out.
        device: Where the model goes.
        dtype: The float dtype of its weights. FSQ happens in float32 all the same.

    Returns:
        The model in evaluation mode, its weights not asking for gradients.

    Raises:
        ValueError: If no released model has that name, no path is given, the file isn't there, isn't a checkpoint or
            holds more than plain tensors and numbers, or its names and shapes aren't those of the model; the message
            lists them.
    """
    config = get_config(name) if isinstance(name, str) else name
    if checkpoint is None:
        raise ValueError(
            f"no weights are carried for {config.name}: give the path of a checkpoint ({' or '.join(_SUFFIXES)})"
        )
    if not dtype.is_floating_point:
        raise ValueError(f"dtype={dtype}: expected a float dtype")
    path = Path(checkpoint)
    weights = _read_weights(path)
    # On the meta device a model costs neither memory nor the drawing of initial values, which are replaced anyway.
    with torch.device("meta"):
        tokenizer = VideoTokenizer(config)
    check_weights(weights, tokenizer.state_dict(), f"{path} doesn't fit {config.name}")
    weights = {key: value.to(device=device, dtype=dtype) for key, value in weights.items()}
    tokenizer.load_state_dict(weights, assign=True)
    return tokenizer.to(device).eval().requires_grad_(False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    found = read_weight_file(path, _SUFFIXES)
    names = {key: str(key).replace("_orig_mod.", "") for key in found}  # which torch.compile puts into names
    return {names[key]: value for key, value in found.items() if not names[key].startswith(_LEFT_OUT)}


def read_weight_file(path: Path, suffixes: tuple[str, ...]) -> Mapping[str, Any]:
    """What a local file of weights holds, by name, on the CPU: of `.safetensors` or, with any other ending, torch's.

    Raises:
        ValueError: If its ending isn't one of `suffixes`, it isn't there, can't be read, or holds more than plain
            tensors and numbers.
    """
    if path.suffix not in suffixes:
        raise ValueError(f"checkpoint {path} ends in {path.suffix!r}: expected {' or '.join(suffixes)}")
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: there is no such file")
    return _read_safetensors(path) if path.suffix == ".safetensors" else _read_ckpt(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint {path} can't be read as safetensors: {error}") from error


def _read_ckpt(path: Path) -> Mapping[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).splitlines()[0] if str(error) else "unreadable"
        raise ValueError(
            f"checkpoint {path} is refused: it isn't a torch file of plain tensors and numbers, which alone are read, "
            f"because other objects can run code; save its state_dict alone, best as .safetensors ({reason})"
        ) from error
    # torch.load lets through whatever its parsers raise on a file that is no checkpoint, or a truncated one.
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, zipfile.BadZipFile) as error:
        raise ValueError(f"checkpoint {path} can't be read as a torch file: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(state, dict):
        raise ValueError(f"checkpoint {path} holds a {type(state).__name__}: expected weights by name")
    return state


def check_weights(found: Mapping[str, Any], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises one ValueError that begins with `what` and lists all that is wrong with names, shapes and types."""
    wrong = [
        f"{key} is {_describe(found[key])}, expected {_describe(tensor)}"
        for key, tensor in expected.items()
        if key in found and not _fits(found[key], tensor)
    ]
    problems = {
        "missing": [key for key in expected if key not in found],
        "not of this model": [str(key) for key in found if key not in expected],
        "of another shape or type": wrong,
    }
    parts = [f"{len(names)} {kind} ({_shorten(names)})" for kind, names in problems.items() if names]
    if parts:
        raise ValueError(f"{what}: of {len(expected)} weights, {'; '.join(parts)}")


def _fits(value: object, expected: Tensor) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.shape == expected.shape


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    dtype = "float" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"{dtype} {'x'.join(map(str, value.shape)) or 'scalar'}"


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MOST_NAMES_LISTED
    return ", ".join(names[:_MOST_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
