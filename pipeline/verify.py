"""verify: a dataset held against what it says of itself, and against its source."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset
from pipeline.dataset import fingerprint as fingerprint_of
from pipeline.errors import ConfigError, ShardError, VidtokError
from pipeline.garbage import Unnamed, paths_of, shard_of, sort_unnamed, stored_objects
from pipeline.inputs import missing_inputs
from pipeline.records import Shard
from pipeline.removal import Removals, read_removals
from pipeline.row_scan import groups_of
from pipeline.row_sets import SPLITS, read_rows
from pipeline.runs import live_runs
from pipeline.samples import read_shard
from pipeline.shard_check import ShardCheck
from pipeline.shard_log import COMMITS, read_commit
from pipeline.snapshots import newest_snapshot
from pipeline.storage import Store
from pipeline.video_lists import read_listed

__all__ = ["Verdict", "verify_dataset"]

# What reading a record may raise, of which a byte is another one.
_NOT_OURS = (VidtokError, pa.ArrowException, AttributeError, KeyError, TypeError, ValueError)


@dataclass
class Verdict:
    """What was found.

    Attributes:
        problems: one line each; none where all is well.
        shards: committed shards that were looked at.
        rows: their rows, as they were committed.
        uncommitted: shards of the input without a commit.
        removed: rows that were taken down, of these shards.
    """

    problems: list[str] = field(default_factory=list)
    shards: int = 0
    rows: int = 0
    uncommitted: int = 0
    removed: int = 0


def verify_dataset(dataset: Dataset, *, deep: bool = False, source: Store | None = None) -> Verdict:
    """Checks every committed shard: files, chains of parts, counts, ids, codes or latents, rejects.

    A part that was written anew (`gc --rewrite`) has no sha256 that it could be held against: what it lacks must be
    what was removed, and the rest is checked as in every part, with the checksums of its pages.

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
    # In this order, as gc does: what a run writes meanwhile is in none of these, or in all that follow.
    objects = stored_objects(dataset)
    snapshot = _newest_snapshot(dataset, verdict.problems)
    committed = [info.path.removeprefix(f"{COMMITS}/").removesuffix(".json") for info in dataset.store.list(COMMITS)]
    shards = {shard.shard_id: shard for shard in dataset.inputs()}
    verdict.problems += _lists(dataset, shards.values())
    removals = _removals(dataset, verdict.problems)
    ids: list[Any] = []
    digests: dict[str, bytes] = {}
    named: set[str] = set()
    for shard_id in committed:
        if shard_id not in shards:
            verdict.problems.append(f"{COMMITS}/{shard_id}.json: a commit of no shard of the input")
            continue
        try:
            commit = read_commit(dataset.store, shard_id) or {}
            named.update(paths_of(commit))
            digests[shard_id] = _digest(commit)
            check = ShardCheck(dataset, commit, shards[shard_id], deep=deep, removals=removals)
            check.run()
        except _NOT_OURS as error:
            verdict.problems.append(f"{shard_id}: cannot be checked: {type(error).__name__}: {error}")
            continue
        verdict.problems += [f"{shard_id}: {problem}" for problem in check.problems]
        verdict.problems += _against_source(dataset, shards[shard_id], check.keys, source)
        ids += check.ids
        verdict.shards += 1
        verdict.rows += commit["rows"]
        verdict.removed += sum(len(removals.of(*group.place)) for group in groups_of([commit]))
    uncommitted = shards.keys() - set(committed)
    left = [shard for shard_id, shard in shards.items() if shard_id in uncommitted]
    verdict.uncommitted = len(left)
    verdict.problems += [line for shard in left for line in _against_source(dataset, shard, None, source)]
    verdict.problems += _double_ids(ids) + _against_snapshot(snapshot, digests)
    # Of what has a commit that is lost or cannot be read, nobody knows what it names.
    unclear = (snapshot.keys() | set(committed)) - digests.keys()
    objects = [info for info in objects if shard_of(info.path) not in unclear]
    verdict.problems += _strays(dataset, sort_unnamed(objects, named=named, uncommitted=uncommitted))
    return verdict


