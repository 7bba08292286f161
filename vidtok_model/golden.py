"""A golden clip through a golden model: what any machine must compute, to within its arithmetic.

Weights and clips are made from their names, the same numbers everywhere, with no random generator; what the published
code computes of them (float32, on a CPU) stands in golden_mean.npy.
"""

import functools
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from vidtok_model.models import MODELS
from vidtok_model.tokenizer import VideoTokenizer

__all__ = ["GOLDEN_MODEL", "golden_clip", "golden_difference", "golden_mean", "golden_tokenizer", "golden_weights"]

GOLDEN_MODEL = "vidtok_kl_causal_488_4chn"
_GOLDEN_CHANNELS = 16
_GOLDEN_SHAPE = (1, 3, 17, 32, 32)

Floats = npt.NDArray[np.float32]


def unit(name: str, shape: Sequence[int]) -> Floats:
    """Values in [-1, 1), float32: splitmix64, seeded with sha256 of `name`."""
    count = math.prod(shape)
    seed = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = seed + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    fraction = (z >> np.uint64(40)).astype(np.float64) / float(1 << 24)
    return (2.0 * fraction - 1.0).astype(np.float32).reshape(shape)


def parameter(name: str, shape: Sequence[int]) -> Floats:
    """The value of the state-dict entry `name`, scaled so that activations stay near unit size."""
    values = unit(name, shape)
    if name.endswith("mix_factor"):
        return (1.0 + 0.5 * values).astype(np.float32)
    if ".norm" in name and name.endswith("weight") and len(shape) == 1:
        return (1.0 + 0.1 * values).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * values).astype(np.float32)
    return (values * math.sqrt(3.0 / math.prod(shape[1:]))).astype(np.float32)


def video(name: str, shape: Sequence[int]) -> Floats:
    """A clip (B, 3, T, H, W) in [-1, 1]: moving waves and a little noise."""
    b, c, t, y, x = np.meshgrid(*[np.arange(size, dtype=np.float64) for size in shape], indexing="ij")
    waves = 0.5 * np.sin(0.35 * x + 0.5 * t + c) * np.cos(0.27 * y - 0.3 * t + b)
    return np.clip(waves.astype(np.float32) + 0.4 * unit("video:" + name, shape), -1, 1).astype(np.float32)


def golden_weights(shapes: Any) -> dict[str, torch.Tensor]:
    """Weights made from their names; `shapes` is a mapping of names to shapes."""
    return {name: torch.from_numpy(parameter(name, tuple(shape))) for name, shape in shapes.items()}


def golden_clip(name: str, shape: Sequence[int]) -> torch.Tensor:
    """The clip (B, 3, T, H, W) in [-1, 1], float32, that a golden file was made from."""
    return torch.from_numpy(video(name, tuple(shape)))


def golden_tokenizer(name: str = GOLDEN_MODEL) -> VideoTokenizer:
    """A released model at width 16 with weights made from their names."""
    tokenizer = VideoTokenizer(MODELS[name].replace(base_channels=_GOLDEN_CHANNELS))
    tokenizer.load_state_dict(golden_weights({name: value.shape for name, value in tokenizer.state_dict().items()}))
    return tokenizer.eval().requires_grad_(False)


@functools.cache
def golden_mean() -> Floats:
    """What the published code gives for GOLDEN_MODEL: float32 (1, 4, 5, 4, 4)."""
    mean: Floats = np.load(Path(__file__).with_name("golden_mean.npy"))
    return mean


def golden_difference(tokenizer: VideoTokenizer) -> float:
    """The largest difference of what a golden tokenizer encodes to what it should be; NaN where that is not finite."""
    clip = golden_clip(GOLDEN_MODEL, _GOLDEN_SHAPE).to(next(tokenizer.parameters()).device)
    with torch.inference_mode():
        mean = tokenizer.encode(clip).mean
    assert mean is not None, "a KL model has one"
    return float(np.abs(mean.to("cpu", torch.float32).numpy() - golden_mean()).max())
