"""Columns of a dataset's row groups, several read at a time by ranges; and one row found among them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, groupby, islice
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import ConfigError
from pipeline.reading.parts import CorruptPart, GroupRows, PartReader
from pipeline.row_sets import Place, Rows
from pipeline.rows import SEGMENT_COLUMN

__all__ = ["RowGroupPlace", "find_stream", "groups_of", "groups_of_part", "scan", "with_its_stream", "without"]

_READ_AT_ONCE, _READ_AHEAD = 16, 64  # parts


@dataclass(frozen=True, kw_only=True)
class RowGroupPlace:
    """A row group as it was committed.

    Attributes:
        place: its part's path, and its number in there.
        size_bytes: of the part.
        rows: how many it had.
    """

    place: Place
    size_bytes: int
    rows: int


def groups_of(commits: Iterable[Mapping[str, Any]]) -> Iterator[RowGroupPlace]:
    """The row groups of some commits, in the order of their parts."""
    for commit in commits:
        for part in commit["parts"]:
            yield from _groups(part["path"], part["size_bytes"], part["row_groups"])


def groups_of_part(reader: PartReader, path: str, size_bytes: int) -> list[RowGroupPlace]:
    """The row groups of a part, as its own footer tells.

    Raises:
        CorruptPart: it is no part of ours.
        StorageError: the store failed.
    """
    return list(_groups(path, size_bytes, reader.described(path, size_bytes=size_bytes)[1]))


def _groups(path: str, size_bytes: int, row_groups: Sequence[int]) -> Iterator[RowGroupPlace]:
    for number, rows in enumerate(row_groups):
        yield RowGroupPlace(place=(path, number), size_bytes=size_bytes, rows=rows)


def scan(
    reader: PartReader,
    groups: Iterable[RowGroupPlace],
    columns: Sequence[str],
    removed: Rows | None = None,
    on_corrupt: Callable[[CorruptPart], None] | None = None,
) -> Iterator[tuple[RowGroupPlace, GroupRows]]:
    """Some columns of row groups, in order.

    Args:
        reader: of the dataset's parts.
        groups: which; they are taken as they are needed.
        columns: which.
        removed: rows that are left out.
        on_corrupt: takes what one that cannot be read raises, and the others come all the same.

    Raises:
        CorruptPart: one cannot be read.
        StorageError: the store failed.
    """

    def read_one(group: RowGroupPlace) -> GroupRows | CorruptPart:
        try:
            return _read(reader, group, columns, removed or {})
        except CorruptPart as error:
            if on_corrupt is None:
                raise
            return error

    def read(part: Sequence[RowGroupPlace]) -> list[tuple[RowGroupPlace, GroupRows | CorruptPart]]:
        return [(group, read_one(group)) for group in part]

    # By parts, so that each footer is read once.
    parts = (list(part) for _, part in groupby(groups, lambda group: group.place[0]))
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="scan") as threads:
        while some := list(islice(parts, _READ_AHEAD)):
            for group, rows in chain.from_iterable(threads.map(read, some)):
                if isinstance(rows, GroupRows):
                    yield group, rows
                elif on_corrupt is not None:
                    on_corrupt(rows)


def _read(reader: PartReader, group: RowGroupPlace, columns: Sequence[str] | None, removed: Rows) -> GroupRows:
    rows = reader.read(*group.place, columns, size_bytes=group.size_bytes)
    return without(rows, removed.get(group.place, ()))


def without(rows: GroupRows, removed: Any) -> GroupRows:
    """What is left of a row group without some rows, by their numbers as committed."""
    is_left = ~np.isin(rows.kept, removed)
    return rows if is_left.all() else GroupRows(rows.table.filter(pa.array(is_left)), rows.kept[is_left])


def find_stream(
    reader: PartReader, groups: Iterable[RowGroupPlace], row_id: str, removed: Rows
) -> tuple[pa.Table, int] | None:
    """The row with an id, with all that it takes to decode it, and its place among them; None where it is not there.

    That is the row alone, or of a stream's segments those from the first to the one behind it. Of all row groups only
    the ids are read, and then the row's own.

    Raises:
        ConfigError: it is a segment, and one before it is not there.
        CorruptPart: a row group cannot be read.
        StorageError: the store failed.
    """
    for group, rows in scan(reader, groups, ("id",), removed):
        place = pc.index(rows.table.column("id"), row_id).as_py()
        if place < 0:
            continue
        whole = _read(reader, group, None, removed).table
        if SEGMENT_COLUMN not in whole.column_names:
            return whole.slice(place, 1), 0
        return with_its_stream(reader, group, row_id, removed)
    return None


def with_its_stream(reader: PartReader, found: RowGroupPlace, row_id: str, removed: Rows) -> tuple[pa.Table, int]:
    """A stream's segments from the first to the one behind a row of this row group, and the row's place among them.

    Raises:
        ConfigError, CorruptPart, StorageError: see `find_stream`.
    """
    path = found.place[0]
    groups = groups_of_part(reader, path, found.size_bytes)  # a video's rows stand in one part, in order
    columns = ("id", SEGMENT_COLUMN)
    tables = [_read(reader, group, columns, removed).table for group in groups]
    number = pa.concat_tables(tables).column("id").to_pylist().index(row_id)
    segments: list[Any] = pa.concat_tables(tables).column(SEGMENT_COLUMN).to_pylist()
    place = segments[number]
    if segments[max(0, number - place) : number + 1] != list(range(place + 1)):
        raise ConfigError(f"{path}: row {row_id!r}: the segments before it are not all there")
    goes_on = segments[number + 1 : number + 2] == [place + 1]
    first, count = number - place, place + (2 if goes_on else 1)
    begins = np.cumsum([0, *map(len, tables)])
    wanted = [index for index in range(len(groups)) if begins[index] < first + count and begins[index + 1] > first]
    rows = pa.concat_tables(_read(reader, groups[index], None, removed).table for index in wanted)
    return rows.slice(first - int(begins[wanted[0]]), count), place
