"""TokenLoader: a DataLoader whose state goes on with any number of workers and ranks."""

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from torch.utils.data import DataLoader

from pipeline.reading.states import merged_carries

__all__ = ["TokenLoader"]

Item = dict[str, Any]


class _Resumable(Protocol):
    world_size: int

    @property
    def epoch(self) -> int: ...
    @property
    def consumed(self) -> int: ...
    def state_after(self, consumed: int) -> dict[str, Any]: ...
    def load_state_dict(self, state: Any) -> None: ...
    def set_epoch(self, epoch: int) -> None: ...
    def rewind(self) -> None: ...
    def __len__(self) -> int: ...


class TokenLoader:
    """Items of a TokenDataset, TokenStream or LatentStream that is made of batches, read by some worker processes.

    torchdata's StatefulDataLoader keeps a state for each worker, so it goes on with as many only. This one counts what
    it gave: each item is the next one of the order, whoever read it.

        loader = TokenLoader(TokenDataset(root, batch_size=8, rank=rank, world_size=world_size), num_workers=4)
        loader.load_state_dict(state)      # to go on
        for epoch in range(loader.epoch, 10):
            loader.set_epoch(epoch)
            for batch in loader: ...       # at any time: loader.state_dict(), equal on all ranks
    """

    def __init__(self, dataset: Any, *, num_workers: int = 0, **options: Any) -> None:
        """Takes a dataset.

        Args:
            dataset: what gives items; with `batch_size`, since here nothing joins them.
            num_workers: processes that read; 0: this one does.
            options: of torch.utils.data.DataLoader: pin_memory, prefetch_factor ...
        """
        self._dataset: _Resumable = dataset
        # PyTorch's own looks through every list of strings for numbers to make tensors of.
        options = {"collate_fn": _as_it_is, **options}
        self._options = {"dataset": dataset, "batch_size": None, "num_workers": num_workers, **options}
        self._loader: DataLoader[Item] = DataLoader(**self._options)
        self._consumed = self._dataset.consumed
        self._carries: dict[int, Any] = {}  # of a TokenStream: where its lanes stand

    def __len__(self) -> int:
        """How many items an epoch has for this rank."""
        return len(self._dataset)

    @property
    def epoch(self) -> int:
        """The epoch that `iter` gives."""
        return self._dataset.epoch

    def __iter__(self) -> Iterator[Item]:
        """The items of the epoch, from where a state was loaded."""
        self._consumed = self._dataset.consumed
        for item in self._loader:
            self._consumed += self._dataset.world_size
            if isinstance(item, dict):  # a transform may make something else
                self._carries.update(item.pop("carry", {}))
            yield item
        self._dataset.rewind()

    def set_epoch(self, epoch: int) -> None:
        """Goes to the beginning of another epoch; in the same one nothing changes."""
        began_within = self._dataset.consumed > 0
        self._dataset.set_epoch(epoch)
        self._consumed = self._dataset.consumed
        if began_within and not self._consumed:
            self._renew()

    def _renew(self) -> None:
        """Lets workers that live on go (`persistent_workers`): they know only where they began."""
        self._loader = DataLoader(**self._options)

    def state_dict(self) -> dict[str, Any]:
        """Where all ranks stand when each took as many items as this one did."""
        carries = {"carries": dict(self._carries)} if self._carries else {}
        return {**self._dataset.state_after(self._consumed), **carries}

    def load_state_dict(self, state: Any) -> None:
        """Goes to where a state says, whatever the number of ranks and workers then was.

        Args:
            state: of any rank; for a TokenStream whose number of ranks changed, better those of all (see there).

        Raises:
            ConfigError: it is of another order.
        """
        self._dataset.load_state_dict(state)
        self._consumed = self._dataset.consumed
        self._carries = merged_carries([state] if isinstance(state, Mapping) else state)
        self._renew()


def _as_it_is(item: Item) -> Item:
    return item
