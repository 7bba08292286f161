"""Jobs on a real Slurm of two nodes, by the scripts that we hand out."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gate import Gate, job_command, until
from tests.integration.places import assert_whole, new_place, pack_small_shards, small_job
from tests.servers.slurm import Slurm, missing_programs
from tests.support import ROOT, require

SCRIPTS = ROOT / "infra" / "slurm"
NUM_SHARDS = 4
# Each takes all that Ray has of a node.
TWO_WORKERS = {"kind": "ray", "num_workers": 2, "cpus_per_worker": 1}
_ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    require("slurm", os.geteuid() == 0 and not missing_programs(), f"not root, or without {missing_programs()}")
    slurm = Slurm(tmp_path_factory.mktemp("slurm"))
    yield slurm
    slurm.stop()


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small_shards(tmp_path_factory.mktemp("shards"), NUM_SHARDS)


class Submitted:
    """A job in the queue, or its array."""

    def __init__(self, slurm: Slurm, gate: Gate, folder: Path, script: str, config: Any, *options: str) -> None:
        self._slurm, self.log = slurm, folder / "job.log"
        *_, job_file = job_command(config, folder)
        # What the script's first lines ask for, and these nodes do not have.
        mine = ("--cpus-per-task=1", "--time=10", f"--output={self.log}", f"--chdir={folder}", *options)
        environment = {**gate.environment, "VIDTOK_VENV": sys.prefix, "GATE_FOR_ALL": "", **slurm.for_ray}
        printed = slurm.run("sbatch", "--parsable", *mine, SCRIPTS / script, job_file, **environment)
        self.number = printed.strip()

    def states(self) -> list[str]:
        """Of each of its tasks."""
        return self._slurm.run("squeue", "-r", "-h", "--states=all", "--format=%T", f"--jobs={self.number}").split()

    def is_queued(self) -> bool:
        """All of it, and nothing of it runs."""
        return set(self.states()) == {"PENDING"}

    def goes_on(self) -> str:
        """What it printed, after it was queued again and ended well.

        Slurm would let it wait for two minutes, as it takes no start in the same second as the last end.
        """
        until(self.is_queued, "its place in the queue")
        self._slurm.run("scontrol", "update", f"JobId={self.number}", "StartTime=now+2")
        until(lambda: set(self.states()) <= _ENDED, "the end of the job", seconds=240)
        log = self.log.read_text()
        assert set(self.states()) == {"COMPLETED"}, log[-3000:]
        return log


def test_ray_over_two_nodes(slurm, gate, shards, unbroken, tmp_path):
    """Preempted by another job, it is queued again and goes on."""
    config = small_job(shards, new_place(None, tmp_path), executor=TWO_WORKERS)
    job = Submitted(slurm, gate, tmp_path, "ray_job.sbatch", config, "--nodes=2", "--gpus-per-node=0")
    waiting = until(lambda: len(gate.waiting()) == 2 and gate.waiting(), "two workers within a shard")
    assert len({note["node"] for note in waiting}) == 2
    slurm.run("sbatch", "--partition=high", "--nodes=2", "--exclusive", f"--output={tmp_path}/other.log", "--wrap=true")
    until(job.is_queued, "its place in the queue")
    gate.open()
    log = job.goes_on()
    assert f"Committed {NUM_SHARDS} of {NUM_SHARDS} shards" in log
    assert_whole(config, unbroken)


def test_an_array_without_ray(slurm, gate, shards, unbroken, tmp_path):
    """Its tasks are stopped, as before the end of their time, and go on."""
    config = small_job(shards, new_place(None, tmp_path))
    job = Submitted(slurm, gate, tmp_path, "array.sbatch", config, "--array=0-2", "--gpus-per-task=0")
    until(lambda: len(gate.waiting()) == 3, "three tasks within a shard")
    slurm.run("scancel", "--batch", "--signal=TERM", job.number)
    until(lambda: len(gate.notes(state="asked")) == 3, "SIGTERM for each of them")
    gate.open()
    log = job.goes_on()
    assert log.count("Stopped, as SIGTERM asks") == 3
    assert sorted(re.findall(r"Committed (\d) of (\d) shards", log)) == [("1", "1"), ("1", "1"), ("2", "2")]
    assert_whole(config, unbroken)
