"""How fast work goes, from what the records of runs say of their counts over time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.run_facts import HISTORY

__all__ = ["Rate", "history_of", "rates_of"]

Floats = npt.NDArray[np.float64]

_WINDOWS_HOURS = (1, 6, 24)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """What all runs together did per second, over the time for which any of them was at work.

    Attributes:
        hours: the window, back from the last sign of any run.
        seconds: of it, for which a run was at work.
        shards_done: and the following: per second of these.
    """

    hours: float
    seconds: float
    shards_done: float
    videos: float
    rejects: float
    clips: float
    frames: float
    tokens: float
    bytes_read: float


def history_of(record: Mapping[str, Any]) -> Floats:
    """The points of a run's history, one a row, with the columns that HISTORY names; none where it has no such one."""
    history = record.get("history", {})
    if list(history.get("names", ())) != list(HISTORY) or not history["points"]:
        return np.zeros((0, len(HISTORY)))
    return np.array(history["points"], np.float64)


def rates_of(records: Iterable[Mapping[str, Any]]) -> list[Rate]:
    """The rates over the last hour, six hours and day; a longer window only where there was work before the shorter."""
    histories = [history for record in records if len(history := history_of(record)) > 1]
    if not histories:
        return []
    end = max(history[-1, 0] for history in histories)
    found: list[Rate] = []
    for hours in _WINDOWS_HOURS:
        begin = end - 3600 * hours
        seconds = _union([(max(begin, history[0, 0]), history[-1, 0]) for history in histories])
        if seconds <= (found[-1].seconds if found else 0):
            continue
        done = sum((_done(history, begin) for history in histories), np.zeros(len(HISTORY) - 1))
        rates = dict(zip(HISTORY[1:], (done / seconds).tolist(), strict=True))
        found.append(Rate(hours=hours, seconds=round(seconds, 1), **rates))
    return found


def _done(history: Floats, begin: float) -> Floats:
    """What was done since a time."""
    times, counts = history[:, 0], history[:, 1:]
    before = np.array([np.interp(begin, times, column) for column in counts.T])
    return np.asarray(counts[-1] - before, np.float64)


def _union(spans: Iterable[tuple[float, float]]) -> float:
    """How long any of some spans lasts; those that end before they begin count for nothing."""
    total, reached = 0.0, -np.inf
    for begin, end in sorted(spans):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return float(total)
