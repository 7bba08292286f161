"""Snapshots: the commits so far in a few files, so that nobody has to read them one by one.

A snapshot is derived, and nothing is lost without it. It names each part with the rows of its row groups, which is
all that a reader needs to put a dataset into a global order without opening a part.

Each file has the commits that those before it lack: snapshot 3 is what `00000001.parquet` to `00000003.parquet` hold.
So none is ever written anew, and whoever writes one needs to know the ids of the others' commits alone.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.crash_points import crash_point
from pipeline.errors import ConfigError
from pipeline.parts import read_table, table_bytes
from pipeline.storage import Store

__all__ = ["Snapshot", "add_to_snapshot", "newest_snapshot"]

_FOLDER = "_snapshots"
_NAME = re.compile(rf"{_FOLDER}/(\d{{8}})\.parquet")
# A file has so many commits, or a fiftieth of all: some 300 files for a million, and few commits in none of them.
_LEAST_OF_A_FILE, _FILES = 100, 50
_ROWS_AT_ONCE = 1000
_READ_AT_ONCE = 4  # what is being read is in memory
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
_SHAPE = _struct(shape=pa.list_(pa.int32()), rows=pa.int64())
_COMMIT_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("shard_id", pa.string()),
    ("format_version", pa.int32()),
    ("fingerprint", pa.string()),
    ("source", _struct(path=pa.string(), size_bytes=pa.int64(), etag=pa.string())),
    ("parts", pa.list_(_struct(**_FILE, row_groups=pa.list_(pa.int32()), shapes=pa.list_(_SHAPE)))),
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
    """The commits that some files hold.

    Attributes:
        number: of the last file; 0 where there is none.
        tables: one for each file, by its number: a row for each commit, with all columns, or with some.
    """

    number: int = 0
    tables: Mapping[int, pa.Table] = field(default_factory=dict)

    @property
    def ids(self) -> "pa.ChunkedArray[Any]":
        """The ids of the shards whose commits it holds; of two drivers that did the same shard, maybe twice."""
        chunks = [chunk for table in self.tables.values() for chunk in table.column("shard_id").chunks]
        return pa.chunked_array(chunks, pa.string())

    @property
    def of_a_file(self) -> int:
        """How many new commits make the next file."""
        return max(_LEAST_OF_A_FILE, len(self.ids) // _FILES)

    def commits(self) -> Iterable[dict[str, Any]]:
        """The commits as they were written, each once, in the order of the shards' ids."""
        for batch in self.table().to_batches(max_chunksize=_ROWS_AT_ONCE):
            for row in batch.to_pylist():
                yield {**row, "rejects_by_class": dict(row["rejects_by_class"])}

    def table(self) -> pa.Table:
        """The same as a table."""
        table = pa.concat_tables(list(self.tables.values()) or [_SCHEMA.empty_table()]).sort_by("shard_id")
        ids = table.column("shard_id").combine_chunks()
        is_first = pc.not_equal(ids[1:], ids[:-1])
        return table.filter(pa.concat_arrays([pa.array([True][: len(ids)], pa.bool_()), is_first]))


def newest_snapshot(
    store: Store,
    known: Snapshot | None = None,
    *,
    strict: bool = False,
    ids_alone: bool = False,
    columns: Sequence[str] | None = None,
    upto: int | None = None,
) -> Snapshot:
    """The commits of all files.

    Of a file that cannot be read it is warned, and it is left out: they are derived.

    Args:
        store: the dataset's root.
        known: one that was read or written before; only what came since is read.
        strict: raise instead.
        ids_alone: keep the shards' ids alone, as a driver does.
        columns: keep these alone, the ids among them.
        upto: leave out the files after this one.

    Raises:
        ConfigError: with `strict`, a file is not ours.
    """
    numbers = sorted(int(match[1]) for info in store.list(_FOLDER) if (match := _NAME.fullmatch(info.path)))
    numbers = [number for number in numbers if upto is None or number <= upto]
    tables = dict(known.tables) if known is not None else {}
    new = [number for number in numbers if number not in tables]

    def read(number: int) -> pa.Table:
        table = _read(store, _path(number), strict=strict)
        return _ids_of(table) if ids_alone else table if columns is None else table.select(list(columns))

    with ThreadPoolExecutor(_READ_AT_ONCE) as threads:
        tables.update(zip(new, threads.map(read, new), strict=True))
    return Snapshot(max(numbers, default=0), tables)


def _read(store: Store, path: str, *, strict: bool) -> pa.Table:
    try:
        table = read_table(store.read(path)).select(_SCHEMA.names).cast(_SCHEMA)
        if table.column("shard_id").null_count:
            raise ValueError("a commit of no shard")
        return table
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        if strict:
            raise ConfigError(f"{store.root}/{path}: is not a snapshot of ours: {error}") from None
        log.warning("%s/%s cannot be read, and is left out: %s", store.root, path, error)
        return _SCHEMA.empty_table()


def add_to_snapshot(store: Store, commits: Sequence[Mapping[str, Any]], known: Snapshot) -> Snapshot:
    """Writes those of some commits that the snapshot lacks.

    Of two drivers one comes first; the other's file is the next one.

    Args:
        store: the dataset's root.
        commits: which.
        known: see `newest_snapshot`.

    Returns:
        The newest one then, of the ids alone as far as it was not known.
    """
    for _ in range(_MOST_TRIES):
        known = newest_snapshot(store, known, ids_alone=True)
        mine = pa.array([commit["shard_id"] for commit in commits], pa.string())
        is_there = pc.is_in(mine, value_set=known.ids)
        new = [dict(commit) for commit, there in zip(commits, is_there.to_pylist(), strict=True) if not there]
        if not new:
            return known
        table = pa.Table.from_pylist(new, schema=_SCHEMA).sort_by("shard_id")
        number = known.number + 1
        crash_point("snapshot-built")
        if store.put_if_absent(_path(number), table_bytes(table)):
            crash_point("snapshot-put")
            return Snapshot(number, {**known.tables, number: _ids_of(table)})
    raise ConfigError(f"{store.root}/{_FOLDER}: others write snapshots all the time")


def _ids_of(table: pa.Table) -> pa.Table:
    """The ids in memory of their own, so that the other columns' is given back."""
    return pa.table({"shard_id": pa.array(table.column("shard_id").to_pylist(), pa.string())})


def _path(number: int) -> str:
    return f"{_FOLDER}/{number:08d}.parquet"
