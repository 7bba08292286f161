"""Some columns of one row group: the footer once, and then the bytes of those columns alone."""

import io
import json
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import NotWhole, StorageError
from pipeline.parts import FOOTER_KEY, REWRITTEN
from pipeline.storage import Store

__all__ = ["REWRITTEN", "CorruptPart", "GroupRows", "PartReader"]

Numbers = npt.NDArray[np.int64]

_TAIL_BYTES = 64 * 2**10
_MAGIC = b"PAR1"
_LENGTH_AND_MAGIC = 4 + len(_MAGIC)
# What lies between two columns is read along if it is less than another request costs.
_GAP_BYTES = 2**20
_FOOTERS_KEPT = 256
_MOST_TRIES = 3
# What bytes that are not those of a part, or of another form of it, may raise.
_UNREADABLE = (pa.ArrowException, OSError, LookupError, TypeError, ValueError, EOFError, NotWhole)


class CorruptPart(StorageError):
    """A part, or a row group of it, that is gone or not what was committed."""


@dataclass(frozen=True)
class GroupRows:
    """Rows of a row group.

    Attributes:
        table: those that are there, each column in one chunk.
        kept: their numbers in the group as it was committed, rising.
    """

    table: pa.Table
    kept: Numbers


@dataclass(frozen=True)
class _Footer:
    metadata: Any
    size_bytes: int
    row_groups: list[int]
    removed: dict[int, list[int]]

    def group(self, committed: int) -> tuple[int, Numbers]:
        """The number in the file of a row group as it was committed, and which of its rows are there."""
        counts = [rows - len(self.removed.get(group, ())) for group, rows in enumerate(self.row_groups)]
        gone = counts[:committed].count(0)
        return committed - gone, np.setdiff1d(np.arange(self.row_groups[committed]), self.removed.get(committed, []))


