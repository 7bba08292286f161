"""Which row groups a snapshot has, how many rows each, and of which latent shape; nothing of a part is read for it.

But where a part's rows have several shapes: then its columns of shape are.
"""

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.parts import REWRITTEN
from pipeline.reading.order import Section
from pipeline.reading.parts import CorruptPart, PartReader
from pipeline.row_sets import Place, Rows
from pipeline.snapshots import newest_snapshot
from pipeline.statistics import LatentStatistics

__all__ = ["RowIndex", "Shape", "read_index"]

Numbers = npt.NDArray[np.int64]
Shape = tuple[int, int, int]  # (T, H, W) of the latent grid

log = logging.getLogger(__name__)

_SHAPE_COLUMNS = ("latent_t", "latent_h", "latent_w")
_READ_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True)
class RowIndex:
    """The row groups of a snapshot, in the order of shards, parts and groups.

    Attributes:
        snapshot: its number.
        parts: each part as its commit names it (path, size_bytes, sha256), in Arrow's memory.
        part: the number of each group's part.
        group: the number of each group in its part.
        rows: how many rows each group has.
        first_group: the number of each part's first group.
        shape: the number of the latent shape that all rows of a group have; -1 where they have several.
        shapes: the latent shapes, rising.
        statistics: of the latents, of all rows that were committed; None where they are tokens.
        mixed: by number of a group, each row's shape.
        left_out: by number of a group, which rows are not given.
    """

    snapshot: int
    parts: Any
    part: Numbers
    group: Numbers
    rows: Numbers
    first_group: Numbers
    shape: Numbers
    shapes: list[Shape]
    statistics: LatentStatistics | None
    mixed: Mapping[int, Numbers] = field(default_factory=dict)
    left_out: Mapping[int, Numbers] = field(default_factory=dict)

    def place(self, group: int) -> Place:
        """The path of a group's part, and its number in there."""
        return self._of_part(group, "path"), int(self.group[group])

    def size_bytes(self, group: int) -> int:
        """The size of a group's part as it was committed."""
        return int(self._of_part(group, "size_bytes"))

    def sha256(self, group: int) -> str:
        """The sha256 of a group's part as it was committed."""
        return str(self._of_part(group, "sha256"))

    def _of_part(self, group: int, name: str) -> Any:
        return self.parts[int(self.part[group])][name].as_py()

    def shape_of(self, group: int, row: int) -> Shape:
        """The latent shape of a row of a group."""
        return self.shapes[int(self.mixed[group][row] if group in self.mixed else self.shape[group])]

    def rows_of(self, group: int, shape: int | None) -> Numbers:
        """The numbers of the rows of a group that are given, of one shape or of all."""
        rows = np.arange(self.rows[group])
        if shape is not None and group in self.mixed:
            rows = np.flatnonzero(self.mixed[group] == shape)
        elif shape is not None and self.shape[group] != shape:
            rows = rows[:0]
        left_out = self.left_out.get(group)
        return rows if left_out is None else np.setdiff1d(rows, left_out, assume_unique=True)

    def sections(self, *, by_shape: bool) -> list[Section]:
        """All rows in one section, or those of each shape in one of their own."""
        return [self._section(shape) for shape in (range(len(self.shapes)) if by_shape else [None])]

    def _section(self, shape: int | None) -> Section:
        counts = self.rows.copy() if shape is None else np.where(self.shape == shape, self.rows, 0)
        special = set(self.left_out) | (set() if shape is None else set(self.mixed))
        for group in special:
            counts[group] = len(self.rows_of(group, shape))
        groups = np.flatnonzero(counts)
        return Section(groups, counts[groups])

    def without(self, places: Rows, *, among: Rows | None = None) -> "RowIndex":
        """The same with fewer rows given.

        Args:
            places: rows that are left out.
            among: only these are given.
        """
        if not places and among is None:
            return self
        left_out = dict(self.left_out)
        numbers = {place: number for number, place in enumerate(self.places())}
        for place, rows in places.items():
            if (group := numbers.get(place)) is not None and len(rows):
                left_out[group] = np.union1d(left_out.get(group, np.zeros(0, np.int64)), rows)
        if among is not None:
            for place, group in numbers.items():
                others = np.setdiff1d(np.arange(self.rows[group]), among[place])
                left_out[group] = np.union1d(left_out.get(group, np.zeros(0, np.int64)), others)
        return RowIndex(**{**self.__dict__, "left_out": left_out})

    def places(self) -> list[Place]:
        """Each group's part and number."""
        paths = self.parts.field("path").to_pylist()
        return [(paths[part], group) for part, group in zip(self.part.tolist(), self.group.tolist(), strict=True)]


