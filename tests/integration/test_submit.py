"""Jobs that are submitted to a Ray cluster, whose driver runs there."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.gate import Gate, job_command, until
from tests.integration.places import assert_whole, new_place, pack_small_shards, small_job
from tests.servers.process import end, free_port, start, wait_for_port

NUM_SHARDS = 4
# Else Ray kills the driver after three seconds, which may be before it said anything.
PATIENT = '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "600"}}'


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pack_small_shards(tmp_path_factory.mktemp("shards"), NUM_SHARDS)


class Head:
    """A head as `ray start` makes it, and `ray job` against it."""

    def __init__(self, folder: str, log: Path, gate: Gate) -> None:
        port, dashboard = free_port(), free_port()
        programs = f"{sys.prefix}/bin:{os.environ['PATH']}"
        self._environment = {**gate.environment, "PATH": programs, "RAY_TMPDIR": folder}
        ports = [f"--port={port}", f"--dashboard-port={dashboard}", "--min-worker-port=0", "--max-worker-port=0"]
        command = ["ray", "start", "--head", "--block", "--num-cpus=2", *ports, "--dashboard-agent-listen-port=0"]
        self._process = start([shutil.which("ray", path=programs), *command[1:]], log, self._environment)
        self._address = f"--address=http://127.0.0.1:{dashboard}"
        wait_for_port(dashboard, self._process, log)

    def job(self, verb: str, *arguments: str, check: bool = True) -> str:
        command = ["ray", "job", verb, self._address, *arguments]
        variables = {**os.environ, **self._environment}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout

    def stop(self) -> None:
        end(self._process, how=signal.SIGTERM)  # which takes its daemons along


@pytest.fixture
def head(gate: Gate, tmp_path: Path) -> Iterator[Head]:
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short, since sockets are below it
    head = Head(folder, tmp_path / "head.log", gate)
    yield head
    head.stop()
    shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_job_is_stopped_and_goes_on(
    head: Head, gate: Gate, shards: Path, unbroken: Any, tmp_path: Path
) -> None:
    executor = {"kind": "ray", "num_workers": 2}
    config = small_job(shards, new_place(None, tmp_path), executor=executor)
    folder = tmp_path / "job"
    folder.mkdir()
    job_command(config, folder)
    submit = ["submit", "--working-dir", str(folder), "--runtime-env-json", PATIENT]
    run = ["--", "vidtok", "tokenize", "--no-report", "job.yaml"]
    head.job(*submit, "--no-wait", "--submission-id=first", *run)
    until(lambda: len(gate.waiting()) == 2, "two workers within a shard")
    head.job("stop", "--no-wait", "first")
    gate.open()
    until(lambda: "STOPPED" in head.job("status", "first").upper(), "the end of the job")
    log = head.job("logs", "first")
    assert "Stopped, as SIGTERM asks" in log, log[-3000:]
    said = head.job(*submit, "--submission-id=second", *run)
    assert f"Committed {NUM_SHARDS} of {NUM_SHARDS} shards" in said
    assert_whole(config, unbroken)
