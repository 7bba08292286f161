"""Workers of a job in other processes, which note each part that they build and wait at a gate before they put it.

With GATE_FOR_ALL in their environment, jobs without Ray do too.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support import ROOT

__all__ = ["Gate", "job_command", "until"]

# Loaded by each Python as it starts, and no part of the package. A shard's first part passes: it is what a worker that
# dies leaves behind.
_HOOK = """
import os, sys

is_worker = any(word.endswith("default_worker.py") for word in sys.orig_argv)
if is_worker or ("GATE_FOR_ALL" in os.environ and "tokenize" in sys.orig_argv):
    import fnmatch, json, pathlib, time
    from pipeline import stopping
    from pipeline.shard_log import ShardLog

    folder = pathlib.Path(__file__).parent
    real = ShardLog.append

    def append(log, part):
        number = len(log.parts)
        node = str(os.getpid())
        if is_worker:
            import ray
            node = ray.get_runtime_context().get_node_id()
        about = {"node": node, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES")}
        about |= {"shard": log._shard.path, "part": number}

        def note(state):
            with (folder / "notes").open("a") as file:  # one write each, at the end: no two mingle
                file.write(json.dumps({**about, "state": state}) + "\\n")

        def may_pass():
            opened = (folder / "opened").read_text().split()
            return any(fnmatch.fnmatch(f"{about['node']}/{about['shard']}/{number}", pattern) for pattern in opened)

        note("built")
        is_asked = False
        while number and not may_pass():
            if stopping._is_asked and not is_asked:
                is_asked = True
                note("asked")
            time.sleep(0.05)
        is_first = real(log, part)
        note("put" if is_first else "adopted")
        return is_first

    ShardLog.append = append
"""


class Gate:
    """Where workers wait that were are started with its environment."""

    def __init__(self, folder: Path) -> None:
        """Keeps its files in a new folder."""
        folder.mkdir()
        for name, text in (("sitecustomize.py", _HOOK), ("notes", ""), ("opened", "")):
            (folder / name).write_text(text)
        self._folder = folder
        self.environment = {"PYTHONPATH": f"{folder}:{ROOT}"}

    def open(self, *, node: str = "*", shard: str = "*", part: str = "*") -> None:
        """Lets parts pass whose node, shard and number match these patterns."""
        with (self._folder / "opened").open("a") as file:
            file.write(f"{node}/{shard}/{part}\n")

    def notes(self, **wanted: Any) -> list[dict[str, Any]]:
        """What was noted so far with these values: node, gpus, shard, part, state.

        A part is built, and then put or adopted; between, who waits with it at the gate may be asked to stop.
        """
        notes = [json.loads(line) for line in (self._folder / "notes").read_text().splitlines()]
        return [note for note in notes if wanted.items() <= note.items()]

    def waiting(self) -> list[dict[str, Any]]:
        """Who came to the gate, in this order, while it was opened to nobody: each with a shard's second part."""
        return self.notes(part=1, state="built")


def job_command(config: Any, folder: Path) -> list[str]:
    """Writes a job's file into a folder, and returns the command that runs it."""
    (folder / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    return [sys.executable, "-m", "jobs.cli", "tokenize", "--no-report", str(folder / "job.yaml")]


def until(condition: Callable[[], Any], what: str, *, seconds: float = 120) -> Any:
    """Waits for a condition, and returns what it gave; `what` says in an error what was waited for."""
    ends = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < ends, f"not in {seconds} s: {what}"
        time.sleep(0.05)
    return value
