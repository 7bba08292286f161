"""Trying a request again, for a bounded time."""

import logging
import threading
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

from pipeline.storage.faults import describe, is_transient

__all__ = ["retries", "retrying"]

# The first tries are over in a second or two, and a busy store needs them often; only then does a person hear of it.
_SILENT_TRIES = 3
_FIRST_WAIT_SECONDS = 0.2
_LONGEST_WAIT_SECONDS = 15.0

log = logging.getLogger(__name__)

T = TypeVar("T")

_retries: Counter[str] = Counter()
_lock = threading.Lock()


def retries() -> Counter[str]:
    """Requests of this process that were sent again so far, by their action."""
    with _lock:
        return Counter(_retries)


def retrying(call: Callable[[], T], *, action: str, where: str, seconds: float) -> T:
    """Calls until it succeeds, fails for good, or `seconds` are over; waits grow twofold, each drawn at random below.

    Args:
        call: one request, safe to send twice.
        action: what it does, for messages: `read`, `write`, `list` ...
        where: of which object.
        seconds: after these no new try begins.

    Raises:
        Exception: the last one of `call`.
    """

    def tell(state: RetryCallState) -> None:
        with _lock:
            _retries[action] += 1
        error = state.outcome.exception() if state.outcome else None
        if error is not None and state.attempt_number >= _SILENT_TRIES:
            log.warning("%s; trying again for up to %.0f s", describe(error, action, where), seconds)

    retry = Retrying(
        retry=retry_if_exception(is_transient),
        wait=wait_random_exponential(multiplier=_FIRST_WAIT_SECONDS, max=_LONGEST_WAIT_SECONDS),
        stop=stop_after_delay(seconds),
        before_sleep=tell,
        reraise=True,
    )
    return retry(call)
