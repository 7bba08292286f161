"""The rows of a lane, epoch after epoch, as a TokenStream packs them."""

import os
from collections.abc import Callable

from pipeline.reading.order import EpochOrder, Unit
from pipeline.reading.packing import RowWriter, WrittenRow
from pipeline.reading.parts import CorruptPart
from pipeline.reading.rows import CorruptPolicy, RowReader
from pipeline.reading.source import Source

__all__ = ["Lane", "Lanes"]

_ROWS_AHEAD = 256
_ORDERS_KEPT = 4
_CAPTION = "caption"


class Lanes:
    """The lanes of a dataset's order, in one process."""

    def __init__(
        self,
        source: Source,
        writer: RowWriter,
        *,
        seed: int,
        lanes: int,
        shuffle: bool,
        on_corrupt: CorruptPolicy,
        on_lost: Callable[[int], None],
    ) -> None:
        """Opens nothing yet.

        Args:
            source: what is read.
            writer: how rows become ids.
            seed: of the order.
            lanes: how many there are.
            shuffle: whether rows are shuffled.
            on_corrupt: see TokenDataset.
            on_lost: is told for how many rows others stood in.
        """
        self.source, self.writer, self.on_corrupt, self.on_lost = source, writer, on_corrupt, on_lost
        self._seed, self._lanes, self._shuffle = seed, lanes, shuffle
        self._process = os.getpid()
        self._orders: dict[int, EpochOrder] = {}
        most = 2 * lanes + 2
        self.reader = RowReader(source, is_batched=False, on_corrupt=on_corrupt, most_groups=most)
        # For the lengths of rows that are only gone over.
        self.captions = RowReader(source.of_columns(_CAPTION), is_batched=False, on_corrupt="raise", most_groups=most)

    @property
    def is_of_this_process(self) -> bool:
        """Whether it was made in this process."""
        return self._process == os.getpid()

    def order(self, epoch: int) -> EpochOrder:
        """The order of an epoch."""
        if epoch not in self._orders:
            while len(self._orders) >= _ORDERS_KEPT:
                del self._orders[min(self._orders)]
            sections = self.source.index.sections(by_shape=False)
            self._orders[epoch] = EpochOrder(
                sections, seed=self._seed, epoch=epoch, lanes=self._lanes, shuffle=self._shuffle
            )
        return self._orders[epoch]


class Lane:
    """One lane; its rows are numbered over all epochs."""

    def __init__(self, lanes: Lanes, number: int, epochs: int | None) -> None:
        self._lanes = lanes
        self._number = number
        self._unit = lanes.order(0).lane(0, number)
        self.num_rows = self._unit.count
        self._end = None if epochs is None else epochs * self.num_rows
        self._written: tuple[int, WrittenRow] | None = None
        shapes = lanes.source.index.shapes
        # Where it is that of every row, rows need not be gone over one by one.
        self.row_length = (
            lanes.writer.vocabulary.num_ids(shapes[0]) if len(shapes) == 1 and lanes.writer.text is None else None
        )

    def _unit_of(self, row: int) -> tuple[EpochOrder, Unit]:
        epoch, place = divmod(row, self.num_rows)
        order = self._lanes.order(epoch)
        return order, Unit(0, order.lane(0, self._number).first + place, 1)

    def length_of(self, row: int) -> int | None:
        """How many ids a row has; None behind the last one."""
        if self._end is not None and row >= self._end:
            return None
        if self.row_length is not None:
            return self.row_length
        order, unit = self._unit_of(row)
        (span,) = order.spans(unit)
        index = self._lanes.source.index
        rows = index.rows_of(span.group, None)
        number = int(rows[order.order_in_group(0, span.group, len(rows))][span.first])
        return self._lanes.writer.num_ids(index.shape_of(span.group, number), lambda: self._caption(order, unit))

    def _caption(self, order: EpochOrder, unit: Unit) -> str | None:
        try:
            caption: str | None = self._lanes.captions.item(order, unit)[0][_CAPTION]
        except CorruptPart:
            if self._lanes.on_corrupt == "raise":
                raise
            return None
        return caption

    def written(self, row: int) -> WrittenRow:
        """A row as ids, as many as `length_of` says; the last one is kept, which often goes on in the next sequence."""
        if self._written is None or self._written[0] != row:
            order, unit = self._unit_of(row)
            ahead = min(unit.first + _ROWS_AHEAD, self._unit.first + self.num_rows - 1)
            self._lanes.reader.request(order, unit)
            self._lanes.reader.request(order, Unit(0, ahead, 1))
            found, lost = self._lanes.reader.item(order, unit)
            if lost:
                self._lanes.on_lost(lost)
            written = self._lanes.writer.write(found["id"], found["tokens"], found.get(_CAPTION))
            length = self.length_of(row) if lost else None
            self._written = (row, written if length is None else written.fitted(length))
        return self._written[1]
