"""All processes that come of this one, however they were started, by what /proc says of them."""

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Process", "adopt_orphans", "below", "end_all", "memory_files", "send_kill", "still_there"]

_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """One process; its number may be another's later, its number and start time may not."""

    pid: int
    started: int
    parent: int
    command: str


def adopt_orphans() -> None:
    """Makes this process the parent of whatever comes of it and loses its own, so that nothing gets away."""
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError("prctl: this system has no subreapers")


def _look(pid: int) -> Process | None:
    """A process that runs; None where it ended, also where nobody has asked yet how."""
    try:
        state, parent, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return None if state in "ZX" else Process(pid, int(fields[17]), int(parent), command)


def below(root: int) -> list[Process]:
    """The children of a process, theirs, and so on."""
    children: dict[int, list[Process]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (process := _look(int(folder.name))) is not None:
            children.setdefault(process.parent, []).append(process)
    found, parents = [], [root]
    while parents:
        ours = children.get(parents.pop(), [])
        found += ours
        parents += [process.pid for process in ours]
    return sorted(found, key=lambda process: process.pid)


def still_there(process: Process) -> bool:
    """Whether it runs."""
    seen = _look(process.pid)
    return seen is not None and seen.started == process.started


def send_kill(process: Process) -> bool:
    """Sends SIGKILL to this process and no other; False where it ended before."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(process.pid)
        try:
            if still_there(process):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        finally:
            os.close(descriptor)
    return False


def memory_files(process: Process, sizes: Iterable[int]) -> set[int]:
    """The inodes of the nameless files of one of these sizes that a process has open."""
    found = set()
    with contextlib.suppress(OSError):  # it ended
        for link in Path(f"/proc/{process.pid}/fd").iterdir():
            with contextlib.suppress(OSError):  # it was closed just now
                if os.readlink(link).startswith("/memfd:") and (status := link.stat()).st_size in sizes:
                    found.add(status.st_ino)
    return found


def end_all(root: int, within_seconds: float = 30) -> None:
    """Ends everything below a process, and what that starts meanwhile."""
    ends = time.monotonic() + within_seconds
    while left := below(root):
        if time.monotonic() > ends:
            raise TimeoutError(f"these do not end: {left}")
        for process in left:
            send_kill(process)
        time.sleep(0.05)
