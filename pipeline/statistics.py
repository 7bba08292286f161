"""Channel statistics of latents, as sums that can be added up over parts, shards and datasets."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from pipeline.rows import SEGMENT_COLUMN

__all__ = ["ChannelStatistics", "LatentStatistics", "channel_statistics", "channel_sums", "merge_channel_sums"]

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class ChannelStatistics:
    """How the values of each latent channel are spread.

    Attributes:
        count: how many values a channel has.
        mean_C: of each channel; NaN where there are no values.
        std_C: standard deviation of each channel, sqrt(E[x^2] - E[x]^2), at least 0; NaN where there are no values.
    """

    count: int
    mean_C: Floats
    std_C: Floats

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> Self:
        """Takes count, sum and sum_of_squares, as `channel_sums` gives them of `first` and of `rest`."""
        count = int(sums["count"])
        sum_C, squares_C = (np.asarray(sums[name], np.float64) for name in ("sum", "sum_of_squares"))
        if count == 0:
            return cls(count=0, mean_C=np.full_like(sum_C, np.nan), std_C=np.full_like(sum_C, np.nan))
        mean_C = sum_C / count
        # Of a channel that hardly varies the difference may come out a rounding below zero.
        variance_C = np.maximum(squares_C / count - np.square(mean_C), 0.0)
        return cls(count=count, mean_C=mean_C, std_C=np.sqrt(variance_C))


@dataclass(frozen=True, kw_only=True, eq=False)
class LatentStatistics:
    """Channel statistics of a dataset's latents.

    Attributes:
        first: of the first latent frames of clips or streams, which a causal model makes of one frame each.
        rest: of all other latent frames.
    """

    first: ChannelStatistics
    rest: ChannelStatistics

    @classmethod
    def of(cls, sums: Mapping[str, Any]) -> Self:
        """Takes merged sums, as `channel_sums` and `merge_channel_sums` give them."""
        return cls(first=ChannelStatistics.of(sums["first"]), rest=ChannelStatistics.of(sums["rest"]))


def channel_statistics(commits: Iterable[Mapping[str, Any]]) -> LatentStatistics | None:
    """The statistics of all latents of some commits, from the sums that stand in them: no row is read.

    Rows that were removed since are still among them.

    Args:
        commits: such as `Snapshot.commits()`, or several datasets' of one model.

    Returns:
        None where no commit has latents.
    """
    totals: dict[str, Any] | None = None
    for commit in commits:
        totals = merge_channel_sums(totals, commit["statistics"])
    return None if totals is None else LatentStatistics.of(totals)


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
