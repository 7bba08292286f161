"""A dataset's root: what it is made of, which input it was frozen on, and what is committed.

Layout: dataset.json, inputs/, data/, rejects/, _commits/, _snapshots/, _removed/, _splits/, _runs/, and
stats.json and report.html, which are derived (ARCHITECTURE.md).
"""

import hashlib
import heapq
import json
import posixpath
from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa

from pipeline.errors import ConfigError
from pipeline.inputs import read_inputs
from pipeline.parts import read_table
from pipeline.reading.parts import PartReader
from pipeline.row_scan import find_stream, groups_of
from pipeline.row_sets import REMOVED, Rows, read_rows
from pipeline.rows import row_schema
from pipeline.shard_log import COMMITS, commit_path, read_commits
from pipeline.shard_table import ShardTable
from pipeline.snapshots import Snapshot, add_to_snapshot, newest_snapshot
from pipeline.storage import Store
from vidtok_model import TokenizerConfig

__all__ = ["DATASET_FILE", "Dataset", "check_same_plan", "fingerprint", "plan_difference"]

DATASET_FILE = "dataset.json"
# Names at once, of which a thousand cost a LIST: a million would stand in memory.
_ASKED_AT_ONCE = 50_000


def fingerprint(plan: Mapping[str, Any]) -> str:
    """64 hex digits that name a plan: sha256 over its canonical JSON."""
    return hashlib.sha256(json.dumps(plan, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def plan_difference(
    standing: Mapping[str, Any],
    wanted: Mapping[str, Any],
    prefix: str = "",
    *,
    holder: str = "the dataset",
    other: str = "the job wants",
) -> list[str]:
    """One line for each value in which two plans differ.

    Args:
        standing: one plan.
        wanted: another one.
        prefix: of the values' names.
        holder: who has the first.
        other: who has the second, and a verb.
    """
    lines: list[str] = []
    for key in sorted(standing.keys() | wanted.keys()):
        left, right = standing.get(key), wanted.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += plan_difference(left, right, f"{prefix}{key}.", holder=holder, other=other)
        elif left != right:
            lines.append(f"{prefix}{key}: {holder} has {left!r}, {other} {right!r}")
    return lines


def check_same_plan(standing: "Dataset", description: Mapping[str, Any]) -> None:
    """Refuses a job that would write other rows than the dataset holds.

    Raises:
        ConfigError: with a line for each difference.
    """
    if standing.description["fingerprint"] != description["fingerprint"]:
        differences = plan_difference(standing.description["plan"], description["plan"])
        raise ConfigError(
            [
                f"output: {standing.store.root} holds another dataset (fingerprint "
                f"{standing.description['fingerprint'][:12]}, this job's is {description['fingerprint'][:12]}); "
                "one root holds one dataset, so choose another root or make the job equal:",
                *(f"  {line}" for line in differences),
            ]
        )


class Dataset:
    """One dataset of one plan, in one store."""

    def __init__(self, store: Store, description: Mapping[str, Any]) -> None:
        """Takes a description as dataset.json holds it; `create` and `open` make or read one."""
        self.store = store
        self.description = description

    @classmethod
    def exists(cls, store: Store) -> bool:
        """Whether a dataset stands in a store."""
        return store.info(DATASET_FILE) is not None

    @classmethod
    def create(cls, store: Store, description: Mapping[str, Any]) -> "Dataset":
        """Puts dataset.json where there is none, else joins the dataset that stands there.

        Raises:
            ConfigError: another plan's dataset stands there; the message lists what differs.
            StorageError: the store failed.
        """
        data = json.dumps(description, indent=1, ensure_ascii=False).encode()
        # Looking first spares a store without the dataset's folder an empty one, and a reader's right to write.
        if not cls.exists(store):
            store.put_if_absent(DATASET_FILE, data)
        standing = cls.open(store)
        check_same_plan(standing, description)
        return standing

    @classmethod
    def open(cls, store: Store) -> "Dataset":
        """Opens the dataset that stands in a store.

        Raises:
            ConfigError: there is none, or dataset.json is not ours.
        """
        data = store.read_if_there(DATASET_FILE)
        if data is None:
            raise ConfigError(f"{store.root}: there is no dataset (no {DATASET_FILE})")
        try:
            description = json.loads(data)
            description["fingerprint"], description["plan"], description["model"]
        except (ValueError, KeyError, TypeError):
            raise ConfigError(f"{store.root}/{DATASET_FILE}: is not a dataset description of ours") from None
        return cls(store, description)

    @property
    def schema(self) -> pa.Schema:
        """The columns of its parts."""
        plan, config = self.description["plan"], TokenizerConfig.from_dict(self.description["model"]["config"])
        is_stream = plan["clips"]["mode"] == "stream"
        return row_schema(is_discrete=config.is_discrete, logvar=plan["logvar"], is_stream=is_stream)

    def pending(self, shards: ShardTable, snapshot: Snapshot) -> ShardTable:
        """The shards that are not committed yet: by a snapshot, and one LIST for each thousand that it lacks."""
        unknown = shards.without(snapshot.ids)
        return unknown.without(pa.array(self._committed(unknown), pa.string()))

    def _committed(self, shards: ShardTable) -> Iterator[str]:
        """The ids of those shards that have a commit, which is not read."""
        if not shards:
            return
        listed = None if self.store.finds_names else self.store.names(COMMITS)
        for some in shards.sorted_ids(_ASKED_AT_ONCE):
            names = sorted(posixpath.basename(commit_path(shard_id)) for shard_id in some)
            if listed is None:
                names = [posixpath.basename(info.path) for info in self.store.present(COMMITS, names)]
            yield from (name.removesuffix(".json") for name in names if listed is None or name in listed)

    def committed(self, shards: ShardTable) -> Iterator[dict[str, Any]]:
        """The commits of those shards that have one, read each, in the order of the shards' ids."""
        return read_commits(self.store, sorted(self._committed(shards)))

    def inputs(self) -> ShardTable:
        """All shards of the input; none before the first run froze them."""
        return read_inputs(self.store) or ShardTable.of([])

    def commits(self) -> Iterator[dict[str, Any]]:
        """Every commit, in the order of the shards' ids; those that no snapshot holds are read each."""
        snapshot = newest_snapshot(self.store)
        new = self.committed(self.inputs().without(snapshot.ids))
        yield from heapq.merge(snapshot.commits(), new, key=lambda commit: str(commit["shard_id"]))

    def removed(self) -> Rows:
        """The rows that were taken down."""
        return read_rows(self.store, REMOVED)[0]

    def complete_snapshot(self) -> int:
        """Writes a snapshot of the commits that none holds yet; returns the newest one's number, 0 where none is."""
        snapshot = newest_snapshot(self.store, ids_alone=True)
        new = list(self.committed(self.inputs().without(snapshot.ids)))
        return add_to_snapshot(self.store, new, snapshot).number

    def parts(self) -> Iterator[str]:
        """The paths of all committed parts."""
        for commit in self.commits():
            for part in commit["parts"]:
                yield part["path"]

    def rejects(self) -> pa.Table | None:
        """All committed rejects; None where there are none."""
        paths = [commit["rejects"]["path"] for commit in self.commits() if commit["rejects"]]
        tables = [read_table(self.store.read(path)) for path in paths]
        return pa.concat_tables(tables) if tables else None

    def find_row(self, row_id: str) -> dict[str, Any]:
        """The one row with this id.

        Raises:
            ConfigError: no committed part holds it, or it was removed.
            StorageError: the store failed, or a part is damaged.
        """
        rows, place = self.find_stream(row_id)
        row: dict[str, Any] = rows.slice(place, 1).to_pylist()[0]
        return row

    def find_stream(self, row_id: str) -> tuple[pa.Table, int]:
        """The row with this id, with all that it takes to decode it, and its place among them.

        That is the row alone, or of a stream's segments those from the first to the one behind it.

        Raises:
            ConfigError: no committed part holds it, or it was removed.
            StorageError: the store failed, or a part is damaged.
        """
        found = find_stream(PartReader(self.store), groups_of(self.commits()), row_id, self.removed())
        if found is None:
            raise ConfigError(f"{self.store.root}: no committed row has the id {row_id!r}")
        return found
