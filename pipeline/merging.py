"""merge: datasets of one plan become one, from their committed shards.

The order is one in which nothing is named before it is there, nor looks like garbage meanwhile: the lists of videos and
the shards of the input, removals, then of each shard its parts, its rejects and its commit, and at the end a snapshot
and the split, which follows from the videos' names. Wherever it dies, what is committed is whole, and the same call
goes on.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset import Dataset, plan_difference
from pipeline.errors import CommitConflict, ConfigError
from pipeline.garbage import paths_of
from pipeline.inputs import grow_inputs, missing_inputs
from pipeline.parts import REWRITTEN, footer_of
from pipeline.records import Shard
from pipeline.row_sets import REMOVED, add_rows, read_files, read_rows
from pipeline.runs import announced
from pipeline.shard_log import commit_path, read_commit
from pipeline.splits import split_dataset, standing_split
from pipeline.storage import Store, check_conditional_put
from pipeline.video_lists import read_listed

__all__ = ["Merged", "merge_datasets"]

_AT_ONCE = 4  # shards, each of which has one object in memory: a part's bytes


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes:
        shards: that were committed by it.
        standing: that stood there already, or came from two datasets.
        rows: of the shards that it committed, as they were committed first.
    """

    shards: int
    standing: int
    rows: int


@dataclass(frozen=True)
class _Task:
    """A shard that is committed in a dataset, and is to be committed in another."""

    source: Dataset
    shard: Shard
    digest: bytes
    rows: int


def merge_datasets(out: Store, sources: Sequence[Dataset]) -> Merged:
    """Copies all committed shards of some datasets into one, with what was removed of them, and how they are divided.

    Shards that are not committed stay out of it: they are named by their path below their own input's root, so no job
    that goes on with the merged dataset could be told where they all are. What it has is finished and passes `verify`.
    dataset.json is that of the first dataset, job and all; `verify --source` holds only where all inputs have one root.

    Args:
        out: a new root, or that of a dataset of the same fingerprint, whose own shards stay as they are.
        sources: which.

    Raises:
        ConfigError: their plans, splits or shards of one name differ, or they share videos; nothing was copied.
        CommitConflict: an object is not what a commit names.
        StorageError: a store failed.
    """
    if not sources:
        raise ConfigError("there is no dataset to merge: expected one or more")
    standing = [Dataset.open(out)] if Dataset.exists(out) else []
    _check_same_plans([*standing, *sources])
    split = _common_split([*standing, *sources])
    tasks, equal = _plan(standing, sources)
    _check_videos(standing, tasks)
    check_conditional_put(out)
    dataset = Dataset.create(out, sources[0].description)
    with announced(out) as run:
        run.facts = {"merges": [source.store.root for source in sources]}
        _add_inputs(out, tasks)
        for source in sources:
            _carry_removals(source.store, out)
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="merge") as threads:
            for _ in threads.map(lambda task: _copy_shard(task, out), tasks):
                pass
        dataset.complete_snapshot()
        if split is not None:
            split_dataset(dataset, validation=split[0], seed=split[1])
    return Merged(len(tasks), equal, sum(task.rows for task in tasks))


def _check_same_plans(datasets: Sequence[Dataset]) -> None:
    """Refuses datasets of several fingerprints.

    Raises:
        ConfigError: with a line for each difference to the first.
    """
    first, problems = datasets[0], []
    for other in datasets[1:]:
        if other.description["fingerprint"] != first.description["fingerprint"]:
            names = {"holder": first.store.root, "other": f"{other.store.root} has"}
            problems += plan_difference(first.description["plan"], other.description["plan"], **names)
    if problems:
        raise ConfigError(["only datasets of one plan can be merged:", *(f"  {line}" for line in problems)])


def _common_split(datasets: Sequence[Dataset]) -> tuple[float, int] | None:
    found = {split: dataset for dataset in datasets if (split := standing_split(dataset.store)) is not None}
    if len(found) > 1:
        said = (f"{dataset.store.root}: validation {share}, seed {seed}" for (share, seed), dataset in found.items())
        raise ConfigError(["the datasets are divided by different splits:", *(f"  {line}" for line in said)])
    return next(iter(found), None)


