"""Workers that do not start, start late and wrong, or hang: the job goes on with those that work."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.dataset import Dataset
from tests.jobs_for_tests import job, store_of
from tests.media import gradient_frames, make_video, pack_tar
from tests.support import ROOT

NUM_SHARDS = 4
# Loaded by each worker as it starts, and no part of the package. In Ray's own processes PyTorch would hold them up.
START = """
import sys
if any(word.endswith("default_worker.py") for word in sys.orig_argv):
    import worker_hook
"""
# `is_first` holds in one process, once.
HOOK = """
import os, signal, time
from pathlib import Path
import pipeline.worker as worker
from pipeline.errors import ConfigError
folder = Path(os.environ["HOOK_FOLDER"])

def is_first():
    try:
        (folder / "token").unlink()
        return True
    except FileNotFoundError:
        return False

def committed():
    return len(list(folder.glob("out/_commits/*")))
"""
DIES_AS_IT_STARTS = """
real = worker.ShardWorker.__init__
def start(self, order):
    if is_first():
        os.kill(os.getpid(), signal.SIGKILL)
    real(self, order)
worker.ShardWorker.__init__ = start
"""
STARTS_LATE_WITHOUT_ITS_WEIGHTS = """
real = worker.ShardWorker.__init__
def start(self, order):
    if is_first():
        while not committed():
            time.sleep(0.05)
        raise ConfigError("model.checkpoint: there is no such file")
    real(self, order)
worker.ShardWorker.__init__ = start
"""
HANGS = """
real = worker.ShardWorker.tokenize
def tokenize(self, shard):
    if is_first():
        time.sleep(10**6)
    return real(self, shard)
worker.ShardWorker.tokenize = tokenize
"""


@pytest.mark.parametrize(
    ("hook", "executor", "told"),
    [
        (
            DIES_AS_IT_STARTS,
            {"num_workers": 1, "max_attempts": 1},
            "a worker could not start, and another is asked for",
        ),
        (STARTS_LATE_WITHOUT_ITS_WEIGHTS, {"num_workers": 2}, "a worker is left out: model.checkpoint"),
        (HANGS, {"num_workers": 1, "hung_seconds": 3}, "nothing came for 3 s, and its worker is ended"),
    ],
    ids=["dies-as-it-starts", "starts-late-and-wrong", "hangs"],
)
def test_the_job_goes_on(tmp_path: Path, hook: str, executor: dict[str, Any], told: str) -> None:
    for number in range(NUM_SHARDS):
        pack_tar(tmp_path / f"in/{number}.tar", [("a.mp4", make_video(gradient_frames(20)))])
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook/sitecustomize.py").write_text(START)
    (tmp_path / "hook/worker_hook.py").write_text(HOOK + hook)
    (tmp_path / "token").write_text("")
    ray = {"kind": "ray", "address": "local", "cpus_per_worker": 0.5, **executor}
    config = job(tmp_path / "in", tmp_path / "out", clips={"fps": None, "size": 16}, executor=ray)
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'hook'}:{ROOT}", "HOOK_FOLDER": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-m", "jobs.cli", "tokenize", "--no-report", str(tmp_path / "job.yaml")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0 and told in done.stderr, done.stderr
    assert not (tmp_path / "token").exists()
    assert len(list(Dataset.open(store_of(config)).commits())) == NUM_SHARDS
