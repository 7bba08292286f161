"""Deterministic tensors from a name: the same numbers on every machine, no random generator involved."""

import hashlib
import math

import numpy as np


def unit(name: str, shape) -> np.ndarray:
    """Values in [-1, 1) from splitmix64 over sha256(name); float32, `shape`."""
    n = math.prod(shape)
    seed = np.uint64(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))
    with np.errstate(over="ignore"):
        z = seed + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    u = (z >> np.uint64(40)).astype(np.float64) / float(1 << 24)
    return (2.0 * u - 1.0).astype(np.float32).reshape(shape)


def parameter(name: str, shape) -> np.ndarray:
    """The value of the state-dict entry `name`: scaled so that activations stay near unit size."""
    u = unit(name, shape)
    if name.endswith("mix_factor"):
        return (1.0 + 0.5 * u).astype(np.float32)
    if ".norm" in name and name.endswith("weight") and len(shape) == 1:
        return (1.0 + 0.1 * u).astype(np.float32)
    if len(shape) == 1:
        return (0.1 * u).astype(np.float32)
    fan_in = math.prod(shape[1:])
    return (u * math.sqrt(3.0 / fan_in)).astype(np.float32)


def video(name: str, shape) -> np.ndarray:
    """A clip in [-1, 1], (B, 3, T, H, W): moving waves and a little noise."""
    B, C, T, Y, X = np.meshgrid(*[np.arange(s, dtype=np.float64) for s in shape], indexing="ij")
    waves = 0.5 * np.sin(0.35 * X + 0.5 * T + C) * np.cos(0.27 * Y - 0.3 * T + B)
    return np.clip(waves.astype(np.float32) + 0.4 * unit("video:" + name, shape), -1, 1).astype(np.float32)
