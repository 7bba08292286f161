"""Rows by their place: sets of them that are written down beside a dataset, as splits and removals are.

`<folder>/00000001.parquet` and so on, each put once: a set is what all of them hold together. A row is named by its
part, its row group and its number in there as the part was committed.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.parts import FOOTER_KEY, opened_parquet, table_bytes
from pipeline.storage import Store

__all__ = ["REMOVED", "SPLITS", "Place", "Rows", "add_rows", "count_files", "read_files", "read_rows"]

# The sets that there are: rows that were taken down, and those of the validation's side.
REMOVED = "_removed"
SPLITS = "_splits"

Place = tuple[str, int]  # a part's path, the number of a row group
Rows = Mapping[Place, npt.NDArray[np.int64]]

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("part", pa.string()),
    ("row_group", pa.int32()),
    ("rows", pa.list_(pa.int32())),
]
_SCHEMA = pa.schema(_COLUMNS)
_MOST_TRIES = 100


def _path(folder: str, number: int) -> str:
    return f"{folder}/{number:08d}.parquet"


def count_files(store: Store, folder: str) -> int:
    """How many files a set has."""
    pattern = re.compile(rf"{folder}/\d{{8}}\.parquet")
    return sum(1 for info in store.list(folder) if pattern.fullmatch(info.path))


def read_rows(store: Store, folder: str, upto: int | None = None) -> tuple[Rows, int]:
    """What a set holds, and how many files it has.

    Args:
        store: the dataset's root.
        folder: which set.
        upto: only so many files.

    Returns:
        For each row group that a file names the numbers of its rows, rising (none: it was looked at, and none is in
        the set); and the number of files that were read.

    Raises:
        ConfigError: a file is not ours, or is gone.
    """
    found: dict[Place, npt.NDArray[np.int64]] = {}
    number = count_files(store, folder) if upto is None else upto
    for rows, _ in _files(store, folder, number):
        for place, numbers in rows.items():
            found[place] = np.union1d(found.get(place, np.zeros(0, np.int64)), numbers)
    return found, number


def read_files(store: Store, folder: str) -> Iterator[tuple[Rows, Mapping[str, Any]]]:
    """The rows of each file of a set, and what its footer says of them.

    Raises:
        ConfigError: a file is not ours, or is gone.
    """
    return _files(store, folder, count_files(store, folder))


def _files(store: Store, folder: str, number: int) -> Iterator[tuple[Rows, Mapping[str, Any]]]:
    for path in (_path(folder, count) for count in range(1, number + 1)):
        data = store.read_if_there(path)
        try:
            if data is None:
                raise ValueError("it is not there")
            with opened_parquet(data) as file:
                table = file.read(use_threads=False).select(_SCHEMA.names).cast(_SCHEMA)
                footer = json.loads((file.metadata.metadata or {}).get(FOOTER_KEY, b"{}"))
        except (pa.ArrowException, OSError, KeyError, ValueError) as error:
            raise ConfigError(f"{store.root}/{path}: is not a list of rows of ours: {error}") from None
        found: dict[Place, npt.NDArray[np.int64]] = {}
        for part, group, rows in zip(*(table.column(name).to_pylist() for name in _SCHEMA.names), strict=True):
            found[part, group] = np.union1d(found.get((part, group), np.zeros(0, np.int64)), np.array(rows, np.int64))
        yield found, footer


def add_rows(store: Store, folder: str, rows: Iterable[tuple[Place, Any]], footer: Mapping[str, Any]) -> int:
    """Writes rows as the next file of a set, whoever writes beside; returns its number."""
    columns = list(zip(*((part, group, list(numbers)) for (part, group), numbers in rows), strict=True))
    table = pa.Table.from_arrays(
        [pa.array(values, field.type) for values, field in zip(columns or ([], [], []), _SCHEMA, strict=True)],
        schema=_SCHEMA,
    )
    data = table_bytes(table, footer)
    for _ in range(_MOST_TRIES):
        number = count_files(store, folder) + 1
        if store.put_if_absent(_path(folder, number), data):
            return number
    raise ConfigError(f"{store.root}/{folder}: others write there all the time")
