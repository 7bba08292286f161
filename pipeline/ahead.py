"""Stages at work at the same time: each in a thread of its own, ahead of the next by so many bytes at most."""

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self, TypeVar

__all__ = ["AHEAD_BYTES", "Ahead", "Clock", "Left", "check_left"]

# Between two stages of a worker: encoded videos, frames, codes.
AHEAD_BYTES = 64 * 2**20


class Clock:
    """For how long each stage has been at work, rather than waiting for another. Used by several threads."""

    def __init__(self) -> None:
        self._waiting: dict[str, float | None] = {}  # since when
        self._waited: dict[str, float] = {}
        self._lock = threading.Lock()
        self._taken = time.monotonic()

    def work(self, stage: str) -> None:
        """From here on a stage is at work."""
        with self._lock:
            self._waited.setdefault(stage, 0.0)
            self._end_wait(stage, time.monotonic())
            self._waiting[stage] = None

    def rest(self, stage: str) -> None:
        """From here on it is not."""
        with self._lock:
            self._waiting[stage] = time.monotonic()

    @contextmanager
    def wait(self, stage: str) -> Iterator[None]:
        """A block in which a stage waits for another."""
        self.rest(stage)
        try:
            yield
        finally:
            self.work(stage)

    def _end_wait(self, stage: str, now: float) -> None:
        since = self._waiting.get(stage)
        if since is not None:
            self._waited[stage] += now - max(since, self._taken)

    def take(self) -> tuple[float, dict[str, float]]:
        """The seconds since this was last called, or since its beginning; and for how many each stage was at work."""
        with self._lock:
            now = time.monotonic()
            for stage in self._waiting:
                self._end_wait(stage, now)
            seconds, self._taken = now - self._taken, now
            busy = {stage: max(0.0, seconds - waited) for stage, waited in self._waited.items()}
            self._waited = dict.fromkeys(self._waited, 0.0)
            return seconds, busy


class Left(Exception):
    """Nobody wants what this thread would give any more."""


class _Thread(threading.Thread):
    def __init__(self, run: Callable[[], None], name: str, is_left: Callable[[], bool]) -> None:
        super().__init__(target=run, name=name, daemon=True)
        self.is_left = is_left


def check_left() -> None:
    """Raises Left in a stage that nobody takes from any more; for those that wait long between two items."""
    thread = threading.current_thread()
    if isinstance(thread, _Thread) and thread.is_left():
        raise Left


T = TypeVar("T")


class Ahead(Iterator[T]):
    """What an iterator gives, which runs in a thread. Close it, or use it as a context manager.

    An error of its comes out behind what it gave before. A generator is closed in the thread that it ran in.
    """

    def __init__(
        self,
        items: Iterator[T],
        *,
        size_of: Callable[[T], int],
        max_bytes: int,
        clock: Clock,
        stages: tuple[str, str],
        source: "Ahead[Any] | None" = None,
    ) -> None:
        """Starts it.

        Args:
            items: the stage.
            size_of: bytes of an item.
            max_bytes: that may stand between the stages; one item always may.
            clock: where waits are counted, of
            stages: the name of this stage, and that of the one that takes from it.
            source: what the iterator takes from; it is left when this is closed, so that nobody waits for it.
        """
        self._items, self._size_of, self._max_bytes, self._clock = items, size_of, max_bytes, clock
        self._giver, self._taker = stages
        self._source = source
        for stage in stages:
            clock.work(stage)
        self._ready: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._changed = threading.Condition()
        self._is_left = self._is_ended = False
        self._error: BaseException | None = None
        context = contextvars.copy_context()  # what log records are about
        self._thread = _Thread(lambda: context.run(self._run), self._giver, lambda: self._is_left)
        self._thread.start()

    def __next__(self) -> T:
        """Waits for the next item."""
        with self._changed:
            with self._clock.wait(self._taker):
                self._changed.wait_for(lambda: self._ready or self._is_ended or self._is_left)
            if self._is_left:
                raise Left
            if self._ready:
                item, size = self._ready.popleft()
                self._bytes -= size
                self._changed.notify_all()
                return item
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            raise StopIteration

    @property
    def name(self) -> str:
        """The stages that it stands between."""
        return f"{self._giver}-{self._taker}"

    @property
    def standing_bytes(self) -> int:
        """Bytes that stand between the stages now."""
        return self._bytes

    def is_ready(self) -> bool:
        """Whether the next item is there, or there is none."""
        return bool(self._ready) or self._is_ended

    def close(self) -> None:
        """Ends the iterator where it stands, and waits for that."""
        self._leave()
        self._thread.join()

    def _leave(self) -> None:
        with self._changed:
            self._is_left = True
            self._ready.clear()
            self._bytes = 0
            self._changed.notify_all()
        if self._source is not None:
            self._source._leave()

    def __enter__(self) -> Self:
        """Gives itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes."""
        self.close()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item, self._size_of(item)):
                    break
                del item  # it may be large, and be gone long before there is another
            if isinstance(self._items, Generator):
                self._items.close()
        except BaseException as error:  # whatever it is, it is for the thread that takes
            self._error = error
        self._clock.rest(self._giver)
        with self._changed:
            self._is_ended = True
            self._changed.notify_all()

    def _put(self, item: T, size: int) -> bool:
        with self._changed:
            with self._clock.wait(self._giver):
                self._changed.wait_for(
                    lambda: self._is_left or not self._ready or self._bytes + size <= self._max_bytes
                )
            if not self._is_left:
                self._ready.append((item, size))
                self._bytes += size
                self._changed.notify_all()
            return not self._is_left
