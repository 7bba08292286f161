"""What exports share: a dataset's rows in the order in which they were written, and what they come from."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.dataset import Dataset
from pipeline.errors import ConfigError, StorageError
from pipeline.reading.order import EpochOrder
from pipeline.reading.rows import RowReader
from pipeline.reading.source import Source
from pipeline.storage import open_store

__all__ = ["Written", "num_rows", "open_source", "provenance", "stored_rows"]

_READ_AHEAD = 2  # row groups, of some 32 MB each


@dataclass(frozen=True)
class Written:
    """What an export wrote.

    Attributes:
        rows: clips.
        tokens: codebook indices of these rows, or latent positions of a KL model.
    """

    rows: int
    tokens: int


def open_source(
    root: str, *, split: str | None, storage: Mapping[str, Any] | None, every_column: bool = False
) -> Source:
    """The newest snapshot of a dataset, without what was removed from it.

    Args:
        root: the dataset's root.
        split: rows of one side alone, `train` or `validation`.
        storage: of the dataset's store: endpoint_url, anon ...
        every_column: all columns, not the payload alone.

    Raises:
        ConfigError: there is no such dataset or split, or it has no rows.
        StorageError: the store failed.
    """
    options = dict(storage or {})
    columns = Dataset.open(open_store(root, options)).schema.names if every_column else ()
    source = Source(root, columns=columns, snapshot=None, split=split, cache=None, storage=options)
    if not num_rows(source):
        side = f" of the side {split}" if split else ""
        raise ConfigError(f"{source.dataset.store.root}: snapshot {source.snapshot} has no rows{side}")
    return source


def num_rows(source: Source) -> int:
    """How many rows `stored_rows` gives."""
    return sum(int(section.rows.sum()) for section in source.index.sections(by_shape=False))


def stored_rows(source: Source) -> Iterator[dict[str, Any]]:
    """The rows as `TokenDataset` gives them, in the order in which they were written; a few row groups are in memory.

    Raises:
        CorruptPart: a row group cannot be read.
        StorageError: the store failed, or rows were removed meanwhile.
    """
    order = EpochOrder(source.index.sections(by_shape=False), seed=0, epoch=0, shuffle=False)
    reader = RowReader(source, is_batched=False, on_corrupt="raise", most_groups=_READ_AHEAD + 2)
    for number in reader.ahead(order, iter(range(order.num_units)), _READ_AHEAD):
        row, num_lost = reader.item(order, order.unit(number))
        if num_lost:  # a training takes another row in its place, but here it would stand twice
            raise StorageError(f"{source.dataset.store.root}: rows were removed while they were read; run it again")
        yield row


def provenance(source: Source) -> dict[str, Any]:
    """What an export says of where its rows come from, for whoever decodes them later."""
    return {
        "fingerprint": source.description["fingerprint"],
        "snapshot": source.snapshot,
        "split": source.split,
        "model": source.description["model"],
    }
