"""The list of input shards: frozen by the first run, and grown only on purpose.

`inputs/00000.parquet` is what the first run found; each later file adds shards: new tars (`--append`), or
supplementary shards that try rejected videos again (`retry-rejects`).
"""

import re
from collections.abc import Callable, Sequence

import pyarrow as pa

from pipeline.errors import CommitConflict, ConfigError
from pipeline.parts import read_table, table_bytes
from pipeline.records import Shard
from pipeline.shard_table import ShardTable
from pipeline.storage import Store

__all__ = ["base_shard_id", "grow_inputs", "missing_inputs", "read_inputs", "supplement_of"]

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
    tables = [ShardTable.SCHEMA.empty_table()]
    while (data := store.read_if_there(path := _path(len(tables) - 1))) is not None:
        try:
            table = read_table(data).select(ShardTable.SCHEMA.names).cast(ShardTable.SCHEMA)
            for name in ("shard_id", "path", "size_bytes"):
                if table.column(name).null_count:
                    raise ValueError(f"a shard has no {name}")
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            raise ConfigError(f"{store.root}/{path}: is not a list of shards of ours: {error}") from None
        tables.append(table)
    return ShardTable(pa.concat_tables(tables)), len(tables) - 1


def missing_inputs(store: Store) -> list[str]:
    """Lists of shards that are not there, though later ones are, which nobody reads then."""
    matches = (re.fullmatch(r"inputs/(\d{5,})\.parquet", info.path) for info in store.list("inputs"))
    numbers = {int(match[1]) for match in matches if match}
    return [_path(number) for number in range(max(numbers, default=0)) if number not in numbers]


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
        store.put_if_absent(_path(number), table_bytes(ShardTable.of(added).table))
        # Whether this was ours or another's: what stands there counts, and what it lacks is added in the next turn.
    raise CommitConflict(f"{store.root}/inputs: what is written there is not there when it is read")


def _path(number: int) -> str:
    return f"inputs/{number:05d}.parquet"
