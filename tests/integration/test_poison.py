"""A shard that kills each worker that takes it is set aside with its history; everything else is done."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.dataset import Dataset
from tests.jobs_for_tests import dataset_rows, job, store_of
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import ROOT

# Loaded by each Python as it starts, and no part of the package: a shard at which the process dies.
POISON = """
import os, signal
import pipeline.flow as flow
real = flow.read_shard

def read_shard(store, shard, **options):
    if shard.path == "1.tar":
        os.kill(os.getpid(), signal.SIGKILL)
    return real(store, shard, **options)

flow.read_shard = read_shard
"""


@pytest.mark.slow
def test_a_poison_shard_is_set_aside_and_done_when_it_is_mended(tmp_path: Path) -> None:
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(POISON)
    for number in range(3):
        pack_tar(tmp_path / f"in/{number}.tar", [("a.mp4", make_video(gradient_frames(20)))])
    executor = {"kind": "ray", "address": "local", "cpus_per_worker": 0.5, "num_workers": 2, "max_attempts": 2}
    config = job(tmp_path / "in", tmp_path / "out", clips={"fps": None, "size": 16}, executor=executor)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))

    def run(hook: str) -> "subprocess.CompletedProcess[str]":
        environment = {**os.environ, "PYTHONPATH": f"{hook}:{ROOT}"}
        command = [sys.executable, "-m", "jobs.cli", "tokenize", "--no-report", str(tmp_path / "job.yaml")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=500)

    done = run(str(tmp_path / "hook"))
    assert done.returncode == 1, done.stderr
    assert "failed 1.tar after 2 attempts: its worker died" in done.stderr, done.stderr
    assert "  attempt 1: its worker died" in done.stderr
    assert len(list(Dataset.open(store_of(config)).commits())) == 2
    # The cause is mended.
    done = run("")
    assert done.returncode == 0, done.stderr
    assert sorted(dataset_rows(config)["source_shard"].to_pylist()) == ["0.tar"] * 2 + ["1.tar"] * 2 + ["2.tar"] * 2
