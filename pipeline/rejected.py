"""Videos without rows: which there are after all that was tried, and the shards that try them again."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.dataset import Dataset
from pipeline.inputs import base_shard_id, supplement_of
from pipeline.parts import read_table
from pipeline.records import Shard

__all__ = ["outstanding_rejects", "retry_shards"]

Reject = Mapping[str, Any]


def outstanding_rejects(
    dataset: Dataset, standing: Sequence[Shard] | None = None
) -> dict[str, dict[tuple[str, int], Reject]]:
    """The videos that no shard and no supplementary shard gave rows of, by shard id and by key and occurrence.

    Args:
        dataset: which.
        standing: the shards of its input, where they were read already. Those of which the last supplement is not
            committed are left out: that one is finished first.
    """
    shards = {shard.shard_id: shard for shard in (dataset.inputs() if standing is None else standing)}
    left: dict[str, dict[tuple[str, int], Reject]] = defaultdict(dict)
    waiting = set(shards)  # for their commit
    # Read after the shards: of a supplement that another adds meanwhile neither the shard nor the commit is looked at.
    for commit in sorted(dataset.commits(), key=lambda commit: _order(commit["shard_id"])):
        if commit["shard_id"] not in shards:
            continue
        waiting.remove(commit["shard_id"])
        rejects = left[base_shard_id(commit["shard_id"])]
        for video in shards[commit["shard_id"]].only or ():
            rejects.pop(video, None)
        if commit["rejects"]:
            for row in read_table(dataset.store.read(commit["rejects"]["path"])).to_pylist():
                rejects[row["source_key"], row["occurrence"]] = row
    if standing is not None:
        for shard_id in waiting:
            left.pop(base_shard_id(shard_id), None)
    return {shard_id: rejects for shard_id, rejects in left.items() if rejects}


def _order(shard_id: str) -> tuple[str, int]:
    base = base_shard_id(shard_id)
    return base, int(shard_id[len(base) :].removeprefix("~retry") or 0)


def retry_shards(dataset: Dataset, standing: Sequence[Shard], classes: Collection[str]) -> list[Shard]:
    """Supplementary shards for the outstanding rejects of some classes, to add to the shards that stand."""
    of_base: dict[str, list[Shard]] = defaultdict(list)
    for shard in standing:
        of_base[base_shard_id(shard.shard_id)].append(shard)
    added = []
    for shard_id, rejects in outstanding_rejects(dataset, standing).items():
        only = [video for video, reject in rejects.items() if reject["error"] in classes]
        if only:
            added.append(supplement_of(of_base[shard_id][0], len(of_base[shard_id]), only))
    return added
