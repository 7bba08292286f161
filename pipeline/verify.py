"""verify: a dataset held against what it says of itself, and against its source."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset
from pipeline.dataset import fingerprint as fingerprint_of
from pipeline.garbage import unnamed_objects
from pipeline.records import Position, Shard
from pipeline.runs import live_runs
from pipeline.samples import read_shard
from pipeline.shard_check import ShardCheck
from pipeline.shard_log import COMMITS
from pipeline.storage import Store

__all__ = ["Verdict", "verify_dataset"]


@dataclass
class Verdict:
    """What was found.

    Attributes:
        problems: one line each; none where all is well.
        shards: committed shards that were looked at.
        rows: their rows.
        uncommitted: shards of the input without a commit.
    """

    problems: list[str] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    uncommitted: int = 0


def verify_dataset(dataset: Dataset, *, deep: bool = False, source: Store | None = None) -> Verdict:
    """Checks every committed shard: files, chains of parts, counts, ids, codes or latents, rejects.

    Args:
        dataset: which.
        deep: also the sha256 of every file.
        source: the input's root; every video in it must be there as rows or as a reject.

    Raises:
        ConfigError: there is no dataset of ours.
        StorageError: the store failed.
    """
    verdict = Verdict()
    if fingerprint_of(dataset.description["plan"]) != dataset.description["fingerprint"]:
        verdict.problems.append("dataset.json: the fingerprint is not that of its plan")
    shards = {shard.shard_id: shard for shard in dataset.inputs()}
    sizes = {info.path: info.size_bytes for folder in ("data", "rejects") for info in dataset.store.list(folder)}
    ids: list[Any] = []
    committed = set()
    videos: dict[str, Counter[str]] = defaultdict(Counter)
    for commit in dataset.commits():
        shard = shards[commit["shard_id"]]
        committed.add(shard.shard_id)
        check = ShardCheck(dataset, commit, shard, sizes, deep=deep)
        check.run()
        verdict.problems += [f"{shard.shard_id}: {problem}" for problem in check.problems]
        ids += check.ids
        # A supplement's videos are those that its shard rejected; they are counted there.
        if shard.only is None:
            videos[shard.shard_id] = check.keys
        verdict.shards += 1
        verdict.rows += commit["rows"]
    verdict.uncommitted = len(shards) - len(committed)
    verdict.problems += _double_ids(ids)
    verdict.problems += _strays(dataset, shards, committed)
    if source is not None:
        for shard_id, shard in shards.items():
            if shard.only is None:
                verdict.problems += _against_source(shard, videos.get(shard_id), source)
    return verdict


def _double_ids(ids: list[Any]) -> list[str]:
    counts = pc.value_counts(pa.chunked_array(ids, pa.string()))
    twice = counts.filter(pc.greater(counts.field("counts"), pa.scalar(1))).field("values").to_pylist()
    return [f"the id {row_id} stands in more than one row" for row_id in twice]


def _strays(dataset: Dataset, shards: dict[str, Shard], committed: set[str]) -> list[str]:
    """What no commit names, where no run is alive that may own it; and commits of no known shard."""
    problems = []
    for info in dataset.store.list(COMMITS):
        if info.path.removeprefix(f"{COMMITS}/").removesuffix(".json") not in shards:
            problems.append(f"{info.path}: a commit of no shard of the input")
    if not any(run["kind"] == "tokenize" for run in live_runs(dataset.store)):
        problems += [
            f"{info.path}: no commit names it and no run is alive; a next run goes on from it, or gc removes it"
            for info in unnamed_objects(dataset)
        ]
    return problems


def _against_source(shard: Shard, found: Counter[str] | None, source: Store) -> list[str]:
    if found is None:
        return [f"{shard.shard_id}: is not committed, so none of the videos of {shard.path} is accounted for"]
    start = Position(sample=0, offset=0 if shard.path.endswith(".tar") else None)
    expected = Counter(video.ref.key for video in read_shard(source, shard, start=start))
    lost, more = sorted((expected - found).elements()), sorted((found - expected).elements())
    problems = [f"{shard.path}: {key!r} has neither rows nor a reject" for key in lost]
    return problems + [f"{shard.path}: {key!r} is not in the source, or has rows or rejects too often" for key in more]
