"""Snapshots: the commits so far in one file, so that nobody has to read them one by one.

A snapshot is derived, and nothing is lost without it. It names each part with the rows of its row groups, which is
all that a reader needs to put a dataset into a global order without opening a part.

`00000002.parquet` is the second; while a driver works, `00000002-0001.parquet` and so on add to it, so that little is
unknown where it dies.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.crash_points import crash_point
from pipeline.errors import ConfigError
from pipeline.parts import read_table, table_bytes
from pipeline.storage import Store

__all__ = ["Snapshot", "add_to_snapshot", "newest_snapshot", "write_snapshot"]

_FOLDER = "_snapshots"
_NAME = re.compile(rf"{_FOLDER}/(\d{{8}})(?:-(\d{{4}}))?\.parquet")
# An addition has so many commits, or a thousandth of all; a snapshot is written anew when a tenth is in additions.
_OF_AN_ADDITION, _LEAST_NEW_COMMITS = 100, 1000
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
    """The commits that one file and the additions to it hold.

    Attributes:
        number: of the file, from 1; 0 where there is none.
        additions: number of the last file that adds to it; 0 where there is none.
        added: commits that are in additions.
        table: one row for each commit, sorted by shard_id.
        is_whole: whether all of its files could be read.
    """

    number: int
    additions: int
    added: int
    table: pa.Table
    is_whole: bool = True

    @property
    def shard_ids(self) -> set[str]:
        """The shards whose commits it holds."""
        return {str(shard_id) for shard_id in self.table.column("shard_id").to_pylist()}

    @property
    def of_an_addition(self) -> int:
        """How many new commits make an addition to it."""
        return max(_OF_AN_ADDITION, self.table.num_rows // 1000)

    @property
    def is_old(self) -> bool:
        """Whether so much was added that a new one pays, so that all together stay a small multiple of the last."""
        return self.added >= max(_LEAST_NEW_COMMITS, (self.table.num_rows - self.added) // 10)

    def commits(self) -> Iterable[dict[str, Any]]:
        """The commits as they were written."""
        for batch in self.table.to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield {**row, "rejects_by_class": dict(row["rejects_by_class"])}


def newest_snapshot(store: Store, known: Snapshot | None = None, *, strict: bool = False) -> Snapshot:
    """The last snapshot, with what was added to it; an empty one where there is none.

    Of files that cannot be read it is warned, and the one before is taken: they are derived.

    Args:
        store: the dataset's root.
        known: one that was read or written before, given back where nothing came since.
        strict: raise instead.

    Raises:
        ConfigError: with `strict`, a file is not ours.
    """
    files = [match for info in store.list(_FOLDER) if (match := _NAME.fullmatch(info.path))]
    number = max((int(match[1]) for match in files), default=0)
    last = max((int(match[2] or 0) for match in files if int(match[1]) == number), default=0)
    if known is not None and (known.number, known.additions) == (number, last):
        return known
    tables, added, is_whole, has_base = [_SCHEMA.empty_table()], 0, True, False
    # Additions first: where the file itself cannot be read, what stood before it has nearly all of it.
    for match in sorted(files, key=lambda match: (-int(match[1]), -int(match[2] or 0))):
        if has_base:
            break
        try:
            table = read_table(store.read(match[0])).select(_SCHEMA.names).cast(_SCHEMA)
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            if strict:
                raise ConfigError(f"{store.root}/{match[0]}: is not a snapshot of ours: {error}") from None
            log.warning("%s/%s cannot be read, and is left out: %s", store.root, match[0], error)
            is_whole = False
            continue
        tables.append(table)
        has_base = match[2] is None
        added += 0 if has_base else table.num_rows
    return Snapshot(number, last, added, _joined(tables), is_whole)


def add_to_snapshot(store: Store, commits: Sequence[Mapping[str, Any]], known: Snapshot) -> Snapshot:
    """Adds commits to the newest snapshot, as far as it lacks them.

    Args:
        store: the dataset's root.
        commits: which.
        known: see `newest_snapshot`.
    """
    for _ in range(_MOST_TRIES):
        known = newest_snapshot(store, known)
        new = _lacking(known, commits)
        if not new.num_rows:
            return known
        number = known.additions + 1
        if store.put_if_absent(_path(known.number, number), table_bytes(new)):
            crash_point("snapshot-added")
            added = known.added + new.num_rows
            return Snapshot(known.number, number, added, _joined([known.table, new]), known.is_whole)
    raise ConfigError(f"{store.root}/{_FOLDER}: others write snapshots all the time")


def write_snapshot(store: Store, commits: Sequence[Mapping[str, Any]], known: Snapshot | None = None) -> Snapshot:
    """Writes a snapshot of the newest one's commits, what was added to it, and these.

    Of two drivers one comes first; the other adds to what that one wrote.

    Args:
        store: the dataset's root.
        commits: which.
        known: see `newest_snapshot`.
    """
    for _ in range(_MOST_TRIES):
        known = newest_snapshot(store, known)
        new = _lacking(known, commits)
        if not new.num_rows and not known.additions and known.is_whole:
            return known
        table = _joined([known.table, new])
        crash_point("snapshot-built")
        if store.put_if_absent(_path(known.number + 1), table_bytes(table)):
            crash_point("snapshot-put")
            return Snapshot(known.number + 1, 0, 0, table)
    raise ConfigError(f"{store.root}/{_FOLDER}: others write snapshots all the time")


def _path(number: int, addition: int | None = None) -> str:
    return f"{_FOLDER}/{number:08d}" + ("" if addition is None else f"-{addition:04d}") + ".parquet"


def _joined(tables: Sequence[pa.Table]) -> pa.Table:
    """One table, sorted, each shard once."""
    table = pa.concat_tables(tables).sort_by("shard_id")
    ids = table.column("shard_id").combine_chunks()
    if len(ids) < 2:
        return table
    is_first = pc.not_equal(ids[1:], ids[:-1])
    return table.filter(pa.concat_arrays([pa.array([True]), is_first]))


def _lacking(snapshot: Snapshot, commits: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Those commits that a snapshot does not hold."""
    known = snapshot.shard_ids
    new = [dict(commit) for commit in commits if commit["shard_id"] not in known]
    return pa.Table.from_pylist(new, schema=_SCHEMA)
