"""Channel statistics of latents, as sums that can be added up over parts, shards and datasets."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.rows import SEGMENT_COLUMN

__all__ = ["channel_sums", "merge_channel_sums"]


def channel_sums(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Sums over the latents of rows, the first latent frame apart (a causal model's first is one frame, not f).

    Of a stream's segments, that is the first latent frame of the first one.

    Returns:
        For `first` and `rest`: count (positions a channel), sum and sum_of_squares (a list over channels), of the
        stored float16 values added up in float64; None where rows have no latents.
    """
    totals: dict[str, Any] | None = None
    for row in rows:
        if "latents" not in row:
            return None
        grid = (row["latent_t"], row["latent_h"], row["latent_w"])
        latents_CTN = np.frombuffer(row["latents"], "<f2").astype(np.float64).reshape(-1, grid[0], grid[1] * grid[2])
        num_first = 1 if row.get(SEGMENT_COLUMN, 0) == 0 else 0
        sums = {"first": _sums(latents_CTN[:, :num_first]), "rest": _sums(latents_CTN[:, num_first:])}
        totals = sums if totals is None else merge_channel_sums(totals, sums)
    return totals


def merge_channel_sums(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The sums of both; None counts as nothing."""
    if left is None or right is None:
        given = left if right is None else right
        return None if given is None else dict(given)
    return {name: _add(left[name], right[name]) for name in ("first", "rest")}


def _sums(latents_CTN: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, Any]:
    return {
        "count": latents_CTN[0].size,
        "sum": latents_CTN.sum(axis=(1, 2)).tolist(),
        "sum_of_squares": np.square(latents_CTN).sum(axis=(1, 2)).tolist(),
    }


def _add(left: Mapping[str, Any], right: Mapping[str, Any]) -> dict[str, Any]:
    added = {
        name: [one + other for one, other in zip(left[name], right[name], strict=True)]
        for name in ("sum", "sum_of_squares")
    }
    return {"count": left["count"] + right["count"], **added}
