"""SIGTERM, which a machine that is about to vanish sends: a worker finishes its part, and stops."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import Stopped

__all__ = ["check_stop", "keep_stop_on_sigterm", "stop_on_sigterm"]

# Not an Event: a second signal while one is handled would wait forever for its lock, which is not ours to enter twice.
_is_asked = False


def _ask(*_: object) -> None:
    global _is_asked
    _is_asked = True


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
    if _is_asked:
        raise Stopped("told to stop (SIGTERM)")
