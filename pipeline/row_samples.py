"""Some rows of a dataset, from all over it: the same ones each time, as long as nothing is added."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.reading.parts import PartReader
from pipeline.reading.source import Source
from pipeline.row_scan import RowGroupPlace, with_its_stream, without
from pipeline.rows import SEGMENT_COLUMN

__all__ = ["RowSample", "sample_rows"]


@dataclass(frozen=True, kw_only=True)
class RowSample:
    """One row, with all that it takes to decode it and to find what it was made of.

    Attributes:
        rows: the row, and of a stream the segments that it is decoded with.
        place: the row's number among them.
        part: what the footer of its part says.
    """

    rows: pa.Table
    place: int
    part: Mapping[str, Any]

    @property
    def row(self) -> dict[str, Any]:
        """The row itself."""
        row: dict[str, Any] = self.rows.slice(self.place, 1).to_pylist()[0]
        return row


def sample_rows(source: Source, count: int) -> Iterator[RowSample]:
    """Yields rows that are evenly spread over those of a snapshot, each from one row group that is read for it.

    Of a stream, whose rows need all those before them, the first segment stands for whichever was met.

    Args:
        source: of a snapshot.
        count: how many; fewer where there are no more.

    Raises:
        CorruptPart: a row group cannot be read.
        StorageError: the store failed.
    """
    reader, index = PartReader(source.dataset.store), source.index
    (section,) = index.sections(by_shape=False)
    total = int(section.rows.sum())
    ends = np.cumsum(section.rows)
    count = min(count, total)
    taken: set[str] = set()
    for number in ((2 * np.arange(count) + 1) * total // (2 * max(count, 1))).tolist():
        at = int(np.searchsorted(ends, number, "right"))
        group = int(section.groups[at])
        wanted = index.rows_of(group, None)[number - int(ends[at] - section.rows[at])]
        path, of_part = index.place(group)
        size_bytes = index.size_bytes(group)
        found = without(reader.read(path, of_part, None, size_bytes=size_bytes), index.left_out.get(group, ()))
        rows, place = found.table, int(np.searchsorted(found.kept, wanted))
        part, _ = reader.described(path, size_bytes=size_bytes)
        if SEGMENT_COLUMN in rows.column_names:
            firsts = np.flatnonzero(rows.column(SEGMENT_COLUMN).to_numpy() == 0)
            if not len(firsts):
                continue  # the middle of a long stream
            place = int(firsts[max(0, int(np.searchsorted(firsts, place, "right")) - 1)])
        row_id = str(rows.column("id")[place].as_py())
        if row_id in taken:
            continue
        taken.add(row_id)
        if SEGMENT_COLUMN in rows.column_names:
            where = RowGroupPlace(place=(path, of_part), size_bytes=size_bytes, rows=int(index.rows[group]))
            rows, place = with_its_stream(reader, where, row_id, source.dataset.removed())
        yield RowSample(rows=rows, place=place, part=part)
