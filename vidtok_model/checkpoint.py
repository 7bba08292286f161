"""Weights from a local file, held against the model that they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vidtok_model.ckpt_file import read_ckpt
from vidtok_model.config import TokenizerConfig
from vidtok_model.models import CARRIED, MODELS, carried_weights, get_config
from vidtok_model.tensor_file import read_config, read_safetensors
from vidtok_model.tokenizer import VideoTokenizer

_SUFFIXES = (".safetensors", ".ckpt")
# What a training checkpoint holds besides the model: the losses' networks, and moving averages of the weights.
_LEFT_OUT = ("loss.", "model_ema.", "ema.")
_MOST_NAMES_LISTED = 5


def load_tokenizer(
    name: str | TokenizerConfig | None,
    checkpoint: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    has_decoder: bool = True,
) -> VideoTokenizer:
    """A model with the weights of a file, ready to encode and decode.

    Args:
        name: A released or carried model's name, or a configuration. None: the one that the file's header says, as
            `save_tokenizer` and `vidtok convert` write it.
        checkpoint: A local file: `.safetensors`, or `.ckpt` as PyTorch Lightning writes it. Weights of a loss and
            averaged copies (`loss.*`, `model_ema.*`, `ema.*`) in it are left out. None: the weights that are carried.
        device: Where the model goes.
        dtype: What it computes in (`VideoTokenizer.compute_in`).
        has_decoder: Whether it is to decode too. Without, the decoder's weights are left in the file.

    Returns:
        The model in evaluation mode, its weights not asking for gradients.

    Raises:
        ValueError: If no model has that name, it is no carried one and no path is given, the file isn't there, isn't a
            checkpoint or could run code, says that it is of another model, or says none where none is asked for, or its
            names and shapes aren't those of the model; the message lists them, and says which model they fit.
    """
    asked = get_config(name) if isinstance(name, str) else name
    if checkpoint is None and asked is not None and asked.name in CARRIED:
        checkpoint = carried_weights(asked.name)
    if checkpoint is None:
        raise ValueError(
            f"no weights are carried for {asked.name if asked else 'any model'}: give the path of a checkpoint "
            f"({' or '.join(_SUFFIXES)})"
        )
    config, weights = read_checkpoint(Path(checkpoint), asked)
    tokenizer = _without_weights(config, has_decoder=has_decoder)
    wanted = {key: weights[key].to(device=device, dtype=torch.float32) for key in tokenizer.state_dict()}
    tokenizer.load_state_dict(wanted, assign=True)
    return tokenizer.to(device).compute_in(dtype).eval().requires_grad_(False)


def read_checkpoint(path: Path, asked: TokenizerConfig | None) -> tuple[TokenizerConfig, dict[str, Tensor]]:
    """Which model a file's weights are of, and these: all that the model has, nothing else, in the dtypes of the file.

    Args:
        path: A local file, as for `load_tokenizer`.
        asked: The model that they must be of; None: the one that the file's header says.

    Raises:
        ValueError: As of `load_tokenizer`.
    """
    check_suffix(path, _SUFFIXES)
    said = read_config(path)
    config = asked or said
    if config is None:
        raise ValueError(f"checkpoint {path} doesn't say which model it is of: give the model's name")
    if said is not None and said != config:
        raise ValueError(f"checkpoint {path} is of {said.name}, not of {config.name}: {_differences(said, config)}")
    found = read_weight_file(path, _SUFFIXES)
    names = {key: str(key).replace("_orig_mod.", "") for key in found}  # which torch.compile puts into names
    weights = {names[key]: value for key, value in found.items() if not names[key].startswith(_LEFT_OUT)}
    _check_fit(weights, config, path)
    return config, weights


def read_weight_file(path: Path, suffixes: tuple[str, ...]) -> Mapping[str, Any]:
    """What a local file of weights holds, by name, on the CPU: of `.safetensors` or, with any other ending, torch's.

    Raises:
        ValueError: If its ending isn't one of `suffixes`, it isn't there, can't be read, or could run code.
    """
    check_suffix(path, suffixes)
    if not path.is_file():
        raise ValueError(f"checkpoint {path}: there is no such file")
    return read_safetensors(path) if path.suffix == ".safetensors" else read_ckpt(path)


def check_suffix(path: Path, suffixes: tuple[str, ...]) -> None:
    """Raises a ValueError unless a file's name ends in one of these."""
    if path.suffix not in suffixes:
        raise ValueError(f"checkpoint {path} ends in {path.suffix!r}: expected {' or '.join(suffixes)}")


def _differences(said: TokenizerConfig, asked: TokenizerConfig) -> str:
    ours, theirs = asked.to_dict(), said.to_dict()
    return ", ".join(f"its {key} is {theirs[key]!r}, asked {ours[key]!r}" for key in ours if ours[key] != theirs[key])


def _without_weights(config: TokenizerConfig, *, has_decoder: bool = True) -> VideoTokenizer:
    # On the meta device a model costs neither memory nor the drawing of initial values, which are replaced anyway.
    with torch.device("meta"):
        return VideoTokenizer(config, has_decoder=has_decoder)


def _check_fit(found: Mapping[str, Any], config: TokenizerConfig, path: Path) -> None:
    """Raises one ValueError that lists all that is wrong, and says which released model the weights are of."""
    try:
        check_weights(found, _without_weights(config).state_dict(), f"{path} doesn't fit {config.name}")
    except ValueError as error:
        fitting = [
            model.name
            for model in (model.replace(base_channels=config.base_channels) for model in MODELS.values())
            if not _problems(found, _without_weights(model).state_dict())
        ]
        same = ", whose names and shapes are the same" if len(fitting) > 1 else ""
        hint = f"; it holds the weights of {' or '.join(fitting)}{same}" if fitting else ""
        raise ValueError(f"{error}{hint}") from None


def check_weights(found: Mapping[str, Any], expected: Mapping[str, Tensor], what: str) -> None:
    """Raises one ValueError that begins with `what` and lists all that is wrong with names, shapes and types."""
    if problems := _problems(found, expected):
        raise ValueError(f"{what}: of {len(expected)} weights, {'; '.join(problems)}")


def _problems(found: Mapping[str, Any], expected: Mapping[str, Tensor]) -> list[str]:
    wrong = [
        f"{key} is {_odd_form(found[key]) or _describe(found[key])}, expected {_describe(tensor)}"
        for key, tensor in expected.items()
        if key in found and not _fits(found[key], tensor)
    ]
    problems = {
        "missing": [key for key in expected if key not in found],
        "not of this model": [str(key) for key in found if key not in expected],
        "of another shape or type": wrong,
    }
    return [f"{len(names)} {kind} ({_shorten(names)})" for kind, names in problems.items() if names]


def _fits(value: object, expected: Tensor) -> bool:
    if not isinstance(value, Tensor) or _odd_form(value):
        return False
    return value.is_floating_point() and value.shape == expected.shape


def _odd_form(value: object) -> str:
    """What kind of tensor it is, if it is one that holds no plain values."""
    if not isinstance(value, Tensor) or (value.layout is torch.strided and not value.is_meta):
        return ""
    return "a tensor without values" if value.is_meta else f"a tensor in the form {value.layout}"


def _describe(value: object) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    dtype = "float" if value.is_floating_point() else str(value.dtype).removeprefix("torch.")
    return f"{dtype} {'x'.join(map(str, value.shape)) or 'scalar'}"


def _shorten(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _MOST_NAMES_LISTED
    return ", ".join(names[:_MOST_NAMES_LISTED]) + (f" and {more} more" if more > 0 else "")
