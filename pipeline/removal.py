"""Takedown: the rows of some videos are named as removed, and no reader of ours gives them from then on.

What was committed stays as it is, until `rewriting.py` writes the parts anew. A removal names rows that are there: what
a later run adds of the same video (`--append`, `retry-rejects`, a shard that was not committed yet) is a row like any
other until it is removed as well.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.reading.parts import CorruptPart, PartReader
from pipeline.row_scan import groups_of, scan
from pipeline.row_sets import REMOVED, Place, Rows, add_rows, read_files, read_rows
from pipeline.storage import Store

__all__ = ["Removal", "Removals", "read_removals", "remove_videos"]


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What a removal did.

    Attributes:
        rows: that were there until now.
        videos: whose rows they are.
        before: keys of which no row was left, because an earlier removal took them.
        unknown: keys of which there is no row, and never was one that was removed.
        unread: why row groups could not be read, whose rows of these keys are still there.
    """

    rows: int
    videos: int
    before: list[str]
    unknown: list[str]
    unread: list[str]


@dataclass(frozen=True)
class Removals:
    """All that was removed.

    Attributes:
        rows: of each row group.
        videos: by the path of a part and by source key, how many of its videos.
    """

    rows: Rows = field(default_factory=dict)
    videos: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def of(self, path: str, row_group: int) -> set[int]:
        """The numbers of the rows of one row group."""
        return set(self.rows.get((path, row_group), np.zeros(0, np.int64)).tolist())


def read_removals(store: Store) -> Removals:
    """What the files of a dataset's removals hold together.

    Raises:
        ConfigError: one is not ours, or is gone.
    """
    videos: dict[str, dict[str, int]] = defaultdict(dict)
    for _, footer in read_files(store, REMOVED):
        for path, counts in footer.get("videos", {}).items():
            for key, count in counts.items():  # two that removed the same at once have both counted it
                videos[path][key] = max(count, videos[path].get(key, 0))
    return Removals(read_rows(store, REMOVED)[0], videos)


def remove_videos(
    dataset: Dataset, keys: Collection[str], *, source_shard: str | None = None, dry_run: bool = False
) -> Removal:
    """Removes all committed rows of some videos, in one file more of the set; done twice, it is as done once.

    The rejects of these keys are left as they are: they hold no caption, and say that a video was there.

    Args:
        dataset: which.
        keys: source keys of the videos.
        source_shard: only videos of this one (its path below the input's root).
        dry_run: only look.

    Raises:
        ConfigError: no key has a row or had one, or there is no such shard.
        StorageError: the store failed.
    """
    if not dry_run:
        dataset.complete_snapshot()  # so that readers see what is removed here in no other way than as removed
    commits = [commit for commit in dataset.commits() if source_shard in (None, commit["source"]["path"])]
    if source_shard is not None and not commits:
        raise ConfigError(
            f"--shard {source_shard}: nothing of it is committed; expected a source_shard as rows have it"
        )
    found = _find(dataset, commits, keys)
    before = _removed_before(dataset.store, source_shard) & set(keys) - found.keys
    unknown = sorted(set(keys) - found.keys - before)
    if len(unknown) == len(set(keys)) and not found.unread:
        where = dataset.store.root if source_shard is None else f"{source_shard} in {dataset.store.root}"
        raise ConfigError([f"{key!r}: no committed row of {where} has this source key" for key in unknown])
    if found.rows and not dry_run:
        footer = {
            "keys": sorted(found.keys),
            "source_shard": source_shard,
            "date": datetime.now(UTC).date().isoformat(),
            "videos": found.videos,  # where a part has lost its rows, nothing else tells how many videos they were
        }
        add_rows(dataset.store, REMOVED, found.rows.items(), footer)
    return Removal(
        rows=sum(map(len, found.rows.values())),
        videos=sum(sum(counts.values()) for counts in found.videos.values()),
        before=sorted(before),
        unknown=unknown,
        unread=found.unread,
    )


@dataclass
class _Found:
    rows: dict[Place, Any] = field(default_factory=dict)
    videos: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    keys: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)


def _find(dataset: Dataset, commits: Collection[Mapping[str, Any]], keys: Collection[str]) -> _Found:
    """The rows that have one of the keys and were not removed yet."""
    found, wanted = _Found(), pa.array(sorted(set(keys)), pa.string())
    columns = ("source_key", "clip_index")

    def leave(error: CorruptPart) -> None:
        found.unread.append(str(error))

    for group, rows in scan(PartReader(dataset.store), groups_of(commits), columns, dataset.removed(), leave):
        is_wanted = pc.is_in(rows.table.column("source_key"), value_set=wanted)
        if not pc.any(is_wanted).as_py():
            continue
        found.rows[group.place] = rows.kept[is_wanted.to_numpy()]
        chosen = rows.table.filter(is_wanted)
        found.keys.update(map(str, chosen.column("source_key").unique().to_pylist()))
        # A video's clips count from 0, so each 0 is one video.
        firsts = chosen.filter(pc.equal(chosen.column("clip_index"), pa.scalar(0))).column("source_key").to_pylist()
        found.videos[group.place[0]].update(map(str, firsts))
    return found


def _removed_before(store: Store, source_shard: str | None) -> set[str]:
    footers = (footer for _, footer in read_files(store, REMOVED))
    return {
        key
        for footer in footers
        if source_shard is None or footer.get("source_shard") in (None, source_shard)
        for key in footer.get("keys", [])
    }
