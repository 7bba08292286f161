"""Videos without rows: which there are after all that was tried, and the shards that try them again."""

import io
from collections import defaultdict
from collections.abc import Collection, Mapping
from typing import Any

import pyarrow.parquet as pq

from pipeline.dataset import Dataset
from pipeline.inputs import base_shard_id, supplement_of
from pipeline.records import Shard
from pipeline.shard_log import read_commit

__all__ = ["outstanding_rejects", "retry_shards"]

Reject = Mapping[str, Any]


def outstanding_rejects(dataset: Dataset) -> dict[str, dict[tuple[str, int], Reject]]:
    """The videos that no shard and no supplementary shard gave rows of, by shard id and by key and occurrence."""
    shards = {shard.shard_id: shard for shard in dataset.inputs()}
    left: dict[str, dict[tuple[str, int], Reject]] = defaultdict(dict)
    for commit in sorted(dataset.commits(), key=lambda commit: _order(commit["shard_id"])):
        rejects = left[base_shard_id(commit["shard_id"])]
        for video in shards[commit["shard_id"]].only or ():
            rejects.pop(video, None)
        if commit["rejects"]:
            for row in pq.read_table(io.BytesIO(dataset.store.read(commit["rejects"]["path"]))).to_pylist():
                rejects[row["source_key"], row["occurrence"]] = row
    return {shard_id: rejects for shard_id, rejects in left.items() if rejects}


def _order(shard_id: str) -> tuple[str, int]:
    base = base_shard_id(shard_id)
    return base, int(shard_id[len(base) :].removeprefix("~retry") or 0)


def retry_shards(dataset: Dataset, standing: list[Shard], classes: Collection[str]) -> list[Shard]:
    """Supplementary shards for the outstanding rejects of some classes.

    A shard whose last supplement is not committed yet gets no other: that one is finished first.
    """
    of_base: dict[str, list[Shard]] = defaultdict(list)
    for shard in standing:
        of_base[base_shard_id(shard.shard_id)].append(shard)
    added = []
    for shard_id, rejects in outstanding_rejects(dataset).items():
        only = [video for video, reject in rejects.items() if reject["error"] in classes]
        tried = of_base[shard_id]
        if only and read_commit(dataset.store, tried[-1].shard_id) is not None:
            added.append(supplement_of(tried[0], len(tried), only))
    return added
