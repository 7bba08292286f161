"""What a run's record says of its work, for `vidtok status` and `vidtok report`; small, as it is put all the time."""

import os
import socket
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline.config import JobConfig
from pipeline.executors import ShardFailure
from pipeline.records import Shard

if TYPE_CHECKING:
    from pipeline.job import Progress

__all__ = ["HISTORY", "History", "RunFacts"]

# What a point of a history says, in this order: Unix time, and counts of this run up to then.
HISTORY = ("time", "shards_done", "videos", "rejects", "clips", "frames", "tokens", "bytes_read")
_COUNTED = ("videos", "clips", "frames", "tokens", "bytes_read")
_MOST_POINTS = 240
# Of shards that were given up, a record names the last ones; of those that are done, the slowest.
_NAMED_FAILURES = 20
_NAMED_SLOWEST = 10


class History:
    """Counts over time, a bounded number of them: where there are too many, every other one goes.

    Attributes:
        interval: seconds that lie between two points at least.
        points: of the numbers that HISTORY names.
    """

    def __init__(self, interval: float = 1.0) -> None:
        """Has no points yet."""
        self.interval = interval
        self.points: list[list[float]] = []

    def add(self, point: list[float]) -> None:
        """Adds a point, unless the one before it is too close."""
        if self.points and point[0] < self.points[-1][0] + self.interval:
            return
        self.points.append(point)
        if len(self.points) > _MOST_POINTS:
            self.points = self.points[::2]
            self.interval *= 2


class RunFacts:
    """Keeps a run's facts up to date. What stands in them is replaced, never changed: a thread writes them down."""

    def __init__(
        self,
        facts: dict[str, Any],
        config: JobConfig,
        progress: "Progress",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Takes the run's facts, and says what its job is."""
        self._facts, self._progress, self._clock = facts, progress, clock
        self._history = History()
        self._paths: dict[str, str] = {}  # of the shards under way
        self._since: dict[str, float] = {}
        self._slowest: list[dict[str, Any]] = []
        self._looked = clock()
        executor = config.executor
        facts.update(
            driver={"host": socket.gethostname(), "pid": os.getpid(), "version": version("vidtok-pipeline")},
            job={
                "executor": executor.kind,
                "workers": executor.num_workers,
                "cpus_per_worker": executor.cpus_per_worker,
                "gpus_per_worker": executor.gpus_per_worker,
                "batch_size": executor.batch_size,
            },
            shards=progress.shards,
            shards_before=progress.shards_before,
            bytes_total=progress.bytes_total,
            slowest=[],
            failed=[],
        )
        self.update()

    def update(self, under_way: Sequence[Shard] | None = None) -> None:
        """Takes the progress as it is now; `under_way` where that is known anew."""
        now = self._clock()
        if under_way is not None:
            self._paths = {shard.shard_id: shard.path for shard in under_way}
            # Whoever is new began after the last look.
            self._since = {shard_id: self._since.get(shard_id, self._looked) for shard_id in self._paths}
            self._looked = now
        progress, counters = self._progress, self._progress.counters
        counts = {name: getattr(counters, name) for name in _COUNTED}
        counts |= {"time": round(now, 1), "shards_done": progress.shards_done, "rejects": counters.rejects.total()}
        point = [counts[name] for name in HISTORY]
        self._history.add(point)
        points = self._history.points
        self._facts.update(
            shards_done=progress.shards_done,
            shards_failed=progress.shards_failed,
            bytes_left=progress.bytes_left,
            under_way=[
                {"shard_id": shard_id, "path": path, "since": _written(self._since[shard_id])}
                for shard_id, path in self._paths.items()
            ],
            work=counters.report(),
            rejects_by_class=dict(counters.rejects),
            reject_examples=dict(counters.examples),
            history={"names": HISTORY, "points": points if points[-1] is point else [*points, point]},
        )

    def done(self, shard_id: str, path: str) -> None:
        """A shard is committed."""
        seconds = round(self._clock() - self._since.get(shard_id, self._looked), 1)
        slowest = [*self._slowest, {"shard_id": shard_id, "path": path, "seconds": seconds}]
        self._slowest = sorted(slowest, key=lambda shard: -shard["seconds"])[:_NAMED_SLOWEST]
        self._facts["slowest"] = self._slowest
        self._ended(shard_id)

    def failed(self, failure: ShardFailure) -> None:
        """A shard was given up."""
        self._facts["failed"] = [*self._facts["failed"], vars(failure)][-_NAMED_FAILURES:]
        self._ended(failure.shard_id)

    def _ended(self, shard_id: str) -> None:
        self._since.pop(shard_id, None)
        self._paths.pop(shard_id, None)
        self._looked = self._clock()
        self.update()


def _written(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
