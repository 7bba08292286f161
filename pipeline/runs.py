"""Heartbeats: what each driver is doing, in `_runs/<run_id>.json`.

For people and for `gc`, which must not remove what a run is about to commit. No row relies on them.
"""

import json
import logging
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from pipeline.crash_points import crash_point
from pipeline.errors import ConfigError, StorageError
from pipeline.storage import Store

__all__ = ["Run", "announced", "live_runs"]

_FOLDER = "_runs"
_BEAT_SECONDS = 30.0
# A driver that was not heard of for so long is dead.
_SILENCE = timedelta(minutes=10)

log = logging.getLogger(__name__)


class Run:
    """One driver at work; `facts` is what its record says beside its state, and may be changed at any time."""

    def __init__(self, store: Store, kind: str) -> None:
        """Takes an id; nothing is written yet."""
        started = datetime.now(UTC)
        self.run_id = f"{started:%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
        self.facts: dict[str, Any] = {}
        self._store = store
        self._kind = kind
        self._started = started

    def beat(self, state: str) -> None:
        """Writes the record."""
        record = {
            "run_id": self.run_id,
            "kind": self._kind,
            "state": state,
            "started": self._started.isoformat(),
            "heartbeat": datetime.now(UTC).isoformat(),
            **self.facts,
        }
        data = json.dumps(record, indent=1, ensure_ascii=False).encode()
        self._store.put(f"{_FOLDER}/{self.run_id}.json", data)


@contextmanager
def announced(store: Store, kind: str) -> Iterator[Run]:
    """Keeps a record of this run up to date while the block runs.

    Removal and writing exclude each other: each announces itself first and looks for the other then, so that of two
    that start together at least one sees the other.

    Args:
        store: the dataset's root.
        kind: `tokenize`, or `gc`.

    Raises:
        ConfigError: a run of the other kind is alive.
    """
    run = Run(store, kind)
    run.beat("running")
    crash_point("run-announced")
    stop = threading.Event()

    def keep_beating() -> None:
        while not stop.wait(_BEAT_SECONDS):
            try:
                run.beat("running")
            except StorageError as error:
                log.warning("the heartbeat was not written: %s", error)

    thread = threading.Thread(target=keep_beating, name="heartbeat", daemon=True)
    state = "failed"
    try:
        for other in live_runs(store):
            if other["kind"] != kind:
                raise ConfigError(
                    f"output: {store.root}: a run of {other['kind']} is alive ({other['run_id']}, heard of at "
                    f"{other['heartbeat']}); wait for its end, or for ten minutes if it died"
                )
        thread.start()
        yield run
        state = "ended"
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()
        crash_point("run-ending")
        try:
            run.beat(state)
        except StorageError as error:
            log.warning("the end of the run was not recorded: %s", error)


def live_runs(store: Store) -> list[Mapping[str, Any]]:
    """The records of runs that are under way."""
    now, live = datetime.now(UTC), []
    for info in store.list(_FOLDER):
        try:
            record = json.loads(store.read_if_there(info.path) or b"null")
            heard = datetime.fromisoformat(record["heartbeat"])
            if record["state"] == "running" and now - heard < _SILENCE:
                live.append(record)
        except (ValueError, KeyError, TypeError):
            log.warning("%s/%s is not a record of a run", store.root, info.path)
    return live