def _plan(standing: Sequence[Dataset], sources: Sequence[Dataset]) -> tuple[list[_Task], int]:
    """The shards to copy, and how many are there already.

    Raises:
        ConfigError: two datasets have different shards of one name.
    """
    known: dict[str, tuple[str, bytes]] = {}
    tasks, problems, equal = [], [], 0
    listed: Mapping[str, Shard] = {}
    for dataset in [*standing, *sources]:
        where = dataset.store.root
        if lost := missing_inputs(dataset.store):
            raise ConfigError(f"{where}: {lost[0]} is not there, so nobody knows the shards that it lists")
        shards = {shard.shard_id: shard for shard in dataset.inputs()}
        if dataset in standing:
            listed = shards
        for commit in dataset.commits():
            shard_id, digest = commit["shard_id"], _digest(commit)
            if shard_id not in shards:
                raise ConfigError(f"{where}: inputs/ has no shard {shard_id}, which is committed")
            other = listed.get(shard_id)
            if other is not None and _source(other) != commit["source"]:
                problems.append(
                    f"  {shard_id}: of {commit['source']} in {where}, and listed as {_source(other)} in the first"
                )
            elif shard_id not in known:
                known[shard_id] = where, digest
                if dataset not in standing:
                    tasks.append(_Task(dataset, shards[shard_id], digest, commit["rows"]))
            elif known[shard_id][1] == digest:
                equal += 1
            else:
                problems.append(f"  {shard_id}: of {commit['source']['path']}, in {known[shard_id][0]} and in {where}")
    if problems:
        raise ConfigError(
            ["these shards are committed differently (expected equal sources and sha256 of parts):", *problems]
        )
    return tasks, equal


def _source(shard: Shard) -> dict[str, Any]:
    return {"path": shard.path, "size_bytes": shard.size_bytes, "etag": shard.etag}


def _digest(commit: Mapping[str, Any]) -> bytes:
    source = sorted(commit["source"].items())
    return hashlib.sha256(repr([source, [part["sha256"] for part in commit["parts"]]]).encode()).digest()


def _check_videos(standing: Sequence[Dataset], tasks: Sequence[_Task]) -> None:
    """Refuses listed videos that two shards have, which no shard's name tells: their rows would have the same ids."""
    by_path: dict[str, list[tuple[Dataset, Shard]]] = defaultdict(list)
    for dataset in standing:
        for shard in dataset.inputs():
            by_path[shard.path].append((dataset, shard))
    for task in tasks:
        by_path[task.shard.path].append((task.source, task.shard))
    for path, found in by_path.items():
        if len({dataset.store.root for dataset, _ in found}) < 2:
            continue
        owners: dict[tuple[str, int], tuple[str, str]] = {}
        for dataset, shard in found:
            if shard.videos is None or shard.only is not None:
                continue
            for video in read_listed(dataset.store, shard):
                ours = (dataset.store.root, shard.shard_id)
                root, shard_id = owners.setdefault((video.key, video.occurrence), ours)
                if root != ours[0] and shard_id != ours[1]:
                    raise ConfigError(
                        f"{path}: {video.key!r} is listed in {root} (shard {shard_id}) and in {ours[0]} (shard "
                        f"{ours[1]}): its rows would have the same ids"
                    )


def _add_inputs(out: Store, tasks: Sequence[_Task]) -> None:
    lists = {task.shard.videos.path: task.source.store for task in tasks if task.shard.videos is not None}
    for path, source in lists.items():
        _copy(source, out, path, None)

    def choose(standing: Sequence[Shard]) -> list[Shard]:
        known = {shard.shard_id for shard in standing}
        return [task.shard for task in tasks if task.shard.shard_id not in known]

    grow_inputs(out, choose)


def _carry_removals(source: Store, out: Store) -> None:
    """Adds the rows that were removed of one dataset and not yet of the other, file by file, with their footers."""
    for rows, footer in read_files(source, REMOVED):
        known, _ = read_rows(out, REMOVED)
        new = [place for place, numbers in rows.items() if np.setdiff1d(numbers, known.get(place, [])).size]
        if new:
            add_rows(out, REMOVED, ((place, rows[place]) for place in new), footer)


def _copy_shard(task: _Task, out: Store) -> None:
    path = commit_path(task.shard.shard_id)
    data = task.source.store.read(path)
    commit = json.loads(data)
    shas = {named["path"]: named["sha256"] for named in [*commit["parts"], commit["rejects"]] if named}
    for object_path in paths_of(commit):
        _copy(task.source.store, out, object_path, shas[object_path])
    if not out.put_if_absent(path, data):
        standing = read_commit(out, task.shard.shard_id)
        if standing is None or _digest(standing) != task.digest:
            raise CommitConflict(f"{out.root}/{path}: another commit of {task.shard.path} stands there")


def _copy(source: Store, out: Store, path: str, sha256: str | None) -> None:
    """Copies an object, unless it stands there: as it was committed, or as removals left it."""
    data = source.read(path)
    digest = _checked(source, path, data, sha256)
    if out.put_if_absent(path, data):
        return
    del data  # one at a time
    standing = _checked(out, path, out.read(path), sha256)
    if sha256 is None and standing != digest:
        raise CommitConflict(f"{out.root}/{path}: stands there, and is another one than in {source.root}")


def _checked(store: Store, path: str, data: bytes, sha256: str | None) -> str:
    digest = hashlib.sha256(data).hexdigest()
    if sha256 not in (None, digest) and REWRITTEN not in (footer_of(data) or {}):
        raise CommitConflict(f"{store.root}/{path}: found sha256 {digest}, expected {sha256}, as it was committed")
    return digest
