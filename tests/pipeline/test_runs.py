"""Heartbeats say who is at work: while a run goes on, and for ten minutes after the last sign of it."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipeline import runs
from pipeline.errors import ErrorBudgetExceeded, Stopped
from pipeline.runs import announced, live_runs, old_records, read_records
from pipeline.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "out"))


def record_of(store: Store) -> dict[str, Any]:
    (info,) = store.list("_runs")
    return dict(json.loads(store.read(info.path)))


def test_a_run_is_alive_until_it_ends(store: Store) -> None:
    with announced(store) as run:
        run.facts["shards"] = 3
        assert [record["run_id"] for record in live_runs(store)] == [run.run_id]
    assert live_runs(store) == []
    assert record_of(store)["state"] == "ended" and record_of(store)["shards"] == 3


def test_a_run_that_fails_says_so(store: Store) -> None:
    with pytest.raises(RuntimeError), announced(store):
        raise RuntimeError
    assert record_of(store)["state"] == "failed" and live_runs(store) == []


@pytest.mark.parametrize(
    ("error", "state", "said"),
    [
        (KeyboardInterrupt(), "interrupted", None),
        (Stopped("told to stop"), "stopped", None),
        (ErrorBudgetExceeded("7 of 8 rejected"), "failed", "7 of 8 rejected"),
        (OSError("s3://k:SECRET@host/x"), "failed", "OSError: s3://host/x"),
    ],
)
def test_how_a_run_ended(store: Store, error: BaseException, state: str, said: str | None) -> None:
    with pytest.raises(type(error)), announced(store):
        raise error
    assert (record_of(store)["state"], record_of(store).get("error")) == (state, said)


def test_records_of_runs_that_ended_are_read_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with announced(store):
        pass
    with announced(store) as run:
        known = read_records(store)
        assert [record["state"] for record in known.values()] == ["ended", "running"]
        read: list[str] = []
        real = Store.read_if_there
        monkeypatch.setattr(Store, "read_if_there", lambda store, path: read.append(path) or real(store, path))
        assert read_records(store, known).keys() == known.keys()
    assert read == [f"_runs/{run.run_id}.json"]


def test_the_heart_beats_whatever_a_beat_ends_with(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "_BEAT_SECONDS", 0.01)
    real = Store.put
    failed: list[str] = []

    def put(store: Store, path: str, data: bytes) -> None:
        if len(failed) == 1:
            failed.append(path)
            raise RuntimeError("what a library raises")
        failed.append(path)
        real(store, path, data)

    monkeypatch.setattr(Store, "put", put)
    with announced(store) as run:
        first = record_of(store)["heartbeat"]
        run.facts["shards_done"] = 7
        ends = time.monotonic() + 30
        while record_of(store).get("shards_done") != 7:
            assert time.monotonic() < ends, "no beat came"
            time.sleep(0.01)
        assert record_of(store)["heartbeat"] > first and len(failed) >= 3


@pytest.mark.parametrize(("minutes", "alive"), [(1, True), (9, True), (11, False)])
def test_a_run_that_fell_silent_is_dead_after_ten_minutes(store: Store, minutes: int, alive: bool) -> None:
    heard = (datetime.now(UTC) - timedelta(minutes=minutes)).isoformat()
    store.put("_runs/r.json", json.dumps({"run_id": "r", "state": "running", "heartbeat": heard}).encode())
    assert len(live_runs(store)) == alive


@pytest.mark.parametrize("state", ["running", "ended", "failed"])
@pytest.mark.parametrize(("days", "is_old"), [(6, False), (8, True)])
def test_records_of_which_nothing_was_heard_for_a_week_are_old(
    store: Store, state: str, days: int, is_old: bool
) -> None:
    heard = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    store.put("_runs/r.json", json.dumps({"run_id": "r", "state": state, "heartbeat": heard}).encode())
    assert [info.path for info in old_records(store)] == ["_runs/r.json"] * is_old


@pytest.mark.parametrize("data", [b"", b"{}", b"null", b"\xff", b'{"state": "running", "heartbeat": 1}'])
def test_what_is_no_record_is_nobody(store: Store, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.put("_runs/r.json", data)
    assert live_runs(store) == [] and "_runs/r.json is not a record of a run" in caplog.text
