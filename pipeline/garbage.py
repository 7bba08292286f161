"""gc: what no commit names and no live run owns, shown first, removed when told."""

from collections.abc import Iterator

from pipeline.dataset import Dataset
from pipeline.runs import announced
from pipeline.shard_log import DATA
from pipeline.storage import ObjectInfo

__all__ = ["collect_garbage", "unnamed_objects"]

_NAMED_BY_COMMITS = (DATA, "rejects")
# What a process that died left behind it; never part of the dataset.
_LEFT_OVER = ("_tmp", "_probe")


def unnamed_objects(dataset: Dataset) -> list[ObjectInfo]:
    """Parts and rejects that no commit names."""
    named: set[str] = set()
    for commit in dataset.commits():
        named.update(part["path"] for part in commit["parts"])
        if commit["rejects"]:
            named.add(commit["rejects"]["path"])
    folders = (dataset.store.list(folder) for folder in _NAMED_BY_COMMITS)
    return [info for folder in folders for info in folder if info.path not in named]


def collect_garbage(dataset: Dataset, *, remove: bool) -> Iterator[ObjectInfo]:
    """Yields what no commit names, each removed by then if `remove`.

    Parts of a shard that is not committed yet are among it: a next run would go on from them, or, once they are
    removed, do them again.

    Raises:
        ConfigError: a run is alive; what it wrote is its own.
        StorageError: the store failed.
    """
    with announced(dataset.store, "gc"):
        found = unnamed_objects(dataset)
        found += [info for folder in _LEFT_OVER for info in dataset.store.list(folder)]
        for info in found:
            if remove:
                dataset.store.delete(info.path)
            yield info
