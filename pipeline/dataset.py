"""A dataset's root: what it is made of, which input it was frozen on, and what is committed.

Layout: dataset.json, inputs/, data/, rejects/, _commits/, _snapshots/, _runs/ (see ARCHITECTURE.md).
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
from pipeline.parts import opened_parquet, read_table
from pipeline.rows import SEGMENT_COLUMN, row_schema
from pipeline.shard_log import COMMITS, commit_path, read_commits
from pipeline.shard_table import ShardTable
from pipeline.snapshots import Snapshot, newest_snapshot
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
    standing: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "", *, holder: str = "the dataset"
) -> list[str]:
    """One line for each value in which two plans differ."""
    lines: list[str] = []
    for key in sorted(standing.keys() | wanted.keys()):
        left, right = standing.get(key), wanted.get(key)
        if isinstance(left, Mapping) and isinstance(right, Mapping):
            lines += plan_difference(left, right, f"{prefix}{key}.", holder=holder)
        elif left != right:
            lines.append(f"{prefix}{key}: {holder} has {left!r}, the job wants {right!r}")
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
            ConfigError: no committed part holds it.
        """
        rows, place = self.find_stream(row_id)
        row: dict[str, Any] = rows.slice(place, 1).to_pylist()[0]
        return row

    def find_stream(self, row_id: str) -> tuple[pa.Table, int]:
        """The row with this id, with all that it takes to decode it, and its place among them.

        That is the row alone, or of a stream's segments those from the first to the one behind it.

        Raises:
            ConfigError: no committed part holds it.
        """
        for path in self.parts():
            with opened_parquet(self.store.read(path)) as file:
                for group in range(file.num_row_groups):
                    ids = file.read_row_group(group, columns=["id"], use_threads=False).column("id").to_pylist()
                    if row_id not in ids:
                        continue
                    if SEGMENT_COLUMN not in file.schema_arrow.names:
                        return file.read_row_group(group, use_threads=False).slice(ids.index(row_id), 1), 0
                    return self._with_its_stream(path, file.read(use_threads=False), row_id)
        raise ConfigError(f"{self.store.root}: no committed row has the id {row_id!r}")

    def _with_its_stream(self, path: str, rows: pa.Table, row_id: str) -> tuple[pa.Table, int]:
        number = rows.column("id").to_pylist().index(row_id)  # a video's rows stand in one part, in order
        segments: list[Any] = rows.column(SEGMENT_COLUMN).to_pylist()
        place = segments[number]
        if segments[max(0, number - place) : number + 1] != list(range(place + 1)):
            raise ConfigError(f"{self.store.root}/{path}: row {row_id!r}: the segments before it are not all there")
        goes_on = segments[number + 1 : number + 2] == [place + 1]
        return rows.slice(number - place, place + (2 if goes_on else 1)), place
