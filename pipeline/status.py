"""What there is to know of a dataset and the runs that make it, from its storage alone: no run is asked."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from pipeline.committed_totals import TOTALLED_COLUMNS, CommittedTotals
from pipeline.dataset import Dataset
from pipeline.errors import VidtokError
from pipeline.parts import read_table
from pipeline.run_rates import Rate, rates_of
from pipeline.runs import GONE_SECONDS, read_records, silence_seconds
from pipeline.shard_table import ShardTable
from pipeline.snapshots import Snapshot, newest_snapshot
from pipeline.storage import ObjectInfo, Store

__all__ = ["DatasetStatus", "RejectClass", "RunStatus", "StatusReader"]

_SHOWN_SLOWEST = 10

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """One run, as its record says it.

    Attributes:
        run_id: its id.
        state: running, gone (its record says running, and nothing was heard for GONE_SECONDS), ended, failed,
            interrupted, or stopped (by SIGTERM).
        silent_seconds: since its last heartbeat.
        record: all of the record; those of earlier versions lack most of it.
    """

    run_id: str
    state: str
    silent_seconds: float
    record: Record

    @property
    def is_live(self) -> bool:
        """Whether it is at work."""
        return self.state == "running"


@dataclass(frozen=True, kw_only=True)
class RejectClass:
    """Rejects of one class: how many were committed, also of a video that was tried again, and one of them."""

    name: str
    rejects: int
    example: str | None


@dataclass(frozen=True, kw_only=True)
class DatasetStatus:
    """All of it, in plain values.

    Attributes:
        dataset: its root.
        model: its model's name.
        fingerprint: its plan's.
        read_at: when this was read, ISO 8601.
        shards: of the input; each is done, in flight, failed (given up, and not under way), or waiting.
        done: committed ones.
        in_flight: of those that are not, under way on a live driver.
        failed: given up by the last run that tried them; of each run the last twenty are known.
        waiting: all others.
        rows: committed ones, those that were removed since among them; and so are the following.
        tokens: of these rows.
        videos: that ended as rows or as a reject, each once.
        video_bytes: of these.
        rejects: by class, the most frequent first.
        bytes_left: of input that is not committed, less what live drivers have read of it.
        rates: work done per second over the last hours of work.
        eta_seconds: until all is done, at the rate of the last hour; None where nobody is at work or nothing is known.
        under_way: shard_id, path, run_id and seconds of each shard in flight, the longest first.
        slowest: the same of shards that are done, as far as the records of runs name them.
        failures: shard_id, path, run_id and the error of each attempt (history) of each failed shard.
        runs: whose records are there, the oldest first.
    """

    dataset: str
    model: str
    fingerprint: str
    read_at: str
    shards: int
    done: int
    in_flight: int
    failed: int
    waiting: int
    rows: int
    tokens: int
    videos: int
    video_bytes: int
    rejects: list[RejectClass]
    bytes_left: int
    rates: list[Rate]
    eta_seconds: float | None
    under_way: list[dict[str, Any]]
    slowest: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    runs: list[RunStatus]

    @property
    def is_over(self) -> bool:
        """Whether all is committed and nobody is at work."""
        return self.done == self.shards > 0 and not any(run.is_live for run in self.runs)

    def to_json(self) -> dict[str, Any]:
        """In plain JSON types; of runs their records, without the counts over time."""
        plain = asdict(self)
        for run in plain["runs"]:
            record = run.pop("record")
            run.update({name: value for name, value in record.items() if name not in (*run, "history")})
        return plain


class StatusReader:
    """Reads a dataset's status, and each time again only what has come since."""

    def __init__(self, store: Store, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Opens the dataset.

        Raises:
            ConfigError: there is none.
            StorageError: the store failed.
        """
        self._dataset = Dataset.open(store)
        self._now = now
        self._snapshot, self._of_snapshot = Snapshot(), CommittedTotals()
        self._commits: dict[str, dict[str, Any]] = {}  # those that no snapshot holds
        self._inputs, self._inputs_listed = ShardTable(), list[ObjectInfo]()
        self._records: dict[str, Record] = {}
        self._examples: dict[str, str | None] = {}

    def read(self) -> DatasetStatus:
        """The status now.

        Raises:
            StorageError: the store failed.
            CommitConflict: a commit is none of ours.
        """
        store, now = self._dataset.store, self._now()
        self._records = read_records(store, self._records)
        runs = [_run(record, now) for record in self._records.values()]
        pending, totals = self._committed()
        pending_ids = frozenset(shard_id for ids in pending.sorted_ids(100_000) for shard_id in ids)
        live = [run for run in runs if run.is_live]
        under_way = [shard for shard in _under_way(live, now) if shard["shard_id"] in pending_ids]
        flying = {shard["shard_id"] for shard in under_way}
        failures = [shard for shard in _failures(runs) if shard["shard_id"] in pending_ids - flying]
        rates = rates_of(run.record for run in runs)
        bytes_left = max(0, int(pending.sizes().sum()) - sum(map(_partly_read, live)))
        return DatasetStatus(
            dataset=store.root,
            model=self._dataset.description["model"]["name"],
            fingerprint=self._dataset.description["fingerprint"],
            read_at=now.isoformat(timespec="seconds"),
            shards=len(self._inputs),
            done=len(self._inputs) - len(pending),
            in_flight=len(flying),
            failed=len(failures),
            waiting=len(pending) - len(flying) - len(failures),
            rows=totals.rows,
            tokens=totals.tokens,
            videos=totals.videos,
            video_bytes=totals.video_bytes,
            rejects=self._rejects(totals, runs),
            bytes_left=bytes_left,
            rates=rates,
            eta_seconds=_eta(bytes_left, len(pending) - len(failures), rates) if live else None,
            under_way=under_way,
            slowest=_slowest(runs),
            failures=failures,
            runs=runs,
        )

    def _committed(self) -> tuple[ShardTable, CommittedTotals]:
        """The shards that are not committed, and sums over the commits of the others."""
        store = self._dataset.store
        snapshot = newest_snapshot(store, self._snapshot, columns=TOTALLED_COLUMNS)
        if snapshot.tables.keys() != self._snapshot.tables.keys():
            self._snapshot, self._of_snapshot = snapshot, CommittedTotals()
            self._of_snapshot.add_table(snapshot.table())
        # Behind the snapshot, so that each shard of that is in it.
        listed = list(store.list("inputs"))
        if listed != self._inputs_listed:
            self._inputs, self._inputs_listed = self._dataset.inputs(), listed
        unknown = self._inputs.without(snapshot.ids)
        still = {shard_id for ids in unknown.sorted_ids(100_000) for shard_id in ids} if self._commits else set()
        self._commits = {shard_id: commit for shard_id, commit in self._commits.items() if shard_id in still}
        new = self._dataset.committed(unknown.without(_ids(self._commits)))
        self._commits.update({commit["shard_id"]: commit for commit in new})
        totals = self._of_snapshot.copy()
        for commit in self._commits.values():
            totals.add(commit)
        return unknown.without(_ids(self._commits)), totals

    def _rejects(self, totals: CommittedTotals, runs: Iterable[RunStatus]) -> list[RejectClass]:
        """Classes with an example each: of a run's record, or read once from the rejects of a shard."""
        told = {name: text for run in runs for name, text in run.record.get("reject_examples", {}).items()}
        for name in totals.rejects.keys() - told.keys() - self._examples.keys():
            self._examples[name] = self._example(totals.rejects_files[name], name)
        return [
            RejectClass(name=name, rejects=count, example=told.get(name) or self._examples.get(name))
            for name, count in totals.rejects.most_common()
        ]

    def _example(self, path: str, name: str) -> str | None:
        try:
            rows = read_table(self._dataset.store.read(path)).to_pylist()
            row = next(row for row in rows if row["error"] == name)
        except (VidtokError, pa.ArrowException, OSError, LookupError, StopIteration):
            return None  # `vidtok verify` says what is wrong with it
        return f"{row['source_shard']}, {row['source_key']!r}: {row['message']}"[:300]


def _ids(commits: Iterable[str]) -> "pa.Array[Any]":
    return pa.array(list(commits), pa.string())


def _run(record: Record, now: datetime) -> RunStatus:
    silent = silence_seconds(record, now)
    state = record["state"]
    if state == "running" and silent > GONE_SECONDS:
        state = "gone"
    return RunStatus(run_id=record["run_id"], state=state, silent_seconds=round(silent, 1), record=record)


def _partly_read(run: RunStatus) -> int:
    """Bytes that a run has read of shards which it did not end yet."""
    record = run.record
    ended = int(record.get("bytes_total", 0)) - int(record.get("bytes_left", 0))
    return max(0, int(record.get("work", {}).get("bytes_read", 0)) - ended)


def _under_way(live: Iterable[RunStatus], now: datetime) -> list[dict[str, Any]]:
    """Each shard once, though two drivers may be at it."""
    found: dict[str, dict[str, Any]] = {}
    for run in live:
        for shard in run.record.get("under_way", ()):
            seconds = round((now - datetime.fromisoformat(shard["since"])).total_seconds(), 1)
            said = {**_named(shard, run), "seconds": max(seconds, 0.0)}
            found[shard["shard_id"]] = max(said, found.get(shard["shard_id"], said), key=lambda one: one["seconds"])
    return sorted(found.values(), key=lambda shard: -shard["seconds"])


def _slowest(runs: Iterable[RunStatus]) -> list[dict[str, Any]]:
    named = [
        {**_named(shard, run), "seconds": shard["seconds"]} for run in runs for shard in run.record.get("slowest", ())
    ]
    return sorted(named, key=lambda shard: -shard["seconds"])[:_SHOWN_SLOWEST]


def _failures(runs: Iterable[RunStatus]) -> list[dict[str, Any]]:
    """The last failure of each shard."""
    found = {
        shard["shard_id"]: {**_named(shard, run), "history": list(shard["history"])}
        for run in runs
        for shard in run.record.get("failed", ())
    }
    return list(found.values())


def _named(shard: Mapping[str, Any], run: RunStatus) -> dict[str, Any]:
    return {"shard_id": shard["shard_id"], "path": shard["path"], "run_id": run.run_id}


def _eta(bytes_left: int, shards_left: int, rates: list[Rate]) -> float | None:
    """By bytes; by shards where a manifest does not say how large its videos are."""
    if not rates:
        return None
    left, rate = (bytes_left, rates[0].bytes_read) if bytes_left else (shards_left, rates[0].shards_done)
    return round(left / rate, 1) if rate else None
