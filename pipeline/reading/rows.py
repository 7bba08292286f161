"""From a unit of the order to the rows or the batch that it names."""

import itertools
import logging
import os
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from pipeline.reading.groups import Groups, RowGroup, gathered
from pipeline.reading.order import EpochOrder, Unit
from pipeline.reading.parts import CorruptPart
from pipeline.reading.source import Source

__all__ = ["CorruptPolicy", "RowReader"]

Numbers = npt.NDArray[np.int64]
Pieces = list[tuple[RowGroup, Numbers]]
CorruptPolicy = Literal["raise", "skip"]

# How far ahead units are looked through for row groups that will be needed.
_LOOK_AHEAD = 4096

log = logging.getLogger(__name__)


class RowReader:
    """Reads the rows of units, in one process."""

    def __init__(self, source: Source, *, is_batched: bool, on_corrupt: CorruptPolicy, most_groups: int) -> None:
        """Opens nothing yet.

        Args:
            source: what is read.
            is_batched: whether a unit's rows have one shape and come as a batch.
            on_corrupt: `raise`, or `skip`: other rows stand in for those of a row group that cannot be read.
            most_groups: row groups that are kept.
        """
        self._source = source
        self._is_batched = is_batched
        self._on_corrupt = on_corrupt
        self._process = os.getpid()
        self._told: set[int] = set()  # row groups that cannot be read, of which a warning was given
        self._groups = Groups(source.read, most=most_groups)

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made in this process; threads do not survive a fork."""
        return self._process == os.getpid()

    def ahead(self, order: EpochOrder, units: Iterator[int], read_ahead: int) -> Iterator[int]:
        """The numbers of units as they come, while up to `read_ahead` row groups are read for those that follow."""
        coming: deque[tuple[int, list[int]]] = deque()
        not_begun: set[int] = set()  # row groups that were asked for, and that no unit was taken from
        while True:
            while len(coming) < _LOOK_AHEAD and (len(not_begun) < read_ahead or not coming):
                number = next(units, None)
                if number is None:
                    break
                groups = [span.group for span in order.spans(order.unit(number))]
                not_begun.update(group for group in groups if self._groups.request(group))
                coming.append((number, groups))
            if not coming:
                return
            number, groups = coming.popleft()
            not_begun.difference_update(groups)
            yield number

    def request(self, order: EpochOrder, unit: Unit) -> None:
        """Begins to read the row groups of a unit."""
        for span in order.spans(unit):
            self._groups.request(span.group)

    def item(self, order: EpochOrder, unit: Unit) -> tuple[dict[str, Any], int]:
        """A unit's row or batch, and for how many of its rows others stand in.

        Raises:
            CorruptPart: a row group cannot be read and `on_corrupt` is `raise`, or none can.
            StorageError: the store failed.
        """
        pieces, lost = self._pieces(order, unit)
        if lost:
            pieces = self._filled(order, unit, pieces)
        return (self._batch if self._is_batched else self._row)(pieces), lost

    def _pieces(self, order: EpochOrder, unit: Unit) -> tuple[Pieces, int]:
        """Where the rows of a unit are, and how many are nowhere."""
        pieces: Pieces = []
        lost = unit.count
        for span in order.spans(unit):
            try:
                group = self._groups.get(span.group)
            except CorruptPart as error:
                if self._on_corrupt == "raise":
                    raise
                if span.group not in self._told:
                    self._told.add(span.group)
                    log.warning("%s; other rows stand in for its rows", error)
                continue
            places = self._order_of(order, unit.section, span.group, group)[span.first : span.first + span.count]
            places = places[places >= 0]
            if len(places):
                pieces.append((group, places))
                lost -= len(places)
        return pieces, lost

    def _order_of(self, order: EpochOrder, section: int, number: int, group: RowGroup) -> Numbers:
        """The places of the rows of a section in a group, in the epoch's order."""

        def make() -> Numbers:
            rows = self._source.index.rows_of(number, section if self._is_batched else None)
            rows = rows[order.order_in_group(section, number, len(rows))]
            banned = self._source.banned.get(number)
            return rows if banned is None else np.where(np.isin(rows, banned), -1, rows)

        return group.order((order.key, section), make)

    def _filled(self, order: EpochOrder, unit: Unit, pieces: Pieces) -> Pieces:
        """As many rows as the unit has: its own again, or where it has none, those that come next."""
        # Of another shape only where no row of this one can be read.
        sections = [unit.section, *(number for number in range(order.num_sections) if number != unit.section)]
        for section in sections:
            total, gone = order.num_rows(section), 0
            first = unit.first if section == unit.section else 0
            while not pieces and gone < total:
                pieces, _ = self._pieces(order, Unit(section, first, min(unit.count, total - first)))
                # Row by row, but for a row group that cannot be read, of which a unit may be a small part.
                (span, *_) = order.spans(Unit(section, first, 1))
                is_corrupt = span.group in self._told
                step = order.rows_left_in_group(section, first) if is_corrupt else min(unit.count, total - first)
                first, gone = (first + step) % total, gone + step
        if not pieces:
            raise CorruptPart(f"{self._source.dataset.store.root}: no row group can be read, or all were removed")
        whole, left = [], unit.count
        for group, places in itertools.cycle(pieces):
            whole.append((group, places[:left]))
            left -= len(whole[-1][1])
            if not left:
                return whole
        raise AssertionError("a cycle has no end")

    def _row(self, pieces: Pieces) -> dict[str, Any]:
        ((group, places),) = pieces
        place = int(places[0])
        row = {name: _own(group.values(name)[place]) for name in self._source.columns}
        for name in self._source.payloads:
            values, begins = group.payload(name)
            shape = group.shapes[place]
            grid = shape if self._source.channels is None else (self._source.channels, *shape)
            row[name] = values[begins[place] : begins[place + 1]].clone().view(grid)
        return row

    def _batch(self, pieces: Pieces) -> dict[str, Any]:
        columns = self._source.columns
        batch = {name: _joined([_taken(group.values(name), places) for group, places in pieces]) for name in columns}
        for name in self._source.payloads:
            batch[name] = gathered(pieces, name, self._source.channels)
        return batch


def _own(value: Any) -> Any:
    """A value that may be written to: a number of a tensor as Python's own, a list or a tensor as one of its own."""
    if isinstance(value, torch.Tensor):
        return value.clone() if value.dim() else value.item()
    return list(value) if isinstance(value, list) else value


def _taken(values: Any, places: Numbers) -> Any:
    if isinstance(values, torch.Tensor):
        return values[torch.from_numpy(places)]
    return [_own(values[place]) for place in places.tolist()]


def _joined(found: Sequence[Any]) -> Any:
    if isinstance(found[0], torch.Tensor):
        return torch.cat(list(found)) if len(found) > 1 else found[0]
    return list(itertools.chain.from_iterable(found))
