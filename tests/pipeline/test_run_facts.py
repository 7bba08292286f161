"""What a run's record says of its work: true, and bounded however long the run is."""

import itertools
import json
from collections import Counter
from typing import Any

import pytest

from pipeline.executors import ShardFailure
from pipeline.job import Progress
from pipeline.progress import Counters
from pipeline.records import Shard
from pipeline.run_facts import HISTORY, RunFacts
from tests.jobs_for_tests import job


class Run:
    """A run with a clock of its own."""

    def __init__(self, shards: int = 1000) -> None:
        self.now = 1000.0
        self.facts: dict[str, Any] = {}
        self.progress = Progress(shards=shards, shards_before=0, bytes_left=shards, bytes_total=shards)
        config = job("/in", "/out", executor={"kind": "ray", "num_workers": 2})
        self.record = RunFacts(self.facts, config, self.progress, clock=lambda: self.now)

    def history(self) -> list[dict[str, float]]:
        assert self.facts["history"]["names"] == HISTORY
        return [dict(zip(HISTORY, point, strict=True)) for point in self.facts["history"]["points"]]


def shard(number: int) -> Shard:
    return Shard(shard_id=f"s{number}", path=f"{number}.tar", size_bytes=1, etag=None)


def test_counts_over_time_are_thinned_and_end_with_now() -> None:
    run = Run()
    for number in range(1, 20_001):
        run.now += 0.5
        run.progress.counters = Counters(clips=number, tokens=10 * number, rejects=Counter(crash=number // 7))
        run.record.update([])
        if number == 100:
            early = run.history()
    assert [point["clips"] for point in early] == [2 * second for second in range(51)], "each second of a short run"
    history = run.history()
    assert 120 <= len(history) <= 241
    assert (history[0]["time"], history[0]["clips"]) == (1000, 0)
    last = history[-1]
    assert (last["time"], last["clips"], last["tokens"], last["rejects"]) == (11_000, 20_000, 200_000, 20_000 // 7)
    steps = {round(b["time"] - a["time"], 3) for a, b in itertools.pairwise(history[:-1])}
    assert steps == {64.0}, "so many points that a day's are as few as an hour's"
    assert all(point["clips"] == 2 * (point["time"] - 1000) for point in history)


def test_shards_under_way_and_the_slowest() -> None:
    run = Run()
    run.now = 1010.0
    run.record.update([shard(0), shard(1)])
    run.now = 1020.0
    run.record.update([shard(0), shard(1)])
    run.now = 1100.0
    run.progress.shards_done = 1
    run.record.done("s0", "0.tar")
    (left,) = run.facts["under_way"]
    # Both began after the look before the one that saw them first.
    assert left == {"shard_id": "s1", "path": "1.tar", "since": "1970-01-01T00:16:40+00:00"}
    assert run.facts["slowest"] == [{"shard_id": "s0", "path": "0.tar", "seconds": 100.0}]
    assert run.facts["shards_done"] == 1
    for number in range(2, 40):  # seen by no look: they took no longer than since the last sign
        run.now += number
        run.record.done(f"s{number}", f"{number}.tar")
    assert [one["seconds"] for one in run.facts["slowest"]] == [100.0, *range(39, 30, -1)]


def test_failures_and_examples() -> None:
    run = Run()
    run.progress.counters.rejects["crash"] = 3
    run.progress.counters.examples["crash"] = "0.tar, 'v': died"
    for number in range(30):
        run.progress.shards_failed += 1
        run.record.failed(
            ShardFailure(shard_id=f"s{number}", path=f"{number}.tar", size_bytes=1, history=("a", f"b{number}"))
        )
    assert [failure["shard_id"] for failure in run.facts["failed"]] == [f"s{number}" for number in range(10, 30)]
    assert run.facts["failed"][-1]["history"] == ("a", "b29") and run.facts["shards_failed"] == 30
    assert (run.facts["rejects_by_class"], run.facts["reject_examples"]) == (
        {"crash": 3},
        {"crash": "0.tar, 'v': died"},
    )


def test_a_record_is_small() -> None:
    run = Run()
    for number in range(1000):
        run.now += 30
        run.progress.counters = Counters(clips=10**9 + number, tokens=10**12, frames=10**10, bytes_read=10**13)
        run.record.update([shard(worker) for worker in range(64)])
    assert len(json.dumps(run.facts)) < 40_000


@pytest.mark.parametrize("kind", ["executor", "workers"])
def test_the_job_is_told(kind: str) -> None:
    facts = Run().facts
    assert facts["job"][kind] == {"executor": "ray", "workers": 2}[kind]
    assert facts["driver"]["pid"] > 0 and facts["driver"]["host"]