def _lists(dataset: Dataset, shards: Iterable[Shard]) -> list[str]:
    """Lists of shards that are gone, and lists of videos that are gone or are not what was written."""
    of_a_list = {shard.videos.path: shard for shard in shards if shard.videos is not None}
    problems = [
        f"{path}: is not there, though later lists are: no run sees the shards that those add; put it back"
        for path in missing_inputs(dataset.store)
    ]
    for shard in of_a_list.values():
        try:
            read_listed(dataset.store, shard)
        except ShardError as error:
            problems.append(f"{error}; put it back from a backup: no run can do what is left of its shards")
    return problems


def _digest(commit: Mapping[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(commit, sort_keys=True).encode()).digest()


def _newest_snapshot(dataset: Dataset, problems: list[str]) -> dict[str, bytes]:
    """Digests of the commits that the newest snapshot holds, by shard; one that cannot be read is a problem."""
    try:
        return {row["shard_id"]: _digest(row) for row in newest_snapshot(dataset.store, strict=True).commits()}
    except _NOT_OURS as error:
        problems.append(f"the newest snapshot: {error}; it is derived: without it the next run writes another")
        return {}


def _removals(dataset: Dataset, problems: list[str]) -> Removals:
    """What was removed; a file of it, or of a split, that cannot be read is a problem."""
    try:
        read_rows(dataset.store, SPLITS)
    except ConfigError as error:
        problems.append(str(error))
    try:
        return read_removals(dataset.store)
    except ConfigError as error:
        problems.append(f"{error}; readers refuse the dataset, which may hold rows that were removed: put it back")
        return Removals()


def _against_snapshot(snapshot: Mapping[str, bytes], digests: Mapping[str, bytes]) -> list[str]:
    """A snapshot is read in place of the commits that it holds, so it must hold them as they are."""
    different = [shard_id for shard_id, digest in snapshot.items() if digests.get(shard_id) != digest]
    return [f"{shard_id}: the snapshot has another commit of it than {COMMITS}/" for shard_id in different]


def _double_ids(ids: list[Any]) -> list[str]:
    counts = pc.value_counts(pa.chunked_array(ids, pa.string()))
    twice = counts.filter(pc.greater(counts.field("counts"), pa.scalar(1))).field("values").to_pylist()
    return [f"the id {row_id} stands in more than one row" for row_id in twice]


def _strays(dataset: Dataset, unnamed: Unnamed) -> list[str]:
    """What no commit names; what is unfinished only where no run is alive that may own it."""
    problems = [f"{info.path}: no commit names it, and none will; gc removes it" for info in unnamed.garbage]
    problems += [
        f"{info.path}: no commit names it, and no run writes such names; gc leaves it" for info in unnamed.foreign
    ]
    if not live_runs(dataset.store):
        problems += [
            f"{info.path}: no commit names it and no run is alive; the next run goes on from it"
            for objects in unnamed.unfinished.values()
            for info in objects
        ]
    return problems


def _against_source(dataset: Dataset, shard: Shard, found: Counter[str] | None, source: Store | None) -> list[str]:
    # A supplement's videos are those that its shard rejected; they are counted there.
    if source is None or shard.only is not None:
        return []
    if found is None:
        return [f"{shard.shard_id}: is not committed, so none of the videos of {shard.path} is accounted for"]
    try:
        expected = Counter(_source_keys(dataset, shard, source))
    except VidtokError as error:
        return [f"{shard.shard_id}: its source cannot be read: {error}"]
    lost, more = sorted((expected - found).elements()), sorted((found - expected).elements())
    problems = [f"{shard.path}: {key!r} has neither rows nor a reject" for key in lost]
    return problems + [f"{shard.path}: {key!r} is not in the source, or has rows or rejects too often" for key in more]


def _source_keys(dataset: Dataset, shard: Shard, source: Store) -> Iterator[str]:
    if shard.videos is not None:  # the list is what was asked for, wherever its videos lie today
        return (video.key for video in read_listed(dataset.store, shard))
    return (video.ref.key for video in read_shard(source, shard, start=shard.beginning))
