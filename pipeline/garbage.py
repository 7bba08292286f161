"""gc: what can never belong to the dataset any more, shown first, removed when told.

What an uncommitted shard has is none of it: a run goes on from there, and one that is only slow may be about to commit
it. A commit never changes, so what it leaves out stays left out, whoever is at work meanwhile.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.inputs import missing_inputs
from pipeline.runs import live_runs, old_records
from pipeline.shard_log import COMMITS, DATA
from pipeline.storage import ObjectInfo

__all__ = ["Unnamed", "collect_garbage", "paths_of", "shard_of", "sort_unnamed", "stored_objects"]

# What a process that died left behind it; never part of the dataset.
_LEFT_OVER = ("_tmp", "_probe")
# How runs call what they write (see pipeline.shards). What is called otherwise is somebody's own, and not ours to take.
_SHARD_ID = r"([A-Za-z0-9._-]*[0-9a-f]{10}(?:~retry\d+)?)"
_OURS = [re.compile(rf"{DATA}/{_SHARD_ID}-p\d{{3,}}\.parquet"), re.compile(rf"rejects/{_SHARD_ID}\.parquet")]


@dataclass
class Unnamed:
    """Objects that no commit names.

    Attributes:
        garbage: of shards that are committed without them, and of shards that the input does not have.
        unfinished: parts and rejects of shards that are not committed yet, by shard id.
        foreign: what no run has written, to judge by its name.
    """

    garbage: list[ObjectInfo] = field(default_factory=list)
    unfinished: dict[str, list[ObjectInfo]] = field(default_factory=dict)
    foreign: list[ObjectInfo] = field(default_factory=list)


def shard_of(path: str) -> str | None:
    """The shard that a part or a file of rejects belongs to; None where the path is of neither."""
    return next((match[1] for pattern in _OURS if (match := pattern.fullmatch(path))), None)


def paths_of(commit: Mapping[str, Any]) -> Iterator[str]:
    """The paths that a commit names."""
    yield from (part["path"] for part in commit["parts"])
    if commit["rejects"]:
        yield commit["rejects"]["path"]


def stored_objects(dataset: Dataset) -> list[ObjectInfo]:
    """All that lies where parts and rejects lie, and below. To be listed before the commits and the input are."""
    return [info for folder in (DATA, "rejects") for info in dataset.store.list(folder, recursive=True)]


def sort_unnamed(objects: Iterable[ObjectInfo], *, named: Collection[str], uncommitted: Collection[str]) -> Unnamed:
    """Sorts what no commit names.

    Args:
        objects: stored ones.
        named: paths that commits name.
        uncommitted: ids of the input's shards that have no commit.
    """
    found = Unnamed()
    for info in objects:
        shard_id = shard_of(info.path)
        if info.path in named:
            continue
        if shard_id is None:
            found.foreign.append(info)
        elif shard_id in uncommitted:
            found.unfinished.setdefault(shard_id, []).append(info)
        else:
            found.garbage.append(info)
    return found


def _unnamed_objects(dataset: Dataset) -> Unnamed:
    """Finds the parts and rejects that no commit names.

    Raises:
        ConfigError: there is a commit of a shard that the input does not have, or a list of shards is gone: something
            was lost or mixed up.
    """
    # In this order: what is written after a step is not looked at by it, so nothing that is new can look like garbage.
    objects = stored_objects(dataset)
    commits = {info.path.removeprefix(f"{COMMITS}/").removesuffix(".json") for info in dataset.store.list(COMMITS)}
    shard_ids = {shard.shard_id for shard in dataset.inputs()}
    if unknown := sorted(commits - shard_ids):
        raise ConfigError(f"{dataset.store.root}: inputs/ has no shard {unknown[0]}, which is committed")
    if lost := missing_inputs(dataset.store):
        raise ConfigError(f"{dataset.store.root}: {lost[0]} is not there, so nobody knows whose the parts are")
    named = {path for commit in dataset.commits() for path in paths_of(commit)}
    return sort_unnamed(objects, named=named, uncommitted=shard_ids - commits)


def collect_garbage(dataset: Dataset, *, remove: bool, shard: str | None = None) -> Iterator[ObjectInfo]:
    """Yields what is garbage, each removed by then if `remove`.

    Args:
        dataset: which.
        remove: whether to remove it.
        shard: also all that this uncommitted shard has, so that a run begins it anew.

    Raises:
        ConfigError: `shard` is committed or unknown, or a run is alive, which may be at work on it.
        StorageError: the store failed.
    """
    unnamed = _unnamed_objects(dataset)
    is_quiet = not live_runs(dataset.store)
    found = unnamed.garbage
    if shard is not None:
        if not is_quiet:
            raise ConfigError(f"{dataset.store.root}: a run is alive, and may be at work on {shard}")
        if shard not in unnamed.unfinished:
            raise ConfigError(f"{shard}: is no shard with parts and without a commit")
        # The last part first: what is left, wherever this stops, is a chain that a run can go on from.
        found = found + sorted(unnamed.unfinished[shard], key=lambda info: (len(info.path), info.path), reverse=True)
    if is_quiet:  # else a writer may be about to link them
        found = found + [info for folder in _LEFT_OVER for info in dataset.store.list(folder)]
    found = found + old_records(dataset.store)
    for info in found:
        if remove:
            dataset.store.delete(info.path)
        yield info