def read_index(dataset: Dataset, snapshot: int | None = None, *, skip_corrupt: bool = False) -> RowIndex:
    """The row groups of a snapshot.

    Args:
        dataset: which.
        snapshot: its number; the newest by default.
        skip_corrupt: where rows of several shapes cannot be read, leave them out.

    Raises:
        ConfigError: there is no such snapshot.
        CorruptPart: rows of several shapes cannot be read.
        StorageError: the store failed.
    """
    newest = newest_snapshot(dataset.store, strict=True, upto=snapshot)
    if newest.number == 0 or snapshot not in (None, newest.number):
        wanted = "no snapshot" if snapshot is None else f"no snapshot {snapshot}"
        raise ConfigError(
            f"{dataset.store.root}: has {wanted}; a run of `vidtok tokenize` writes one now and then, and at its end"
        )
    table = newest.table()
    column: Any = pa.chunked_array(table.column("parts").chunks, table.schema.field("parts").type).combine_chunks()
    parts = column.flatten()
    row_groups, shapes = (parts.field(name) for name in ("row_groups", "shapes"))
    groups_of_part = np.asarray(row_groups.value_lengths(), np.int64)
    first_group = np.concatenate([[0], np.cumsum(groups_of_part)])
    part = np.repeat(np.arange(len(parts)), groups_of_part)
    known, shape_of_part = _shapes(shapes)
    index = RowIndex(
        snapshot=newest.number,
        parts=parts,
        part=part,
        group=np.arange(len(part)) - first_group[part],
        rows=np.asarray(row_groups.flatten(), np.int64),
        first_group=first_group[:-1],
        shape=shape_of_part[part],
        shapes=known,
        statistics=_statistics(table.column("statistics").drop_null()),
    )
    mixed = _mixed(dataset, index, np.flatnonzero(shape_of_part == -1), skip_corrupt)
    gone = {group: np.arange(index.rows[group]) for group, shapes in mixed.items() if not len(shapes)}
    return RowIndex(**{**index.__dict__, "mixed": mixed, "left_out": gone})


def _statistics(sums: Any) -> LatentStatistics | None:
    """Of the sums of all commits, added up column by column: there may be a million of them."""
    if not len(sums):
        return None
    total = {}
    for kind in ("first", "rest"):
        found = pc.struct_field(sums, kind)
        count = pc.sum(pc.struct_field(found, "count")).as_py()
        names = ("sum", "sum_of_squares")
        values = {name: np.asarray(pc.list_flatten(pc.struct_field(found, name))) for name in names}
        total[kind] = {"count": count, **{name: one.reshape(len(sums), -1).sum(axis=0) for name, one in values.items()}}
    return LatentStatistics.of(total)


def _shapes(shapes: Any) -> tuple[list[Shape], Numbers]:
    """All shapes, rising, and that of each part: -1 where it has several, -2 where it has no rows."""
    counts = np.asarray(shapes.value_lengths(), np.int64)
    values_N3 = np.asarray(shapes.flatten().field("shape").flatten(), np.int64).reshape(-1, 3)
    known_K3, number = np.unique(values_N3, axis=0, return_inverse=True)
    first = np.concatenate([[0], np.cumsum(counts)])[:-1]
    of_part = np.where(counts == 1, np.append(number.reshape(-1), 0)[np.minimum(first, len(values_N3))], -1)
    return [tuple(shape) for shape in known_K3.tolist()], np.where(counts == 0, -2, of_part)


def _mixed(dataset: Dataset, index: RowIndex, parts: Numbers, skip_corrupt: bool) -> dict[int, Numbers]:
    """The shape of each row of the row groups of some parts; empty for a row group that cannot be read."""
    numbers = {shape: number for number, shape in enumerate(index.shapes)}

    def read(part: int) -> list[Numbers]:
        found = []
        for group in np.flatnonzero(index.part == part).tolist():
            try:
                rows = reader.read(*index.place(group), _SHAPE_COLUMNS, size_bytes=index.size_bytes(group))
            except CorruptPart as error:
                if not skip_corrupt:
                    raise
                log.warning("%s; its rows are left out", error)
                found.append(np.zeros(0, np.int64))
                continue
            shapes = zip(*(rows.table.column(name).to_pylist() for name in _SHAPE_COLUMNS), strict=True)
            of_rows = np.full(index.rows[group], -1)
            of_rows[rows.kept] = [numbers[shape] for shape in shapes]
            _add_gone(of_rows, *index.place(group), index.size_bytes(group))
            found.append(of_rows)
        return found

    def _add_gone(of_rows: Numbers, path: str, group: int, size_bytes: int) -> None:
        """The shapes of rows that are in the part no more, so that the order of the others stays."""
        said = reader.described(path, size_bytes=size_bytes)[0].get(REWRITTEN, {})
        for row, shape in zip(
            *(said.get(name, {}).get(str(group), ()) for name in ("removed", "shapes")), strict=False
        ):
            of_rows[row] = numbers[tuple(shape)]

    reader = PartReader(dataset.store)

    with ThreadPoolExecutor(_READ_AT_ONCE) as threads:
        found = threads.map(read, parts.tolist())
        return {
            int(index.first_group[part]) + place: shapes
            for part, of_groups in zip(parts.tolist(), found, strict=True)
            for place, shapes in enumerate(of_groups)
        }
