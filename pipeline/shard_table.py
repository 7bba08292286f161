"""Shards as rows of a table, which a million of them need: as objects they would take a gigabyte."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self, cast, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

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
_ROWS_AT_ONCE = 1000


class ShardTable(Sequence[Shard]):
    """Shards in an order; each is made an object when it is asked for.

    Attributes:
        table: their rows, in an order of their own.
    """

    SCHEMA = pa.schema(_COLUMNS)

    def __init__(self, table: pa.Table, order: npt.NDArray[np.int64] | None = None) -> None:
        """Takes rows of SCHEMA; of these those that `order` numbers, in that order, by default all."""
        self.table = table
        self._order = order

    @classmethod
    def of(cls, shards: Iterable[Shard]) -> Self:
        """A table of some shards."""
        tables = [cls.SCHEMA.empty_table()]
        rows = (_row(shard) for shard in shards)
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            tables.append(pa.Table.from_pylist(some, schema=cls.SCHEMA))
        return cls(pa.concat_tables(tables))

    def chosen(self, order: npt.NDArray[np.int64]) -> "ShardTable":
        """Some of these shards, by their numbers among these."""
        return ShardTable(self.table, order if self._order is None else self._order[order])

    def without(self, ids: "pa.Array[Any] | pa.ChunkedArray[Any]") -> "ShardTable":
        """Those whose ids are not among some."""
        is_other = pc.invert(pc.is_in(self.ids, value_set=ids))
        return self.chosen(np.flatnonzero(is_other.to_numpy(zero_copy_only=False)))

    @property
    def ids(self) -> "pa.Array[Any]":
        """Their ids."""
        return cast("pa.Array[Any]", self._column("shard_id"))

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Their sizes in bytes."""
        sizes: npt.NDArray[np.int64] = self._column("size_bytes").to_numpy()
        return sizes

    def _column(self, name: str) -> Any:
        column: Any = self.table.column(name).combine_chunks()
        return column if self._order is None else column.take(_numbers(self._order))

    def __len__(self) -> int:
        """How many."""
        return self.table.num_rows if self._order is None else len(self._order)

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
            if self._order is None:
                rows = self.table.slice(begin, _ROWS_AT_ONCE)
            else:
                rows = self.table.take(_numbers(self._order[begin : begin + _ROWS_AT_ONCE]))
            yield from (_shard(row) for row in rows.to_pylist())

    def __eq__(self, other: object) -> bool:
        """Whether the same shards come in the same order."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as of lists


def _numbers(order: npt.NDArray[np.int64]) -> Any:
    return pa.array(order, pa.int64())


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
