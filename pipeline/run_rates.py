"""How fast work goes, from what the records of runs say of their counts over time."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.run_facts import HISTORY

__all__ = ["Rate", "Throughput", "rates_of", "throughput_of"]

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


def _history(record: Mapping[str, Any]) -> Floats:
    """The points of a run's history, one a row, with the columns that HISTORY names; none where it has no such one."""
    history = record.get("history", {})
    if list(history.get("names", ())) != list(HISTORY) or not history["points"]:
        return np.zeros((0, len(HISTORY)))
    return np.array(history["points"], np.float64)


def rates_of(records: Iterable[Mapping[str, Any]]) -> list[Rate]:
    """The rates over the last hour, six hours and day; a longer window only where there was work before the shorter."""
    histories = [history for record in records if len(history := _history(record)) > 1]
    if not histories:
        return []
    end = max(history[-1, 0] for history in histories)
    found: list[Rate] = []
    for hours in _WINDOWS_HOURS:
        begin = end - 3600 * hours
        spans = _joined((max(begin, history[0, 0]), history[-1, 0]) for history in histories)
        seconds = round(sum(last - first for first, last in spans), 1)
        if seconds <= (found[-1].seconds if found else 0):
            continue
        done = sum((_done(history, begin) for history in histories), np.zeros(len(HISTORY) - 1))
        rates = dict(zip(HISTORY[1:], (done / seconds).tolist(), strict=True))
        found.append(Rate(hours=hours, seconds=seconds, **rates))
    return found


def _done(history: Floats, begin: float) -> Floats:
    """What was done since a time."""
    times, counts = history[:, 0], history[:, 1:]
    before = np.array([np.interp(begin, times, column) for column in counts.T])
    return np.asarray(counts[-1] - before, np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Throughput:
    """Work over time, of all runs together; time in which nobody was at work is left out.

    Attributes:
        seconds_E: the edges of N = E - 1 stretches of time, from the first run's beginning.
        done: what was done in each stretch, by the names of HISTORY.
        pauses: seconds at which time was left out.
    """

    seconds_E: Floats
    done: dict[str, Floats]
    pauses: list[float]


def throughput_of(records: Iterable[Mapping[str, Any]], most: int = 120) -> Throughput | None:
    """Work over time, in at most so many stretches, and no more than there are points; None where nothing is known."""
    histories = [history for record in records if len(history := _history(record)) > 1]
    spans = _joined([(history[0, 0], history[-1, 0]) for history in histories])
    lengths = np.array([end - begin for begin, end in spans])
    if not lengths.sum():
        return None
    points = sum(len(history) - 1 for history in histories)
    seconds_E = np.linspace(0, lengths.sum(), min(most, points) + 1)
    # From seconds of work to times: two for each span, at its edges.
    worked = np.repeat(np.concatenate([[0.0], np.cumsum(lengths)]), 2)[1:-1]
    times_E = np.interp(seconds_E, worked, np.array(spans).ravel())
    done = {
        name: sum(
            (np.diff(np.interp(times_E, history[:, 0], history[:, column])) for history in histories),
            np.zeros(len(seconds_E) - 1),
        )
        for column, name in enumerate(HISTORY[1:], 1)
    }
    return Throughput(seconds_E=seconds_E, done=done, pauses=np.cumsum(lengths)[:-1].tolist())


def _joined(spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The spans in which any of some is; those that end before they begin are none."""
    joined: list[tuple[float, float]] = []
    for begin, end in sorted(span for span in spans if span[0] < span[1]):
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], end))
        else:
            joined.append((begin, end))
    return joined
