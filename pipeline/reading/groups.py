"""Row groups in memory: read ahead, kept while they are in use, and their columns as what a training takes."""

import functools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.utils.dlpack

from pipeline.reading.parts import CorruptPart, GroupRows

__all__ = ["Groups", "RowGroup", "gathered"]

Numbers = npt.NDArray[np.int64]
_AT_ONCE = 4
_ORDERS_KEPT = 16


class RowGroup:
    """Some columns of a row group. Tensors are over Arrow's memory, and nobody may write to them."""

    def __init__(self, rows: GroupRows) -> None:
        self._rows = rows
        self._orders: dict[Any, Numbers] = {}
        self._payloads: dict[str, tuple[torch.Tensor, list[int]]] = {}
        self._values: dict[str, Any] = {}

    def order(self, key: Any, make: Callable[[], Numbers]) -> Numbers:
        """Places in here of rows in some order, -1 for those that are gone; made once for each key.

        Args:
            key: names the order.
            make: gives the numbers of the rows, as committed.
        """
        if key not in self._orders:
            while len(self._orders) >= _ORDERS_KEPT:  # a small dataset stays in memory for all epochs
                del self._orders[next(iter(self._orders))]
            numbers, kept = make(), self._rows.kept
            places = np.searchsorted(kept, numbers)
            is_there = kept[np.minimum(places, len(kept) - 1)] == numbers if len(kept) else np.zeros(len(numbers), bool)
            self._orders[key] = np.where(is_there, places, -1)
        return self._orders[key]

    @functools.cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """The latent shape (T, H, W) of each row."""
        axes = (self._rows.table.column(name).to_pylist() for name in ("latent_t", "latent_h", "latent_w"))
        return list(zip(*axes, strict=True))

    @functools.cached_property
    def is_uniform(self) -> bool:
        """Whether all rows have one shape."""
        return len(set(self.shapes)) == 1

    def payload(self, name: str) -> tuple[torch.Tensor, list[int]]:
        """A payload column as one flat tensor (int32 tokens, float16 latents) and where each row begins in it."""
        if name not in self._payloads:
            self._payloads[name] = _flat(_one_chunk(self._rows.table.column(name)))
        return self._payloads[name]

    def values(self, name: str) -> Any:
        """Another column: a tensor of numbers, of lists of numbers a tensor each, else a list of Python values."""
        if name not in self._values:
            self._values[name] = _python(self._rows.table.column(name))
        return self._values[name]


def _flat(column: Any) -> tuple[torch.Tensor, list[int]]:
    if pa.types.is_list(column.type):
        return _tensor_over(column.values), column.offsets.to_pylist()
    _, offsets, data = column.buffers()
    begins = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1] // 2
    return _tensor_over(pa.Array.from_buffers(pa.float16(), int(begins[-1]), [None, data])), begins.tolist()


def _tensor_over(values: Any) -> torch.Tensor:
    tensor: torch.Tensor = torch.utils.dlpack.from_dlpack(values)
    return tensor


def _python(column: Any) -> Any:
    if pa.types.is_list(column.type) and pa.types.is_floating(column.type.value_type):
        return [torch.tensor(value, dtype=torch.float32) for value in column.to_pylist()]
    if (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)) and not column.null_count:
        return torch.from_numpy(column.to_numpy().copy())
    return column.to_pylist()


def _one_chunk(column: Any) -> Any:
    if column.null_count or column.num_chunks != 1:
        column = pa.chunked_array([pc.drop_null(column).combine_chunks()])
    return column.chunk(0)


def gathered(pieces: Sequence[tuple[RowGroup, Numbers]], name: str, channels: int | None) -> torch.Tensor:
    """Rows of one shape as a batch.

    Args:
        pieces: groups and the places of rows in them.
        name: a payload column.
        channels: of latents; None for tokens.

    Returns:
        (B, T, H, W) or (B, C, T, H, W), of its own memory.
    """
    group, places = pieces[0]
    shape = group.shapes[int(places[0])] if channels is None else (channels, *group.shapes[int(places[0])])
    found = []
    for group, places in pieces:
        values, begins = group.payload(name)
        if group.is_uniform:
            # NumPy's copies by one core; PyTorch's wakes all of them, which takes longer than it saves.
            rows_NX = values.view(len(begins) - 1, -1).numpy()
            found.append(torch.from_numpy(rows_NX.take(places, axis=0)))
        else:
            found.append(torch.stack([values[begins[place] : begins[place + 1]] for place in places.tolist()]))
    return (found[0] if len(found) == 1 else torch.cat(found)).view(-1, *shape)


class Groups:
    """The row groups that a reader has in use, by number."""

    def __init__(self, read: Callable[[int], GroupRows], *, most: int) -> None:
        """Reads nothing yet.

        Args:
            read: gives a group's columns.
            most: how many are kept; those used last.
        """
        self._read = read
        self._most = most
        self._found: OrderedDict[int, Future[RowGroup]] = OrderedDict()
        self._corrupt: dict[int, str] = {}  # what was said; an exception that is raised again and again grows
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="row-groups")

    def request(self, group: int) -> bool:
        """Begins to read a group; whether that was needed."""
        if group in self._found or group in self._corrupt:
            return False
        self._found[group] = self._threads.submit(lambda: RowGroup(self._read(group)))
        while len(self._found) > self._most:
            self._found.popitem(last=False)[1].cancel()
        return True

    def get(self, group: int) -> RowGroup:
        """A group, which is waited for.

        Raises:
            CorruptPart: it cannot be read.
            StorageError: the store failed.
        """
        if group in self._corrupt:
            raise CorruptPart(self._corrupt[group])
        self.request(group)
        self._found.move_to_end(group)
        try:
            return self._found[group].result()
        except BaseException as error:
            del self._found[group]  # the next one to ask tries again, but where that is in vain
            if isinstance(error, CorruptPart):
                self._corrupt[group] = str(error)
            raise
