"""SIGTERM, which a machine that is about to vanish sends: a worker finishes its part, and stops."""

import signal
import threading

from pipeline.errors import Stopped

__all__ = ["check_stop", "stop_on_sigterm"]

_asked = threading.Event()


def stop_on_sigterm() -> None:
    """From here on SIGTERM ends this process where `check_stop` is called. To be called in the main thread."""
    signal.signal(signal.SIGTERM, lambda *_: _asked.set())


def check_stop() -> None:
    """Raises Stopped where SIGTERM came."""
    if _asked.is_set():
        raise Stopped("told to stop (SIGTERM)")
