"""The list of input shards: frozen by the first run, and grown only on purpose.

`inputs/00000.parquet` is what the first run found; each later file adds shards: new tars (`--append`), or
supplementary shards that try rejected videos again (`retry-rejects`).
"""

import re
from collections.abc import Callable, Sequence

import pyarrow as pa

from pipeline.errors import CommitConflict, ConfigError
from pipeline.records import Shard
from pipeline.shard_table import ShardTable
from pipeline.storage import Store

__all__ = ["base_shard_id", "grow_inputs", "inputs_path", "missing_inputs", "read_inputs", "supplement_of"]

_MOST_TRIES = 100
_SUPPLEMENT = re.compile(r"~retry(\d+)$")


def base_shard_id(shard_id: str) -> str:
    """The shard that a supplementary shard belongs to; any other's own id."""
    return _SUPPLEMENT.sub("", shard_id)


def supplement_of(shard: Shard, number: int, only: Sequence[tuple[str, int]]) -> Shard:
    """The supplementary shard that tries some videos of a shard again, for the `number`-th time."""
    return Shard(
        shard_id=f"{base_shard_id(shard.shard_id)}~retry{number}",
        path=shard.path,
        size_bytes=shard.size_bytes,
        etag=shard.etag,
        videos=shard.videos,
        only=tuple(only),
    )


def read_inputs(store: Store) -> ShardTable | None:
    """All shards of a dataset's input in the order in which they were added, or None before the first run froze them.

    Raises:
        ConfigError: a file that stands there is not ours.
        StorageError: the store failed.
    """
    shards, number = _read_files(store)
    return shards if number else None


def _read_files(store: Store) -> tuple[ShardTable, int]:
    """All shards, and how many files list them."""
    tables: list[ShardTable] = []
    while (data := store.read_if_there(path := inputs_path(len(tables)))) is not None:
        try:
            tables.append(ShardTable.read(data))
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{store.root}/{path}: is not a list of shards of ours: {error}") from None
    return ShardTable.joined(tables), len(tables)


def missing_inputs(store: Store) -> list[str]:
    """Lists of shards that are not there, though later ones are, which nobody reads then."""
    matches = (re.fullmatch(r"inputs/(\d{5,})\.parquet", info.path) for info in store.list("inputs"))
    numbers = {int(match[1]) for match in matches if match}
    return [inputs_path(number) for number in range(max(numbers, default=0)) if number not in numbers]


def grow_inputs(store: Store, choose: Callable[[Sequence[Shard]], Sequence[Shard]]) -> ShardTable:
    """Adds shards to the input, whoever else does so at the same time.

    Args:
        store: the dataset's root.
        choose: from the shards that there are, which to add; called again where somebody was faster.

    Returns:
        All shards.
    """
    for _ in range(_MOST_TRIES):
        standing, number = _read_files(store)
        added = choose(standing)
        if number and not added:
            return standing
        # The file after those that were read, and no later one: what another adds meanwhile must be seen first.
        store.put_if_absent(inputs_path(number), ShardTable.file_of(added))
        # Whether this was ours or another's: what stands there counts, and what it lacks is added in the next turn.
    raise CommitConflict(f"{store.root}/inputs: what is written there is not there when it is read")


def inputs_path(number: int) -> str:
    """Where the list of that number stands below the dataset's root."""
    return f"inputs/{number:05d}.parquet"
