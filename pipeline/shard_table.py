"""Shards as the Parquet files that list them: a million of them as objects would take a gigabyte of memory."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.parts import arrow_buffer, opened_parquet, table_bytes
from pipeline.records import Shard, VideoRange

__all__ = ["ShardTable"]

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("shard_id", pa.string()),
    ("path", pa.string()),
    ("size_bytes", pa.int64()),
    ("etag", pa.string()),
    ("videos", pa.struct([("path", pa.string()), ("first", pa.int64()), ("count", pa.int64())])),
    ("only", pa.list_(pa.struct([("key", pa.string()), ("occurrence", pa.int32())]))),
]
_SCHEMA = pa.schema(_COLUMNS)
_NEVER_NULL = ("shard_id", "path", "size_bytes")
_OBJECTS_AT_ONCE = 1000
# What is read at once, and let go again.
_ROW_GROUP_BYTES = 2 * 2**20
# Rows at once: each time, all row groups that have some of them are read.
_ROWS_AT_ONCE = 20_000

_Numbers = npt.NDArray[np.int64]
_NONE: _Numbers = np.zeros(0, np.int64)


class ShardTable(Sequence[Shard]):
    """Shards in an order; each is made an object when it is asked for."""

    def __init__(self, files: Sequence[pa.Buffer] = (), order: _Numbers | None = None) -> None:
        """Takes Parquet files, whose rows are numbered through, and which of them in which order, by default all."""
        self._files = files
        if order is None:
            order = np.arange(sum(len(table) for _, table in self._groups(*_NEVER_NULL)))
        self._order = order

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The shards that a file lists.

        Raises:
            ValueError: it lists no shards of ours.
            pyarrow.ArrowException, OSError: it is no Parquet file.
        """
        return cls([arrow_buffer(data)])

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> Self:
        """A table of some shards."""
        return cls.read(cls.file_of(shards))

    @classmethod
    def joined(cls, tables: Sequence["ShardTable"]) -> Self:
        """Whole files one after the other."""
        begins = np.cumsum([0, *map(len, tables)])
        orders = [table._order + begin for table, begin in zip(tables, begins, strict=False)]
        return cls([data for table in tables for data in table._files], np.concatenate([*orders, _NONE]))

    @staticmethod
    def file_of(shards: Iterable[Shard]) -> bytes:
        """The file that lists some shards."""
        tables, rows = [_SCHEMA.empty_table()], (_row(shard) for shard in shards)
        while some := list(itertools.islice(rows, _OBJECTS_AT_ONCE)):
            tables.append(pa.Table.from_pylist(some, schema=_SCHEMA))
        return table_bytes(pa.concat_tables(tables), row_group_bytes=_ROW_GROUP_BYTES)

    def _groups(self, *names: str) -> Iterator[tuple[int, pa.Table]]:
        """Some columns of each row group, and the number of its first row."""
        first, schema = 0, pa.schema([_SCHEMA.field(name) for name in names])
        for data in self._files:
            with opened_parquet(data) as file:
                if lacking := set(_SCHEMA.names) - set(file.schema_arrow.names):
                    raise ValueError(f"it has no column {min(lacking)}")
                for number in range(file.num_row_groups):
                    group = file.read_row_group(number, columns=list(names), use_threads=False)
                    table = group.select(list(names)).cast(schema)
                    for name in set(names) & set(_NEVER_NULL):
                        if table.column(name).null_count:
                            raise ValueError(f"a shard has no {name}")
                    yield first, table
                    first += len(table)

    def chosen(self, numbers: _Numbers) -> "ShardTable":
        """Some of these shards, by their numbers among these."""
        return ShardTable(self._files, self._order[numbers])

    def without(self, ids: "pa.Array[Any] | pa.ChunkedArray[Any]") -> "ShardTable":
        """Those whose ids are not among some."""
        if not len(ids):
            return self
        masks = [
            pc.invert(pc.is_in(table.column(0), value_set=ids)).to_numpy() for _, table in self._groups("shard_id")
        ]
        is_other = np.concatenate([*masks, np.zeros(0, bool)])
        return self.chosen(np.flatnonzero(is_other[self._order]))

    def where(self, name: str, value: str) -> "ShardTable":
        """Those that have a value in a column (`shard_id` or `path`)."""
        column: Any = self._column(name)
        return self.chosen(np.flatnonzero(np.asarray(pc.is_in(column, value_set=pa.array([value], pa.string())))))

    def sorted_ids(self, at_once: int) -> Iterator[list[str]]:
        """Their ids in order, so many at a time."""
        ids = self._column("shard_id")
        order = pc.sort_indices(ids)
        for begin in range(0, len(order), at_once):
            yield ids.take(order[begin : begin + at_once]).to_pylist()

    def sizes(self) -> _Numbers:
        """Their sizes in bytes."""
        sizes: _Numbers = self._column("size_bytes").to_numpy()
        return sizes

    def _column(self, name: str) -> Any:
        chunks = (chunk for _, table in self._groups(name) for chunk in table.column(0).chunks)
        column: Any = pa.chunked_array(chunks, _SCHEMA.field(name).type).combine_chunks()
        is_whole = np.array_equal(self._order, np.arange(len(column)))
        return column if is_whole else column.take(_indices(self._order))

    def __len__(self) -> int:
        """How many."""
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Shard: ...
    @overload
    def __getitem__(self, index: slice) -> "ShardTable": ...
    def __getitem__(self, index: int | slice) -> "Shard | ShardTable":
        """One shard, or a part of the table."""
        if isinstance(index, slice):
            return self.chosen(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return next(iter(self.chosen(np.array([index % len(self)]))))

    def __iter__(self) -> Iterator[Shard]:
        """Each shard."""
        for begin in range(0, len(self), _ROWS_AT_ONCE):
            rows = self._rows(self._order[begin : begin + _ROWS_AT_ONCE])
            for batch in rows.to_batches(max_chunksize=_OBJECTS_AT_ONCE):
                yield from (_shard(row) for row in batch.to_pylist())

    def _rows(self, numbers: _Numbers) -> pa.Table:
        rising = np.sort(numbers)
        tables = []
        for first, table in self._groups(*_SCHEMA.names):
            begin, end = np.searchsorted(rising, [first, first + len(table)])
            tables.append(table.take(_indices(rising[begin:end] - first)))
        # From rising numbers back to the order in which they were asked for.
        return pa.concat_tables(tables).combine_chunks().take(_indices(np.searchsorted(rising, numbers)))

    def __eq__(self, other: object) -> bool:
        """Whether the same shards come in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        if len(self) != len(other):
            return False
        if isinstance(other, ShardTable) and np.array_equal(self._order, other._order):
            pairs = itertools.zip_longest(self._files, other._files)
            if all(mine is not None and theirs is not None and mine.equals(theirs) for mine, theirs in pairs):
                return True  # without an object for each
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of lists


def _indices(numbers: _Numbers) -> Any:
    return pa.array(numbers, pa.int64())


def _row(shard: Shard) -> dict[str, Any]:
    return {
        "shard_id": shard.shard_id,
        "path": shard.path,
        "size_bytes": shard.size_bytes,
        "etag": shard.etag,
        "videos": None if shard.videos is None else vars(shard.videos),
        "only": None if shard.only is None else [{"key": key, "occurrence": number} for key, number in shard.only],
    }


def _shard(row: dict[str, Any]) -> Shard:
    only, videos = row.pop("only"), row.pop("videos")
    return Shard(
        **row,
        videos=None if videos is None else VideoRange(**videos),
        only=None if only is None else tuple((video["key"], video["occurrence"]) for video in only),
    )
