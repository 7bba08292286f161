"""Stages beside each other: what comes out, what may stand between them, and how errors and ends travel."""

import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from pipeline.ahead import Ahead, Clock, check_left

STAGES = ("give", "take")


def ahead(items: Iterator[int], max_bytes: int = 100, clock: Clock | None = None, **more: Any) -> Ahead[int]:
    """Each item is as many bytes as it says."""
    return Ahead(items, size_of=lambda item: item, max_bytes=max_bytes, clock=clock or Clock(), stages=STAGES, **more)


def test_all_comes_in_order() -> None:
    with ahead(iter(range(1000)), max_bytes=50) as items:
        assert list(items) == list(range(1000))
        assert next(items, None) is None


@pytest.mark.parametrize(("sizes", "most"), [([10] * 20, 3), ([1000] * 5, 1), ([20, 5, 5, 5, 5, 5], 3)])
def test_so_many_bytes_at_most_stand_between(sizes: list[int], most: int) -> None:
    begun: list[int] = []
    is_full = threading.Event()

    def given() -> Iterator[int]:
        for size in sizes:
            begun.append(size)
            # One more than may stand there is held by the giver, who waits with it.
            if len(begun) == most + 1:
                is_full.set()
            yield size

    with ahead(given(), max_bytes=30) as items:
        assert is_full.wait(10)
        assert len(begun) == most + 1
        assert list(items) == sizes


def test_it_says_what_stands_between() -> None:
    given = threading.Event()

    def two() -> Iterator[int]:
        yield from (20, 10)
        given.set()

    with ahead(two()) as items:
        assert items.name == "give-take" and given.wait(10)
        assert items.standing_bytes == 30
        next(items)
        assert items.standing_bytes == 10
    assert items.standing_bytes == 0, "nothing stands there that nobody will take"


def test_a_stage_runs_in_the_context_of_whoever_starts_it() -> None:
    """As log records need, to say what they are about."""
    variable = ContextVar("variable", default=0)
    variable.set(1)

    def given() -> Iterator[int]:
        yield variable.get()
        variable.set(2)

    with ahead(given()) as items:
        assert list(items) == [1]
    assert variable.get() == 1


def test_an_error_comes_behind_what_was_given() -> None:
    def given() -> Iterator[int]:
        yield 1
        raise LookupError("lost")

    with ahead(given()) as items:
        assert next(items) == 1
        with pytest.raises(LookupError, match="lost"):
            next(items)
        with pytest.raises(StopIteration):
            next(items)


def test_to_close_ends_the_generator_in_its_own_thread() -> None:
    ended: list[str] = []

    def given() -> Iterator[int]:
        try:
            while True:
                yield 60
        finally:
            ended.append(threading.current_thread().name)

    items = ahead(given())
    assert next(items) == 60
    items.close()
    assert ended == ["give"]


def test_a_stage_in_the_middle_is_left_when_it_waits_for_one_that_is_closed() -> None:
    """The last one closes first, as an exception in it does."""

    def endless() -> Iterator[int]:
        while True:
            yield 60

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the taker's"), ahead(endless()) as first, ahead(iter(first)) as second:
        next(second)
        raise RuntimeError("the taker's")
    assert threading.active_count() == before


def test_whoever_waits_for_a_stage_that_gives_nothing_is_let_go() -> None:
    """The first stage gives nothing until it is left, the second waits for it, and the third is closed."""

    def silent() -> Iterator[int]:
        while True:
            check_left()
            time.sleep(0.001)
        yield 0

    before = threading.active_count()
    with ahead(silent()) as first, ahead(iter(first), source=first):
        pass
    assert threading.active_count() == before


def test_nobody_is_left_outside_a_stage() -> None:
    check_left()


def test_a_clock_counts_the_time_in_which_a_stage_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.ahead.time.monotonic", lambda: now)
    clock = Clock()
    clock.work("give")
    clock.work("take")
    now = 2.0
    with clock.wait("take"):
        now = 5.0
        assert clock.take() == (5.0, {"give": 5.0, "take": 2.0})  # in the middle of a wait
        now = 6.0
    now = 8.0
    assert clock.take() == (3.0, {"give": 3.0, "take": 2.0})
    assert clock.take() == (0.0, {"give": 0.0, "take": 0.0})


def test_a_stage_that_has_ended_is_not_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("pipeline.ahead.time.monotonic", lambda: now)
    clock = Clock()
    for begun in (0.0, 10.0):  # and one of its name that begins anew is
        now = begun
        with ahead(iter([1]), clock=clock) as items:
            assert list(items) == [1]
            now = begun + 10.0
        assert clock.take() == (10.0, {"give": 0.0, "take": 10.0})
