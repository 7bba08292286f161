"""A run in figures, through Ray's own exporter to Prometheus: `ray_vidtok_...`, which infra/monitoring/ reads.

Each process says its own: a worker what it did, the driver how far the run is. Ray adds node and worker to the labels,
keeps the counters of processes that are gone, and lets their gauges go within seconds.
"""

import logging
import posixpath
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray.util.metrics

from pipeline.executors.base import ShardFailure, WorkOrder
from pipeline.progress import Counters
from pipeline.storage import retries

__all__ = ["COUNTERS", "GAUGES", "RunMetrics", "Tally"]

log = logging.getLogger(__name__)

# Of each what it is, and its label beside the run's. Ray puts `ray_vidtok_` before, and `_total` behind counters.
COUNTERS: dict[str, tuple[str, str | None]] = {
    "videos": ("Input videos that ended as rows or as a reject.", None),
    "rejects": ("Of these, the rejected.", "class"),
    "clips": ("Clips encoded.", None),
    "frames": ("Frames of these clips, without those that pad them.", None),
    "tokens": ("Tokens, or latent positions, of these clips.", None),
    "bytes_read": ("Encoded bytes of the videos that ended.", None),
    "bytes_written": ("Bytes of the parts that were put.", None),
    "worker_seconds": ("For which workers had shards.", None),
    "busy_seconds": ("Of these, for which a stage was at work, rather than waiting for another.", "stage"),
    "storage_retries": ("Requests to stores that were sent again.", "action"),
    "attempts_failed": ("Attempts at shards that failed.", "error"),
    "workers_lost": ("Workers that ended before their work did.", "why"),
}
GAUGES: dict[str, tuple[str, str | None]] = {
    "queue_bytes": ("Bytes that stand between two stages of a worker.", "queue"),
    "shards": ("Shards that this run has to do, by how far they are.", "state"),
    "bytes_left": ("Bytes of input that are left to read.", None),
    "workers": ("Workers, by what they do.", "state"),
}
_OF_WORK = ("videos", "clips", "frames", "tokens", "bytes_read", "bytes_written")


class Tally:
    """What a driver counts: how shards ended, which attempts failed, and why workers were lost."""

    def __init__(self, total_bytes: int) -> None:
        """Begins with the bytes of all shards that are to do."""
        self.shards = Counter(done=0, failed=0)
        self.attempts_failed: Counter[str] = Counter()
        self.workers_lost: Counter[str] = Counter()
        self._total_bytes, self._ended_bytes = total_bytes, 0

    def end(self, outcome: dict[str, Any] | ShardFailure) -> None:
        """Counts a shard."""
        is_failure = isinstance(outcome, ShardFailure)
        self.shards["failed" if is_failure else "done"] += 1
        self._ended_bytes += (
            outcome.size_bytes if isinstance(outcome, ShardFailure) else outcome["source"]["size_bytes"]
        )

    def bytes_left(self, counters: Counters) -> int:
        """Of all shards, those under way included."""
        return max(0, self._total_bytes - max(self._ended_bytes, counters.bytes_read))


class RunMetrics:
    """What one process says of a run. May be used by several threads; nothing relies on it, so it raises nothing."""

    def __init__(self, order: WorkOrder) -> None:
        """Takes the labels of a run: its id, and the last name of its output."""
        self._labels = {"run": order.run_id, "dataset": posixpath.basename(order.config.output.rstrip("/"))}
        self._metrics: dict[str, Any] = {}
        self._counted: dict[tuple[str, str], float] = {}
        self._lock = threading.Lock()
        self._has_failed = False

    def work(self, counters: Counters, queue_bytes: Mapping[str, int]) -> None:
        """A worker's: what it did so far, and what stands between its stages."""
        with self._harmless():
            for name in _OF_WORK:
                self._reach(name, {"": getattr(counters, name)})
            self._reach("worker_seconds", {"": counters.seconds})
            self._reach("busy_seconds", counters.busy_seconds)
            self._reach("rejects", counters.rejects)
            self._reach("storage_retries", counters.storage_retries)
            self._set("queue_bytes", queue_bytes)

    def crew(self, tally: Tally, counters: Counters, *, shards: Mapping[str, int], workers: Mapping[str, int]) -> None:
        """The driver's.

        Args:
            tally: what it counted.
            counters: the work of all workers.
            shards: those that have not ended, by state.
            workers: by state.
        """
        with self._harmless():
            self._set("shards", {**shards, **tally.shards})
            self._set("bytes_left", {"": tally.bytes_left(counters)})
            self._set("workers", workers)
            self._reach("attempts_failed", tally.attempts_failed)
            self._reach("workers_lost", tally.workers_lost)
            self._reach("storage_retries", retries())

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        with self._lock:
            try:
                yield
            except Exception as error:  # whatever Ray's exporter has, no job is to end of it
                if not self._has_failed:
                    log.warning("metrics are not exported: %s: %s", type(error).__name__, error)
                self._has_failed = True

    def _reach(self, name: str, totals: Mapping[str, float]) -> None:
        """Raises a counter to what was counted, by its own label."""
        for label, total in totals.items():
            more = total - self._counted.get((name, label), 0)
            if more > 0:
                self._metric(ray.util.metrics.Counter, name, COUNTERS).inc(more, self._labels_of(COUNTERS[name], label))
                self._counted[name, label] = total

    def _set(self, name: str, levels: Mapping[str, float]) -> None:
        for label, level in levels.items():
            self._metric(ray.util.metrics.Gauge, name, GAUGES).set(level, self._labels_of(GAUGES[name], label))

    def _metric(self, kind: Any, name: str, known: Mapping[str, tuple[str, str | None]]) -> Any:
        if name not in self._metrics:
            description, own = known[name]
            self._metrics[name] = kind(f"vidtok_{name}", description, (*self._labels, *([own] if own else [])))
        return self._metrics[name]

    def _labels_of(self, about: tuple[str, str | None], label: str) -> dict[str, str]:
        own = about[1]
        return {**self._labels, own: label} if own else self._labels
