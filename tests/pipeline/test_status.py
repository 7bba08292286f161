"""What is told of a dataset agrees with its commits, says who is gone, and costs little where many are committed."""

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline.dataset import Dataset
from pipeline.inputs import grow_inputs, supplement_of
from pipeline.records import Shard
from pipeline.run_facts import HISTORY
from pipeline.runs import _BEAT_SECONDS, GONE_SECONDS
from pipeline.snapshots import add_to_snapshot, newest_snapshot
from pipeline.status import StatusReader
from pipeline.storage import Store
from pipeline.verify import verify_dataset
from tests.made_dataset import config_of as small_config
from tests.made_dataset import dataset_of, pack_input
from tests.rows_for_tests import made_rows, rejected_videos

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
WATCH_SECONDS = 10.0  # `vidtok status --watch` looks so often


def tell_run(dataset: Dataset, run_id: str, *, silent: float, state: str = "running", **facts: Any) -> None:
    """A run's record, last heard of so many seconds before NOW."""
    heard = NOW - timedelta(seconds=silent)
    record = {"run_id": run_id, "state": state, "started": (heard - timedelta(hours=1)).isoformat()}
    data = json.dumps({**record, "heartbeat": heard.isoformat(), **facts}).encode()
    dataset.store.put(f"_runs/{run_id}.json", data)


def add_shards(dataset: Dataset, count: int, size_bytes: int = 100) -> list[Shard]:
    added = [
        Shard(shard_id=f"w{number}-{number:010x}", path=f"w{number}.tar", size_bytes=size_bytes, etag=None)
        for number in range(count)
    ]
    grow_inputs(dataset.store, lambda standing: [] if added[0] in list(standing) else added)
    return added


def read(dataset: Dataset) -> Any:
    return StatusReader(dataset.store, now=lambda: NOW).read()


def test_it_agrees_with_the_commits_and_with_verify(tmp_path: Path) -> None:
    from pipeline.job import run_job

    pack_input(tmp_path)
    config = small_config(tmp_path)
    assert not run_job(config).failures
    dataset = dataset_of(tmp_path)
    found, verdict, commits = read(dataset), verify_dataset(dataset), list(dataset.commits())
    assert (found.done, found.rows, found.shards - found.done) == (verdict.shards, verdict.rows, verdict.uncommitted)
    assert (found.done, found.waiting, found.failed, found.in_flight) == (2, 0, 0, 0) and found.is_over
    for name in ("rows", "tokens", "videos", "video_bytes"):
        assert getattr(found, name) == sum(commit[name] for commit in commits) > 0
    (reject,) = found.rejects
    assert (reject.name, reject.rejects) == ("unreadable", 2) and ".tar, 'bad': 8 bytes" in reject.example
    assert json.loads(json.dumps(found.to_json()))["runs"][0]["state"] == "ended"


@pytest.mark.parametrize("in_snapshot", [True, False])
def test_videos_that_were_tried_again_are_counted_once(tmp_path: Path, in_snapshot: bool) -> None:
    dataset = made_rows(tmp_path)
    shard = dataset.inputs()[0]
    again = supplement_of(shard, 1, [("v0", 0)])
    grow_inputs(dataset.store, lambda standing: [] if again in list(standing) else [again])
    rejected_videos(dataset, again.shard_id, ["timeout"], path=again.path)
    if not in_snapshot:
        dataset.store.delete("_snapshots/00000002.parquet")
    found = read(dataset)
    assert (found.shards, found.done, found.videos) == (4, 4, 24)
    assert [(reject.name, reject.rejects) for reject in found.rejects] == [("timeout", 1)]
    assert found.rejects[0].example == "0.tar, 'v0': no", "no record names it, so it is read from the rejects"


def test_shards_are_done_or_in_flight_or_failed_or_waiting(tmp_path: Path) -> None:
    dataset = made_rows(tmp_path)
    added = add_shards(dataset, 6)
    committed = dataset.inputs()[0]
    since = (NOW - timedelta(seconds=90)).isoformat()

    def named(*shards: Shard) -> list[dict[str, Any]]:
        return [{"shard_id": shard.shard_id, "path": shard.path, "since": since} for shard in shards]

    failures = [{**vars(shard), "history": ["first", "then"]} for shard in (added[2], added[0], committed)]
    # A live driver may name what was committed since its heartbeat, and a dead one nothing that is under way.
    tell_run(dataset, "a", silent=5, under_way=named(committed, added[0], added[1]), slowest=[])
    tell_run(dataset, "b", silent=500, under_way=named(added[3]), failed=failures, shards_failed=3)
    found = read(dataset)
    assert (found.shards, found.done, found.in_flight, found.failed, found.waiting) == (9, 3, 2, 1, 3)
    assert [(shard["path"], shard["seconds"]) for shard in found.under_way] == [("w0.tar", 90.0), ("w1.tar", 90.0)]
    (failure,) = found.failures
    assert (failure["path"], failure["history"], failure["run_id"]) == ("w2.tar", ["first", "then"], "b")
    assert {run.run_id: run.state for run in found.runs} == {"a": "running", "b": "gone"}
    assert not found.is_over and found.bytes_left == 600


