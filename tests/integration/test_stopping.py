"""SIGTERM, as of a machine that is about to vanish: a part is finished, nothing is lost, and no attempt is spent."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.job import run_job
from tests.integration.places import assert_whole
from tests.integration.test_ray import kill_one_worker
from tests.jobs_for_tests import job
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import ROOT

NUM_VIDEOS = 6


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    data = make_video(gradient_frames(68))
    for number in range(2):
        pack_tar(folder / f"{number}.tar", [(f"v{video}.mp4", data) for video in range(NUM_VIDEOS)])
    return folder


@pytest.fixture(scope="module")
def unbroken(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    config = stopping_job(shards, tmp_path_factory.mktemp("unbroken"))
    assert not run_job(config).failures
    return config


def stopping_job(shards: Path, output: Path, **executor: Any) -> Any:
    """With a part for each video."""
    clips = {"fps": None, "size": 64}
    return job(shards, output, clips=clips, executor={"cpus_per_worker": 0.5, "max_attempts": 1, **executor})


# SIGTERM, and again at each line of what handles it.
ASK_AT_EACH_LINE = """
import signal, sys
from pipeline.stopping import check_stop, stop_on_sigterm

asked_at = set()

def ask(frame, event, arg):
    if (place := (frame.f_code, frame.f_lineno)) not in asked_at:
        asked_at.add(place)
        signal.raise_signal(signal.SIGTERM)
    return ask

stop_on_sigterm()
sys.settrace(ask)
signal.raise_signal(signal.SIGTERM)
sys.settrace(None)
assert asked_at
check_stop()
"""


def test_a_process_that_is_told_to_stop_again_and_again() -> None:
    """As Slurm may; it neither waits for itself nor forgets."""
    command = [sys.executable, "-c", ASK_AT_EACH_LINE]
    done = subprocess.run(command, cwd=ROOT, timeout=30, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "pipeline.errors.Stopped: told to stop (SIGTERM)"


def has_begun(output: Path) -> Callable[[], bool]:
    return lambda: any((output / "data").glob("*-p001.parquet"))


def attempts(output: Path) -> list[int]:
    """How many attempts each shard's parts come from."""
    of_shard: dict[str, set[str]] = {}
    for path in (output / "data").iterdir():
        footer = json.loads(pq.read_metadata(path).metadata[b"vidtok"])
        of_shard.setdefault(footer["shard_id"], set()).add(footer["attempt_id"])
    return sorted(map(len, of_shard.values()))


def test_a_worker_that_is_told_to_stop(shards: Path, tmp_path: Path, unbroken: Any, ray_cluster: None) -> None:
    """With one attempt a shard: a worker that died would have cost it."""
    output = tmp_path / "out"
    config = stopping_job(shards, output, kind="ray", num_workers=1, gpus_per_worker=0)
    killer = kill_one_worker(has_begun(output), signal.SIGTERM)
    result = run_job(config)
    killer.join()
    assert not result.failures
    assert attempts(output) == [1, 2], "it did not go on, and another one went on from there"
    assert_whole(config, unbroken)


@pytest.mark.parametrize("kind", ["inline", "ray"])
def test_a_driver_that_is_told_to_stop(shards: Path, tmp_path: Path, unbroken: Any, kind: str) -> None:
    output = tmp_path / "out"
    address = "local" if kind == "ray" else None
    config = stopping_job(shards, output, kind=kind, address=address)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "jobs.cli", "tokenize", "--no-report", str(tmp_path / "job.yaml")]
    driver = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    ends = time.monotonic() + 120
    while not has_begun(output)():
        assert time.monotonic() < ends and driver.poll() is None
        time.sleep(0.02)
    driver.terminate()
    _, said = driver.communicate(timeout=120)
    assert driver.returncode == 143 and "Stopped, as SIGTERM asks." in said, said
    (record,) = (output / "_runs").iterdir()
    assert json.loads(record.read_text())["state"] == "stopped", "so that nobody waits for its heartbeat"
    assert Counter(path.suffix for path in output.glob("_commits/*"))[".json"] < 2
    assert not run_job(unbroken.model_copy(update={"output": str(output)})).failures
    assert_whole(config, unbroken)
