"""Heartbeats: what each driver is doing, in `_runs/<run_id>.json`.

For people, and for `gc` and `verify` to say what may be somebody's. No row relies on them.
"""

import json
import logging
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.crash_points import crash_point
from pipeline.errors import Stopped, StorageError, told
from pipeline.storage import ObjectInfo, Store

__all__ = ["GONE_SECONDS", "Run", "announced", "live_runs", "old_records", "read_records", "silence_seconds"]

_FOLDER = "_runs"
_BEAT_SECONDS = 30.0
_LAST_BEAT_SECONDS = 30.0  # for one that is under way; a store that does not answer keeps nobody
# A driver that was not heard of for so long is said to be gone. One that dies just behind a heartbeat is so after this
# time, and whoever looks every 10 s sees it within a minute; a healthy one may take 20 s to put its record.
GONE_SECONDS = 50.0
# So long nothing is taken away from it, whatever is said.
_SILENCE, _OLD = timedelta(minutes=10), timedelta(days=7)

log = logging.getLogger(__name__)


class Run:
    """One driver at work; `facts` is what its record says beside its state, and may be changed at any time."""

    def __init__(self, store: Store) -> None:
        """Takes an id; nothing is written yet."""
        started = datetime.now(UTC)
        self.run_id = f"{started:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
        self.facts: dict[str, Any] = {}
        self._store = store
        self._started = started

    def beat(self, state: str) -> None:
        """Writes the record."""
        record = {
            "run_id": self.run_id,
            "state": state,
            "started": self._started.isoformat(),
            "heartbeat": datetime.now(UTC).isoformat(),
            **self.facts,
        }
        data = json.dumps(record, ensure_ascii=False).encode()
        self._store.put(f"{_FOLDER}/{self.run_id}.json", data)


@contextmanager
def announced(store: Store) -> Iterator[Run]:
    """Keeps a record of this run in a dataset up to date while the block runs; its last state says how it ended."""
    run = Run(store)
    run.beat("running")
    crash_point("run-announced")
    stop = threading.Event()

    def keep_beating() -> None:
        wait = _BEAT_SECONDS
        while not stop.wait(wait):
            began = time.monotonic()
            try:
                run.beat("running")
            except Exception as error:  # nothing relies on a heartbeat, so nothing may end them
                log.warning(
                    "the heartbeat was not written: %s", error if isinstance(error, StorageError) else type(error)
                )
            wait = max(0.0, _BEAT_SECONDS - (time.monotonic() - began))  # from beat to beat, however long one takes

    thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
    state = "failed"
    try:
        thread.start()
        yield run
        state = "ended"
    except KeyboardInterrupt:
        state = "interrupted"
        raise
    except Stopped:
        state = "stopped"
        raise
    except BaseException as error:
        run.facts["error"] = told(error)
        raise
    finally:
        stop.set()
        thread.join(_LAST_BEAT_SECONDS)
        crash_point("run-ending")
        try:
            run.beat(state)
        except StorageError as error:
            log.warning("the end of the run was not recorded: %s", error)


def live_runs(store: Store) -> list[Mapping[str, Any]]:
    """The records of runs that are under way."""
    return [record for _, record, silence in _records(store) if record["state"] == "running" and silence < _SILENCE]


def old_records(store: Store) -> list[ObjectInfo]:
    """Those of which nothing was heard for a week: of drivers that end and begin again all the time there are many."""
    return [info for info, _, silence in _records(store) if silence > _OLD]


def read_records(store: Store, known: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Mapping[str, Any]]:
    """The records of all runs by path, the oldest run's first.

    Args:
        store: the dataset's root.
        known: what was read before; those of runs that ended are not read again.
    """
    read = {info.path: _read(store, info.path, known or {}) for info in store.list(_FOLDER)}
    found = {path: record for path, record in read.items() if record is not None}
    return dict(sorted(found.items(), key=lambda item: str(item[1].get("started"))))


def silence_seconds(record: Mapping[str, Any], now: datetime) -> float:
    """For how long nothing was heard of a run, by the clocks of its driver and of this machine."""
    return (now - datetime.fromisoformat(record["heartbeat"])).total_seconds()


def _records(store: Store) -> Iterator[tuple[ObjectInfo, Mapping[str, Any], timedelta]]:
    """Each record, and how long ago its run was heard of."""
    for info in store.list(_FOLDER):
        if (record := _read(store, info.path, {})) is not None:
            yield info, record, timedelta(seconds=silence_seconds(record, datetime.now(UTC)))


def _read(store: Store, path: str, known: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """One record; None where it is none of ours."""
    if path in known and known[path]["state"] != "running":
        return known[path]
    try:
        record: Mapping[str, Any] = json.loads(store.read_if_there(path) or b"null")
        record["state"]
        silence_seconds(record, datetime.now(UTC))
    except (ValueError, KeyError, TypeError):
        log.warning("%s/%s is not a record of a run", store.root, path)
        return None
    return record
