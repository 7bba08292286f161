"""Activations in pieces that stay in a CPU's caches. Shape suffixes as in layers.py."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal

from torch import Tensor

__all__ = ["Alone", "tiles"]

_TILE_BYTES = 2**22
Alone = Literal["frames", "pixels"]


def tiles(alone: Alone | None, *activations_BTHWC: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Pieces of activations, as views that lie in the same places of each.

    Args:
        alone: What is computed by itself, and so may be parted; None: nothing.
        activations_BTHWC: Contiguous, of the same B and T; where pixels are parted, of the same H and W too.

    Yields:
        Of each, a piece with the axes (B, T, H, W, C): some frames of all clips in a row, (1, N, H, W, C), or some
        pixels of each frame in a row, (B, T, 1, P, C). On a GPU, which wants much at a time, all of it.
    """
    if alone is None or activations_BTHWC[0].device.type != "cpu":
        yield activations_BTHWC
        return
    if alone == "frames":
        axis, rows = 1, [x.view(1, -1, *x.shape[2:]) for x in activations_BTHWC]
    else:
        axis, rows = 3, [x.flatten(2, 3).unsqueeze(2) for x in activations_BTHWC]
    count = min(rows[0].shape[axis], math.ceil(max(x.nbytes for x in rows) / _TILE_BYTES))
    yield from zip(*(x.tensor_split(count, axis) for x in rows), strict=True)
