"""The list of input shards: frozen by the first run, and grown only on purpose.

`inputs/00000.parquet` is what the first run found; each later file adds shards: new tars (`--append`), or
supplementary shards that try rejected videos again (`retry-rejects`).
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa

from pipeline.errors import CommitConflict, ConfigError
from pipeline.parts import read_table, table_bytes
from pipeline.records import Shard, VideoRange
from pipeline.storage import Store

__all__ = ["base_shard_id", "grow_inputs", "missing_inputs", "read_inputs", "supplement_of"]

_COLUMNS: list[tuple[str, pa.DataType]] = [
    ("shard_id", pa.string()),
    ("path", pa.string()),
    ("size_bytes", pa.int64()),
    ("etag", pa.string()),
    ("videos", pa.struct([("path", pa.string()), ("first", pa.int64()), ("count", pa.int64())])),
    ("only", pa.list_(pa.struct([("key", pa.string()), ("occurrence", pa.int32())]))),
]
_SCHEMA = pa.schema(_COLUMNS)
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


def read_inputs(store: Store) -> list[Shard] | None:
    """All shards of a dataset's input in the order in which they were added, or None before the first run froze them.

    Raises:
        ConfigError: a file that stands there is not ours.
        StorageError: the store failed.
    """
    shards, number = _read_files(store)
    return shards if number else None


def _read_files(store: Store) -> tuple[list[Shard], int]:
    """All shards, and how many files list them."""
    shards: list[Shard] = []
    number = 0
    while (data := store.read_if_there(_path(number))) is not None:
        try:
            shards += [_shard(row) for row in read_table(data).to_pylist()]
        except (pa.ArrowException, OSError, TypeError, ValueError, KeyError) as error:
            raise ConfigError(f"{store.root}/{_path(number)}: is not a list of shards of ours: {error}") from None
        number += 1
    return shards, number


def missing_inputs(store: Store) -> list[str]:
    """Lists of shards that are not there, though later ones are, which nobody reads then."""
    matches = (re.fullmatch(r"inputs/(\d{5,})\.parquet", info.path) for info in store.list("inputs"))
    numbers = {int(match[1]) for match in matches if match}
    return [_path(number) for number in range(max(numbers, default=0)) if number not in numbers]


def grow_inputs(store: Store, choose: Callable[[list[Shard]], Sequence[Shard]]) -> list[Shard]:
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
        columns = {name: [getattr(shard, name) for shard in added] for name in _SCHEMA.names[:-2]}
        columns["videos"] = [None if shard.videos is None else vars(shard.videos) for shard in added]
        only = [None if shard.only is None else [_video(*video) for video in shard.only] for shard in added]
        store.put_if_absent(_path(number), table_bytes(pa.table({**columns, "only": only}, schema=_SCHEMA)))
        # Whether this was ours or another's: what stands there counts, and what it lacks is added in the next turn.
    raise CommitConflict(f"{store.root}/inputs: what is written there is not there when it is read")


def _path(number: int) -> str:
    return f"inputs/{number:05d}.parquet"


def _video(key: str, occurrence: int) -> dict[str, object]:
    return {"key": key, "occurrence": occurrence}


def _shard(row: dict[str, Any]) -> Shard:
    only, videos = row.pop("only"), row.pop("videos")
    return Shard(
        **row,
        videos=None if videos is None else VideoRange(**videos),
        only=None if only is None else tuple((video["key"], video["occurrence"]) for video in only),
    )