class PartReader:
    """Reads row groups of the parts of one dataset; footers are kept. Threads may share it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._footers: OrderedDict[str, _Footer] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: str, group: int, columns: Sequence[str] | None, *, size_bytes: int) -> GroupRows:
        """Some columns of a row group.

        Args:
            path: the part's.
            group: number of the row group as it was committed.
            columns: which; None: all.
            size_bytes: of the part as it was committed.

        Raises:
            CorruptPart: it is not there, or is no part whose row group has these columns; the message names both.
            StorageError: the store failed.
        """
        where = f"{self._store.root}/{path}, row group {group}"
        footer = self._known(path)
        for _ in range(_MOST_TRIES):
            try:
                footer = footer or self._footer(path, size_bytes)
                rows = self._read(path, footer, group, columns)
            except _UNREADABLE as error:
                if footer is None or self._stands(path, footer):
                    raise CorruptPart(f"{where}: cannot be read: {type(error).__name__}: {error}") from error
            else:
                if self._stands(path, footer):
                    return rows
            footer = None
        raise CorruptPart(f"{where}: cannot be read: it is written anew all the time")

    def _stands(self, path: str, footer: _Footer) -> bool:
        """Whether the file is still the one whose footer this is: another one may have other rows in the same place.

        It may be written anew at any time, without some rows, which makes it smaller.
        """
        info = self._store.info(path)
        return info is None or info.size_bytes in (0, footer.size_bytes)  # some web servers tell no size

    def described(self, path: str, *, size_bytes: int) -> tuple[Mapping[str, Any], list[int]]:
        """What a part's footer says of it, and the rows of each of its row groups as they were committed.

        Raises:
            CorruptPart: it is not there, or is no part of ours.
            StorageError: the store failed.
        """
        try:
            footer = self._known(path) or self._footer(path, size_bytes)
        except _UNREADABLE as error:
            where = f"{self._store.root}/{path}"
            raise CorruptPart(f"{where}: is not a part of ours: {type(error).__name__}: {error}") from error
        return json.loads(footer.metadata.metadata[FOOTER_KEY]), footer.row_groups

    def _known(self, path: str) -> _Footer | None:
        with self._lock:
            if (known := self._footers.get(path)) is not None:
                self._footers.move_to_end(path)
            return known

    def _footer(self, path: str, size_bytes: int) -> _Footer:
        footer = self._read_footer(path, size_bytes)
        with self._lock:
            self._footers[path] = footer
            while len(self._footers) > _FOOTERS_KEPT:
                self._footers.popitem(last=False)
        return footer

    def _read_footer(self, path: str, size_bytes: int) -> _Footer:
        try:
            tail = self._store.read_range(path, max(0, size_bytes - _TAIL_BYTES), size_bytes)
        except NotWhole:
            tail = b""
        if tail[-len(_MAGIC) :] != _MAGIC:  # it may have been written anew, without some rows
            info = self._store.info(path)
            size_bytes = size_bytes if info is None else info.size_bytes
            tail = self._store.read_range(path, max(0, size_bytes - _TAIL_BYTES), size_bytes)
        wanted = int.from_bytes(tail[-_LENGTH_AND_MAGIC : -len(_MAGIC)], "little") + _LENGTH_AND_MAGIC
        if len(tail) < wanted <= size_bytes:
            tail = self._store.read_range(path, size_bytes - wanted, size_bytes)
        metadata = pq.read_metadata(pa.BufferReader(tail))
        standing = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        said = json.loads((metadata.metadata or {})[FOOTER_KEY])
        before = said.get(REWRITTEN, {"row_groups": standing, "removed": {}})
        removed = {int(group): rows for group, rows in before["removed"].items()}
        return _Footer(metadata, size_bytes, before["row_groups"], removed)

    def _read(self, path: str, footer: _Footer, group: int, columns: Sequence[str] | None) -> GroupRows:
        number, kept = footer.group(group)
        schema = footer.metadata.schema.to_arrow_schema()
        columns = schema.names if columns is None else columns
        if not len(kept):
            return GroupRows(pa.schema([schema.field(name) for name in columns]).empty_table(), kept)
        source = _Ranges(footer.size_bytes)
        for begin, end in _ranges(footer.metadata.row_group(number), set(columns)):
            source.add(begin, self._store.read_range(path, begin, end))
        with pq.ParquetFile(
            pa.PythonFile(source, mode="r"), metadata=footer.metadata, pre_buffer=False, page_checksum_verification=True
        ) as file:
            table = file.read_row_group(number, columns=list(columns), use_threads=False)
        return GroupRows(table.select(list(columns)).combine_chunks(), kept)


def _ranges(group: Any, columns: Collection[str]) -> list[tuple[int, int]]:
    """The bytes of the columns that are wanted, those close to each other together."""
    ranges: list[tuple[int, int]] = []
    for number in range(group.num_columns):
        chunk = group.column(number)
        if chunk.path_in_schema.partition(".")[0] not in columns:
            continue
        begin = chunk.data_page_offset
        if chunk.dictionary_page_offset is not None:
            begin = min(begin, chunk.dictionary_page_offset)
        ranges.append((begin, begin + chunk.total_compressed_size))
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(ranges):
        if joined and begin - joined[-1][1] <= _GAP_BYTES:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return joined


class _Ranges(io.RawIOBase):
    """A file of which only some ranges are at hand."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._position = 0
        self._ranges: list[tuple[int, memoryview]] = []

    def add(self, begin: int, data: bytes) -> None:
        self._ranges.append((begin, memoryview(data)))

    def read(self, size: int | None = -1, /) -> memoryview:  # Arrow takes it without a copy
        wanted = self._size_bytes - self._position if size is None or size < 0 else size
        for begin, data in self._ranges:
            if begin <= self._position and self._position + wanted <= begin + len(data):
                first = self._position - begin
                self._position += wanted
                return data[first : first + wanted]
        raise EOFError(f"bytes {self._position} to {self._position + wanted} were not asked for")

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True
