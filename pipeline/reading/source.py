"""What readers read: one snapshot of a dataset, without what was removed, or one side of a split of it."""

import copy
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError
from pipeline.reading.cache import GroupCache
from pipeline.reading.index import RowIndex, read_index
from pipeline.reading.parts import GroupRows, PartReader
from pipeline.row_sets import REMOVED, SPLITS, read_rows
from pipeline.storage import open_store
from vidtok_model import TokenizerConfig

__all__ = ["Source"]

Numbers = npt.NDArray[np.int64]

_KEPT = b"kept"  # in a cached table's metadata: the numbers of its rows
_SHAPE_COLUMNS = ("latent_t", "latent_h", "latent_w")


class Source:
    """A snapshot as a reader wants it. It may go to other processes; each opens the store itself."""

    def __init__(
        self,
        root: str,
        *,
        columns: Sequence[str] | None,
        snapshot: int | None,
        split: str | None,
        cache: tuple[str, int] | None,
        storage: dict[str, Any],
        skip_corrupt: bool = False,
    ) -> None:
        """Opens a dataset and reads its index.

        Raises:
            ConfigError: there is no such dataset, snapshot, column or split.
            CorruptPart: see `read_index`.
            StorageError: the store failed.
        """
        if split not in (None, "train", "validation"):
            raise ConfigError(f"split {split!r}: expected train, validation or None")
        self._root, self._storage, self._cache_options = root, storage, cache
        self.split, self._skip_corrupt = split, skip_corrupt
        self._opened: tuple[int, Dataset, PartReader, GroupCache | None] | None = None
        self.description: Mapping[str, Any] = self.dataset.description
        self.model = TokenizerConfig.from_dict(self.description["model"]["config"])
        self.channels = None if self.model.is_discrete else self.model.latent_channels
        self.payloads, self.columns = self._columns(columns)
        self.banned: Mapping[int, Numbers] = {}  # rows that the order has, and that were removed since it was made
        self.index = self._read(snapshot, None)

    @property
    def snapshot(self) -> int:
        """The snapshot's number."""
        return self.index.snapshot

    def _columns(self, columns: Sequence[str] | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The payload columns, and the others that were asked for."""
        known = self.dataset.schema.names
        wanted = ("id",) if columns is None else tuple(columns)
        if unknown := [name for name in wanted if name not in known]:
            raise ConfigError(f"columns: there is no {unknown[0]!r}; there are {', '.join(known)}")
        payloads = (
            ("tokens",) if self.model.is_discrete else ("latents", "logvar") if "logvar" in wanted else ("latents",)
        )
        return payloads, tuple(name for name in wanted if name not in payloads)

    def _read(self, snapshot: int | None, removals: int | None) -> RowIndex:
        index = read_index(self.dataset, snapshot, skip_corrupt=self._skip_corrupt)
        removed, self._removals = read_rows(self.dataset.store, REMOVED, removals)
        if self.split is None:
            return index.without(removed)
        validation, _ = read_rows(self.dataset.store, SPLITS)
        if lacking := [place for place in index.places() if place not in validation]:
            raise ConfigError(
                f"split {self.split}: {len(lacking)} row groups of snapshot {index.snapshot} are on neither side, "
                f"such as {lacking[0][0]}: `vidtok split {self._root}` divides what came since, or all; "
                f"`snapshot=` reads an earlier one"
            )
        if self.split == "train":
            return index.without(validation).without(removed)
        return index.without(removed, among=validation)

    @property
    def dataset(self) -> Dataset:
        """The dataset, opened in this process."""
        return self._open()[0]

    def _open(self) -> tuple[Dataset, PartReader, GroupCache | None]:
        # By process: a store's connections and threads do not survive a fork.
        if self._opened is None or self._opened[0] != os.getpid():
            dataset = Dataset.open(open_store(self._root, self._storage))
            cache = None if self._cache_options is None else GroupCache(*self._cache_options)
            self._opened = (os.getpid(), dataset, PartReader(dataset.store), cache)
        return self._opened[1:]

    def read(self, group: int) -> GroupRows:
        """What was asked for of a row group, by its number in the index.

        Raises:
            CorruptPart: it cannot be read.
            StorageError: the store failed.
        """
        _, reader, cache = self._open()
        path, number = self.index.place(group)
        names = tuple(dict.fromkeys((*self.columns, *_SHAPE_COLUMNS, *self.payloads)))
        read = functools.partial(reader.read, path, number, names, size_bytes=self.index.size_bytes(group))
        if cache is None:
            return read()
        table = cache.get(f"{self.index.sha256(group)} {number} {names}", lambda: _with_numbers(read()))
        return GroupRows(table, np.array(json.loads(table.schema.metadata[_KEPT]), np.int64))

    def of_columns(self, *columns: str) -> "Source":
        """The same with other columns, and without tokens or latents."""
        other = copy.copy(self)
        other.columns, other.payloads = columns, ()
        return other

    def state(self) -> dict[str, Any]:
        """What of it makes the order."""
        return {"fingerprint": self.description["fingerprint"], "snapshot": self.snapshot, "removals": self._removals}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Reads the snapshot of a state, without what was removed before that state's beginning.

        Raises:
            ConfigError: it is of another dataset, or its snapshot is gone.
        """
        if state["fingerprint"] != self.description["fingerprint"]:
            raise ConfigError(
                f"the state is of another dataset (fingerprint {state['fingerprint'][:12]}; {self._root} has "
                f"{self.description['fingerprint'][:12]})"
            )
        if (state["snapshot"], state["removals"]) != (self.snapshot, self._removals):
            self.index = self._read(int(state["snapshot"]), int(state["removals"]))
        self.banned = self.index.without(read_rows(self.dataset.store, REMOVED)[0]).left_out

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: nothing that is open."""
        return {**self.__dict__, "_opened": None}


def _with_numbers(rows: GroupRows) -> pa.Table:
    return rows.table.replace_schema_metadata({_KEPT: json.dumps(rows.kept.tolist())})
