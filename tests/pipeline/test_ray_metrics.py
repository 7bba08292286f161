"""What a process tells Ray's exporter: counters by their differences, gauges as they are; a failure harms nobody."""

import logging
from collections import Counter
from typing import Any

import pytest
import ray.util.metrics

from pipeline.executors.base import ShardFailure, WorkOrder
from pipeline.executors.ray_metrics import RunMetrics, Tally
from pipeline.progress import Counters
from tests.jobs_for_tests import job

LABELS = {"run": "r1", "dataset": "out"}


@pytest.fixture
def metrics() -> RunMetrics:
    return RunMetrics(WorkOrder(config=job("/in", "s3://bucket/tokens/out/"), description={}, run_id="r1"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, dict[str, str]]]:
    """What went to Ray's metrics, which check names and labels."""
    told: list[tuple[str, float, dict[str, str]]] = []

    def record(metric: Any, value: float, tags: dict[str, str]) -> None:
        metric._validate_tags(tags)
        told.append((metric.info["name"], value, {**tags}))

    monkeypatch.setattr(ray.util.metrics.Metric, "_record", record)
    return told


def test_counters_rise_by_what_is_new(metrics: RunMetrics, told: list[Any]) -> None:
    done = Counters(clips=5, seconds=2.0, busy_seconds=Counter(read=0.5), rejects=Counter(timeout=1))
    metrics.work(done, {"read-decode": 7})
    assert sorted(told, key=str) == [
        ("vidtok_busy_seconds", 0.5, {**LABELS, "stage": "read"}),
        ("vidtok_clips", 5, LABELS),
        ("vidtok_queue_bytes", 7, {**LABELS, "queue": "read-decode"}),
        ("vidtok_rejects", 1, {**LABELS, "class": "timeout"}),
        ("vidtok_worker_seconds", 2.0, LABELS),
    ]
    told.clear()
    metrics.work(done + Counters(clips=3, rejects=Counter(crash=2)), {"read-decode": 0})
    assert sorted(told, key=str) == [
        ("vidtok_clips", 3, LABELS),
        ("vidtok_queue_bytes", 0, {**LABELS, "queue": "read-decode"}),
        ("vidtok_rejects", 2, {**LABELS, "class": "crash"}),
    ]


def test_the_driver_tells_how_far_the_run_is(metrics: RunMetrics, told: list[Any]) -> None:
    tally = Tally(100)
    tally.end({"source": {"size_bytes": 30}})
    tally.end(ShardFailure(shard_id="1", path="1.tar", size_bytes=20, history=("lost",)))
    tally.workers_lost["died"] += 1
    metrics.crew(tally, Counters(bytes_read=10), shards={"waiting": 2, "under_way": 1}, workers={"working": 1})
    states = {tags["state"]: value for name, value, tags in told if name == "vidtok_shards"}
    assert states == {"waiting": 2, "under_way": 1, "done": 1, "failed": 1}
    assert ("vidtok_bytes_left", 50, LABELS) in told
    assert ("vidtok_workers_lost", 1, {**LABELS, "why": "died"}) in told
    # Of shards under way more may be read than those had that ended.
    assert tally.bytes_left(Counters(bytes_read=70)) == 30 and tally.bytes_left(Counters(bytes_read=200)) == 0


def test_an_exporter_that_fails_is_told_of_once_and_harms_nobody(
    metrics: RunMetrics, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("no agent")

    monkeypatch.setattr(ray.util.metrics.Metric, "_record", refuse)
    with caplog.at_level(logging.WARNING):
        for clips in (1, 2):
            metrics.work(Counters(clips=clips), {})
            metrics.crew(Tally(0), Counters(), shards={"waiting": 1}, workers={})
    assert [record.getMessage() for record in caplog.records] == ["metrics are not exported: RuntimeError: no agent"]
