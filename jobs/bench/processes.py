"""CPU seconds of this process and all that descend from it."""

import contextlib
import os
from collections import Counter, defaultdict
from functools import cache
from importlib.util import find_spec
from pathlib import Path

__all__ = ["DAEMONS", "OURS", "WORKERS", "cpu_seconds"]

OURS, WORKERS, DAEMONS = "this process", "workers", "Ray's daemons"
# How a process of Ray's calls itself while it is an actor of a job.
_ACTOR = "ray::ShardActor"


def cpu_seconds() -> Counter[str]:
    """CPU seconds so far, those that ended and were waited for too.

    Returns:
        By kind: OURS is this process with what it started itself, WORKERS are a job's actors with their decoders, and
        DAEMONS is all else that Ray runs.
    """
    ticks: dict[int, int] = {}
    commands: dict[int, list[str]] = {}
    children = defaultdict(list)
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            fields = (process / "stat").read_text().rpartition(")")[2].split()
            commands[int(process.name)] = (process / "cmdline").read_text(errors="replace").split("\0")
            ticks[int(process.name)] = sum(map(int, fields[11:15]))
            children[int(fields[1])].append(int(process.name))
    counted: Counter[str] = Counter({OURS: 0, WORKERS: 0, DAEMONS: 0})
    left = [(os.getpid(), OURS)]
    while left:
        process_id, kind = left.pop()
        kind = _kind(commands.get(process_id, [""]), kind)
        counted[kind] += ticks.get(process_id, 0)
        left += [(child, kind) for child in children[process_id]]
    return Counter({kind: number / os.sysconf("SC_CLK_TCK") for kind, number in counted.items()})


@cache
def _programs() -> tuple[str, ...]:
    found = find_spec("ray")  # without importing it
    return tuple(f"{folder}/" for folder in (found and found.submodule_search_locations) or ())


def _kind(command: list[str], parent: str) -> str:
    if command[0].startswith(_ACTOR):
        return WORKERS
    # Programs of the package's own; what a decoder is told to import from names it too, but does not begin with it.
    is_rays = command[0].startswith("ray") or any(word.startswith(_programs()) for word in command)
    return DAEMONS if parent == OURS and is_rays else parent
