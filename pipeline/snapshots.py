"""Snapshots: the commits so far in one file, so that nobody has to read them one by one.

A snapshot is derived, and nothing is lost without it. It names each part with the rows of its row groups, which is
all that a reader needs to put a dataset into a global order without opening a part.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from pipeline.crash_points import crash_point
from pipeline.errors import ConfigError
from pipeline.parts import read_table, table_bytes
from pipeline.storage import Store

__all__ = ["Snapshot", "is_due", "newest_snapshot", "write_snapshot"]

_FOLDER = "_snapshots"
_LEAST_NEW_COMMITS = 1000
_ROWS_AT_ONCE = 1000
_MOST_TRIES = 100

log = logging.getLogger(__name__)


def _struct(**fields: pa.DataType) -> pa.StructType:
    return pa.struct(list(fields.items()))


_FILE: dict[str, pa.DataType] = {
    "path": pa.string(),
    "size_bytes": pa.int64(),
    "rows": pa.int64(),
    "sha256": pa.string(),
}
_SUMS = _struct(count=pa.int64(), sum=pa.list_(pa.float64()), sum_of_squares=pa.list_(pa.float64()))
_COMMIT_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("shard_id", pa.string()),
    ("format_version", pa.int32()),
    ("fingerprint", pa.string()),
    ("source", _struct(path=pa.string(), size_bytes=pa.int64(), etag=pa.string())),
    ("parts", pa.list_(_struct(**_FILE, row_groups=pa.list_(pa.int32())))),
    ("rejects", _struct(**_FILE)),
    ("rejects_by_class", pa.map_(pa.string(), pa.int64())),
    ("videos", pa.int64()),
    ("video_bytes", pa.int64()),
    ("rows", pa.int64()),
    ("tokens", pa.int64()),
    ("statistics", _struct(first=_SUMS, rest=_SUMS)),
]
_SCHEMA = pa.schema(_COMMIT_COLUMNS)


@dataclass(frozen=True)
class Snapshot:
    """The commits that one file holds.

    Attributes:
        number: of the file, from 1; 0 where there is none.
        table: one row for each commit, sorted by shard_id.
    """

    number: int
    table: pa.Table

    @property
    def shard_ids(self) -> set[str]:
        """The shards whose commits it holds."""
        return {str(shard_id) for shard_id in self.table.column("shard_id").to_pylist()}

    def commits(self) -> Iterable[dict[str, Any]]:
        """The commits as they were written."""
        for batch in self.table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield {**row, "rejects_by_class": dict(row["rejects_by_class"])}


def newest_snapshot(store: Store) -> Snapshot:
    """The last snapshot; an empty one where there is none.

    Raises:
        ConfigError: the file is not ours.
    """
    path = max((info.path for info in store.list(_FOLDER) if info.path.endswith(".parquet")), default=None)
    if path is None:
        return Snapshot(0, _SCHEMA.empty_table())
    try:
        table = read_table(store.read(path)).select(_SCHEMA.names)
        return Snapshot(int(path.removeprefix(f"{_FOLDER}/").removesuffix(".parquet")), table)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise ConfigError(f"{store.root}/{path}: is not a snapshot of ours: {error}") from None


def is_due(snapshot: Snapshot, new_commits: int) -> bool:
    """Whether so many commits are new that a snapshot pays, and all together stay a small multiple of the last."""
    return new_commits >= max(_LEAST_NEW_COMMITS, snapshot.table.num_rows // 10)


def write_snapshot(store: Store, commits: Sequence[Mapping[str, Any]]) -> Snapshot:
    """Writes a snapshot of the newest one's commits and these.

    Of two drivers one comes first; the other adds to what that one wrote.
    """
    for _ in range(_MOST_TRIES):
        newest = newest_snapshot(store)
        known = newest.shard_ids
        new = [dict(commit) for commit in commits if commit["shard_id"] not in known]
        if not new:
            return newest
        added = pa.Table.from_pylist(new, schema=_SCHEMA)
        table = pa.concat_tables([newest.table.cast(_SCHEMA), added]).sort_by("shard_id")
        crash_point("snapshot-built")
        path = f"{_FOLDER}/{newest.number + 1:08d}.parquet"
        if store.put_if_absent(path, table_bytes(table)):
            crash_point("snapshot-put")
            return Snapshot(newest.number + 1, table)
    raise ConfigError(f"{store.root}/{_FOLDER}: others write snapshots all the time")
