"""Rates and throughput of runs that work together, one after the other, and with pauses between."""

import numpy as np
import pytest

from pipeline.run_facts import HISTORY
from pipeline.run_rates import rates_of, throughput_of

START = 1_700_000_000.0


def record(begin: float, end: float, clips_per_second: float, every: float = 60.0) -> dict:
    """A run that begins and ends at these seconds, and encodes evenly."""
    times = np.arange(begin, end + 1, every)
    points = [
        [START + time, 0, 0, 0, clips_per_second * (time - begin), 0, 0, 100 * (time - begin)]
        for time in times.tolist()
    ]
    return {"history": {"names": list(HISTORY), "points": points}}


def test_one_run() -> None:
    (rate,) = rates_of([record(0, 600, 2.5)])
    assert (rate.hours, rate.seconds, rate.clips, rate.bytes_read) == (1, 600, 2.5, 100)


def test_tenths_of_seconds_make_no_longer_window() -> None:
    (rate,) = rates_of([record(0, 20.12, 2.5, every=5.03)])
    assert rate.hours == 1


def test_two_drivers_at_once_do_both_their_work() -> None:
    (rate,) = rates_of([record(0, 600, 2), record(300, 600, 4)])
    assert rate.seconds == 600 and rate.clips == pytest.approx((1200 + 1200) / 600)


def test_a_longer_window_counts_what_lies_in_it_without_pauses() -> None:
    """Ten hours ago a run of an hour, and since then one of two hours that is faster."""
    hour, six, day = rates_of([record(0, 3600, 1), record(10 * 3600, 12 * 3600, 3)])
    assert (hour.seconds, hour.clips) == (3600, pytest.approx(3))
    assert (six.seconds, six.clips) == (7200, pytest.approx(3))
    assert (day.seconds, day.clips) == (3 * 3600, pytest.approx((3600 + 3 * 7200) / (3 * 3600)))


@pytest.mark.parametrize("said", [{}, {"history": {"names": ["time"], "points": [[1]]}}, record(0, 0, 1)])
def test_what_says_nothing_counts_for_nothing(said: dict) -> None:
    assert rates_of([said]) == [] and throughput_of([said]) is None
    assert rates_of([said, record(0, 600, 2)])[0].clips == 2


def test_throughput_leaves_pauses_out() -> None:
    work = throughput_of([record(0, 600, 1), record(100_000, 100_300, 4)])
    assert work.pauses == [600] and work.seconds_E[-1] == 900
    rates = work.done["clips"] / np.diff(work.seconds_E)
    middles = (work.seconds_E[1:] + work.seconds_E[:-1]) / 2
    assert rates[middles < 500] == pytest.approx(1) and rates[middles > 700] == pytest.approx(4)
    assert work.done["clips"].sum() == pytest.approx(600 + 1200)


def test_throughput_of_drivers_at_once_is_added_up() -> None:
    work = throughput_of([record(0, 600, 1), record(0, 600, 2)], most=10)
    assert len(work.done["clips"]) == 10 and work.done["clips"] / 60 == pytest.approx(3)
