"""SIGTERM, which a machine that is about to vanish sends: a worker finishes its part, and stops."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import Stopped

__all__ = ["check_stop", "keep_stop_on_sigterm", "stop_on_sigterm"]

_asked = threading.Event()


def _ask(*_: object) -> None:
    _asked.set()


def stop_on_sigterm() -> None:
    """From here on SIGTERM ends this process where `check_stop` is called. To be called in the main thread."""
    signal.signal(signal.SIGTERM, _ask)


@contextmanager
def keep_stop_on_sigterm() -> Iterator[None]:
    """Puts things back as they were after a block in which a library sets a handler of its own, as Ray does."""
    is_ours = signal.getsignal(signal.SIGTERM) is _ask
    try:
        yield
    finally:
        if is_ours:
            stop_on_sigterm()


def check_stop() -> None:
    """Raises Stopped where SIGTERM came."""
    if _asked.is_set():
        raise Stopped("told to stop (SIGTERM)")
