"""TokenDataset: a dataset's rows for training, in an order that any number of ranks and workers share."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch.utils.data import Dataset as MapDataset
from torch.utils.data import IterableDataset

from pipeline.errors import ConfigError
from pipeline.reading.order import EpochOrder
from pipeline.reading.rows import CorruptPolicy, RowReader
from pipeline.reading.source import Source
from pipeline.reading.states import Position, SharedNumbers, check_states, worker_share

__all__ = ["Item", "TokenDataset"]

Item = dict[str, Any]

# What makes the order, and so has to be the same on resume; the rest a state brings along.
_SAME_ON_RESUME = ("batch_size", "lanes", "shuffle", "drop_last", "split")

log = logging.getLogger(__name__)


class TokenDataset(IterableDataset[Item]):
    """Rows of tokens or latents, or batches of them, as `torch.utils.data.DataLoader` takes them.

    The order of an epoch is a pure function of (snapshot, seed, epoch) and of `batch_size` and `lanes`: ranks and
    workers take their items from it by number, so their numbers may change where a training goes on. Every rank has
    equally many items, for which the last ones may be some of the first ones again (`drop_last` leaves some out).

    An item is a row, or with `batch_size` a batch, whose rows are of one shape; give it to
    `DataLoader(dataset, batch_size=None, num_workers=...)` then:

        id             str, or a list of them
        tokens         int32 (T, H, W), or (B, T, H, W)      where the model is FSQ
        latents        float16 (C, T, H, W), or (B, C, ...)  where it is KL; `logvar` where it is among `columns`
        others         as `columns` names them: numbers, strings; in a batch tensors, lists

    `dataset[n]` is the n-th item of this rank's epoch, `len(dataset)` how many there are, and `map_style()` the same
    for samplers.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        snapshot: int | None = None,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world_size: int = 1,
        columns: Sequence[str] | None = None,
        batch_size: int | None = None,
        shuffle: bool = True,
        lanes: int = 8,
        drop_last: bool = False,
        split: str | None = None,
        on_corrupt: CorruptPolicy = "raise",
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int = 64 * 2**30,
        read_ahead: int = 2,
        storage: Mapping[str, Any] | None = None,
        transform: Callable[[Item, int], Item] | None = None,
    ) -> None:
        """Opens a dataset.

        Args:
            root: the dataset's root, a path or a URL of any store.
            snapshot: which commits are seen: the newest snapshot's by default, of the state on resume.
            seed: of the order.
            epoch: see `set_epoch`.
            rank: of this process among `world_size`.
            world_size: how many processes share an epoch.
            columns: beside tokens or latents; `("id",)` by default.
            batch_size: rows of an item; None: an item is one row.
            shuffle: False: rows come as they were written.
            lanes: from so many row groups rows are taken in turns, which is how well they are mixed and what memory it
                takes (some 32 MB each). A multiple of ranks times workers lets each read its own row groups alone.
            drop_last: leave out rows that fill no batch, and items that are not enough for all ranks.
            split: rows of one side of a split that `vidtok split` made: `train` or `validation`.
            on_corrupt: `raise` CorruptPart where a row group cannot be read, or `skip` it: other rows stand in for its
                rows, and `skipped_rows` counts them.
            cache_dir: a folder on a local disk for row groups as they are in memory; any number of processes may share
                it.
            cache_bytes: how large that may grow.
            read_ahead: row groups that are read before they are needed.
            storage: of the store: endpoint_url, anon ...
            transform: what is made of an item, in the process that reads it, with the item's number in the epoch's
                order.

        Raises:
            ConfigError: there is no such dataset, snapshot, column or split, or an argument makes no sense.
            StorageError: the store failed.
        """
        super().__init__()
        if world_size < 1 or not 0 <= rank < world_size:
            raise ConfigError(f"rank {rank} of world_size {world_size}: expected 0 <= rank < world_size")
        if on_corrupt not in ("raise", "skip"):
            raise ConfigError(f"on_corrupt {on_corrupt!r}: expected raise or skip")
        for name, value in (("batch_size", batch_size), ("lanes", lanes)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} {value}: expected 1 or more")
        self.rank, self.world_size = rank, world_size
        self.seed, self.batch_size, self.shuffle, self.lanes = int(seed), batch_size, shuffle, lanes
        self.drop_last, self.split = drop_last, split
        self._read_ahead = read_ahead
        self._source = Source(
            str(root),
            columns=columns,
            snapshot=snapshot,
            split=split,
            cache=None if cache_dir is None else (str(cache_dir), cache_bytes),
            storage=dict(storage or {}),
            skip_corrupt=on_corrupt == "skip",
        )
        self._on_corrupt: CorruptPolicy = on_corrupt
        self.transform = transform
        self._shared = SharedNumbers(epoch)
        self._position = Position()
        self._order: EpochOrder | None = None
        self._order_epoch: int | None = None
        self._reader: RowReader | None = None

    @property
    def epoch(self) -> int:
        """The epoch that `iter` gives."""
        return self._shared.epoch

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of another epoch; workers that live on see it too. In the same one nothing changes."""
        if epoch != self.epoch:
            self._shared.epoch = epoch
            self._position.restart()

    def rewind(self) -> None:
        """Lets the next `iter` begin with the epoch."""
        self._position.begin = (0, 0)

    @property
    def source(self) -> Source:
        """What is read: its model, its snapshot, its columns."""
        return self._source

    @property
    def snapshot(self) -> int:
        """The number of the snapshot that is read."""
        return self._source.snapshot

    @property
    def skipped_rows(self) -> int:
        """For how many rows another one stood in, because theirs could not be read (`on_corrupt`) or was removed."""
        return self._shared.count

    @property
    def order(self) -> EpochOrder:
        """The order of this epoch."""
        if self._order is None or self._order_epoch != self.epoch:
            self._order_epoch = self.epoch
            self._order = EpochOrder(
                self._source.index.sections(by_shape=self.batch_size is not None),
                seed=self.seed,
                epoch=self.epoch,
                unit_rows=self.batch_size or 1,
                lanes=self.lanes,
                shuffle=self.shuffle,
                drop_last=self.drop_last,
            )
        return self._order

    def __len__(self) -> int:
        """How many items this rank has in an epoch."""
        return self._steps(0)

    def _steps(self, base: int) -> int:
        """How many items each rank takes of those from `base` on."""
        left = max(0, self.order.num_units - base)
        return left // self.world_size if self.drop_last else -(-left // self.world_size)

    def __getitem__(self, index: int) -> Item:
        """The item of that number in this rank's epoch."""
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self._item(self._unit_number(0, index % len(self)))

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Several items."""
        return [self[index] for index in indices]

    def map_style(self) -> MapDataset[Item]:
        """The same items for a DataLoader that takes them by number, such as one with a sampler."""
        return _MapStyle(self)

    def _unit_number(self, base: int, step: int) -> int:
        return (base + step * self.world_size + self.rank) % self.order.num_units

    def _item(self, number: int) -> Item:
        item, skipped = self._rows().item(self.order, self.order.unit(number))
        if skipped:
            self._shared.add(skipped)
        return item if self.transform is None else self.transform(item, number)

    def _rows(self) -> RowReader:
        if self._reader is None or not self._reader.is_of_this_process:
            sections = len(self._source.index.shapes) if self.batch_size is not None else 1
            self._reader = RowReader(
                self._source,
                is_batched=self.batch_size is not None,
                on_corrupt=self._on_corrupt,
                most_groups=self.lanes * max(1, sections) + self._read_ahead + 2,
            )
        return self._reader

    def __iter__(self) -> Iterator[Item]:
        """This rank's items of the epoch, from where a state was loaded; of a DataLoader's worker its share of them."""
        number, of = worker_share()
        base, begin = self._position.at = self._position.begin
        steps = range(number + begin * of, self._steps(base), of)
        units = (self._unit_number(base, step) for step in steps)
        for count, unit in enumerate(self._rows().ahead(self.order, units, self._read_ahead), begin + 1):
            item = self._item(unit)
            self._position.at = (base, count)
            yield item
        self.rewind()

    def state_dict(self) -> dict[str, Any]:
        """Where this process stands; in a DataLoader's worker, where that worker does.

        `consumed` counts items over all ranks. A state goes on with any number of ranks, but that of one of several
        workers only with as many: TokenLoader's has no such bound.
        """
        return {**self._order_state(), **self._position.state(self.world_size)}

    @property
    def consumed(self) -> int:
        """Items that all ranks took of the epoch before `iter` begins."""
        return self._position.consumed(self.world_size)

    def state_after(self, consumed: int) -> dict[str, Any]:
        """The state of all ranks when they took so many items of the epoch."""
        return {**self._order_state(), "consumed": consumed}

    def _order_state(self) -> dict[str, Any]:
        state = {"epoch": self.epoch, "seed": self.seed, **self._source.state()}
        return state | {name: getattr(self, name) for name in _SAME_ON_RESUME}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes to where a state says.

        Raises:
            ConfigError: it is of another dataset or of other arguments that make the order, or of a worker among
                another number of workers.
        """
        check_states("TokenDataset", self, [state], _SAME_ON_RESUME)
        self._source.load_state(state)
        self.seed = int(state["seed"])
        self._shared.epoch = int(state["epoch"])
        self._position.load(state)
        self._order = self._reader = None

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: nothing that is open."""
        return {**self.__dict__, "_reader": None}


class _MapStyle(MapDataset[Item]):
    def __init__(self, dataset: TokenDataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> Item:
        return self._dataset[index]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        return self._dataset.__getitems__(indices)