def test_time_left_goes_by_bytes_and_by_who_is_at_work(tmp_path: Path) -> None:
    dataset = made_rows(tmp_path)
    add_shards(dataset, 10, size_bytes=1000)
    end = NOW.timestamp() - 5
    points = [[end - 100, 0, 0, 0, 0, 0, 0, 0], [end, 0, 4, 0, 40, 0, 400, 2000]]
    facts = {
        "history": {"names": list(HISTORY), "points": points},
        "work": {"bytes_read": 2000},
        "bytes_total": 10_000,
        "bytes_left": 10_000,
    }
    tell_run(dataset, "a", silent=5, **facts)
    found = read(dataset)
    assert (found.rates[0].clips, found.rates[0].bytes_read) == (0.4, 20.0)
    assert found.bytes_left == 8000, "2,000 bytes of shards under way are read"
    assert found.eta_seconds == 400
    tell_run(dataset, "a", silent=500, **facts)
    assert read(dataset).eta_seconds is None and read(dataset).bytes_left == 10_000


@pytest.mark.parametrize("since_beat", [0.0, 0.5 * _BEAT_SECONDS, _BEAT_SECONDS - 0.1])
def test_a_driver_that_was_killed_is_said_to_be_gone_within_a_minute(tmp_path: Path, since_beat: float) -> None:
    """Whenever it died between two heartbeats, and whenever within its interval a watch looks."""
    dataset = made_rows(tmp_path)
    tell_run(dataset, "a", silent=since_beat + 60.0 - WATCH_SECONDS + 0.1)
    assert [run.state for run in read(dataset).runs] == ["gone"]


@pytest.mark.parametrize("slow_put_seconds", [0.0, 10.0, 19.0])
def test_a_driver_whose_store_is_slow_is_not_gone(tmp_path: Path, slow_put_seconds: float) -> None:
    """Its heartbeat is seen late, and until then the one before it is all there is."""
    dataset = made_rows(tmp_path)
    tell_run(dataset, "a", silent=_BEAT_SECONDS + slow_put_seconds)
    (run,) = read(dataset).runs
    assert run.is_live and run.silent_seconds == _BEAT_SECONDS + slow_put_seconds
    assert GONE_SECONDS + WATCH_SECONDS <= 60


@pytest.mark.parametrize("state", ["ended", "failed", "stopped", "interrupted"])
def test_a_run_that_ended_is_not_gone(tmp_path: Path, state: str) -> None:
    dataset = made_rows(tmp_path)
    tell_run(dataset, "a", silent=86_400, state=state)
    assert [run.state for run in read(dataset).runs] == [state]


def test_many_commits_are_not_read_one_by_one_nor_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20,000 commits 150 are in no snapshot yet: these are read once, and nothing is read twice."""
    dataset = made_rows(tmp_path)
    template = next(iter(dataset.commits()))
    shards = add_shards(dataset, 20_000)
    commits = [{**template, "shard_id": shard.shard_id} for shard in shards]
    for begin in range(0, 19_850, 1985):
        add_to_snapshot(dataset.store, commits[begin : begin + 1985], newest_snapshot(dataset.store, ids_alone=True))
    for commit in commits[19_850:]:
        dataset.store.put_if_absent(f"_commits/{commit['shard_id']}.json", json.dumps(commit).encode())
    tell_run(dataset, "a", silent=5)
    reads: Counter[str] = Counter()
    real = Store.read_if_there

    def counted(store: Store, path: str) -> bytes | None:
        reads[path.partition("/")[0]] += 1
        return real(store, path)

    monkeypatch.setattr(Store, "read_if_there", counted)
    reader = StatusReader(dataset.store, now=lambda: NOW)
    found = reader.read()
    assert (found.done, found.rows) == (20_003, 20_003 * template["rows"])
    assert reads["_commits"] == 150 and reads["_snapshots"] == 11
    reads.clear()
    assert reader.read() == found
    assert reads == {"_runs": 1}, "only whoever is at work is asked again"
    # Another file of the snapshot: that alone, and no commit counts twice.
    add_to_snapshot(dataset.store, commits[19_850:], newest_snapshot(dataset.store, ids_alone=True))
    reads.clear()
    assert reader.read() == found
    assert reads == {"_runs": 1, "_snapshots": 1}
