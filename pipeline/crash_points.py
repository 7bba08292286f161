"""Places at which a test lets a process die, to show that what it leaves is safe.

`VIDTOK_CRASH_AT=part-put` kills the process, without a chance to clean up, when it first comes to that point;
`VIDTOK_CRASH_AT=part-put@3` the third time, and with `VIDTOK_CRASH_SIGNAL=SIGSTOP` it is stopped there instead, to come
back as a zombie. ARCHITECTURE.md says for each what is left, and what the next run does.
"""

import os
import signal

__all__ = ["CRASH_POINTS", "crash_point"]

CRASH_POINTS = (
    "run-announced",
    "dataset-described",
    "inputs-frozen",
    "part-built",
    "part-put",
    "parts-complete",
    "rejects-put",
    "commit-put",
    "snapshot-built",
    "snapshot-put",
    "run-ending",
    "local-file-written",
    "local-file-linked",
)
_VARIABLE = "VIDTOK_CRASH_AT"
_times_seen = 0


def crash_point(name: str) -> None:
    """Dies here if the environment says so."""
    wanted = os.environ.get(_VARIABLE)
    if wanted is None:
        return
    point, _, number = wanted.partition("@")
    if point not in CRASH_POINTS or name not in CRASH_POINTS:
        raise ValueError(f"{_VARIABLE}: {point} or {name} is no crash point; there are {', '.join(CRASH_POINTS)}")
    if name == point:
        global _times_seen
        _times_seen += 1
        if _times_seen == int(number or 1):
            os.kill(os.getpid(), signal.Signals[os.environ.get("VIDTOK_CRASH_SIGNAL", "SIGKILL")])
